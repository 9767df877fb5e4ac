"""The trainer: what it optimises, keeps, logs, and how it stops."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import pytest
import torch
from small_trainings import config, model, noise, rows

from modeflow import optimisers
from modeflow.densities import Flow, StandardNormal
from modeflow.errors import ConfigError, DataError, TrainingError
from modeflow.training import TrainConfig, Trainer, seeded
from modeflow.training.tail import Tail
from modeflow.transforms import ConditionalAffine


def gaussian() -> Flow:
    return Flow(ConditionalAffine(2), StandardNormal(2))


def state(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a)


def test_a_gaussian_is_fitted_to_its_maximum_likelihood():
    x = 0.5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -2.0])
    net = gaussian()
    history = Trainer(config(max_epochs=80, batch_size=100, learning_rate=0.1)).fit(net, x)
    m, s = net.transform.table[0].split(2)
    assert torch.allclose(m, x.mean(0), atol=0.01)
    assert torch.allclose(s.exp(), x.std(0, unbiased=False), rtol=0.02)
    assert history.steps == 80 * 5
    assert history.stopped == "max_epochs"


class Idle(Flow):
    """A Gaussian beside a parameter that its likelihood does not depend on."""

    def __init__(self):
        super().__init__(ConditionalAffine(2), StandardNormal(2))
        self.idle = torch.nn.Parameter(torch.full((3,), 2.0))

    def _log_prob(self, x, context):
        return super()._log_prob(x, context) + 0 * self.idle.sum()


class IdleMatrix(Idle):
    """One whose idle parameter is the matrix of a layer; its bias, and a layer that says so, do not decay."""

    def __init__(self):
        super().__init__()
        self.layer, self.kept = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        self.kept.decays = False
        for p in (*self.layer.parameters(), *self.kept.parameters()):
            torch.nn.init.constant_(p, 2.0)

    def _log_prob(self, x, context):
        idle = (*self.layer.parameters(), *self.kept.parameters())
        return super()._log_prob(x, context) + 0 * sum(p.sum() for p in idle)


def test_weight_decay_is_decoupled_and_of_matrices_alone():
    # As a term of the loss (L2) Adam would turn it into steps of the size of the learning rate: to 2 - 0.6.
    net, x = IdleMatrix(), rows()
    settings = {"learning_rate": 0.02, "weight_decay": 0.5, "schedule": "constant", "warmup_steps": 0}
    history = Trainer(config(max_epochs=3, batch_size=30, **settings)).fit(net, x)
    assert history.steps == 30
    assert torch.allclose(net.layer.weight, torch.tensor(2 * (1 - 0.02 * 0.5) ** 30), rtol=1e-5)
    for still in (net.idle, net.layer.bias, net.kept.weight, net.kept.bias):
        assert bool((still == 2).all())


def test_weights_act_as_repetitions():
    x = torch.tensor([[0.0, 0.0], [4.0, 2.0]])
    weight = torch.tensor([1.5, 0.5])
    net = gaussian()
    Trainer(config(max_epochs=600, batch_size=2, learning_rate=0.05)).fit(net, x, weight=weight)
    assert torch.allclose(net.transform.table[0, :2], torch.tensor([1.0, 0.5]), atol=0.02)


def test_the_best_weights_are_kept_and_epoch_zero_is_one_of_them():
    net, x = model(objective="truncated"), rows()
    before = state(net)
    # A learning rate that ruins the model at once: the start stays the best.
    history = Trainer(config(learning_rate=3.0, warmup_steps=0, gradient_clip=None)).fit(net, x, rows(80))
    assert history.best_epoch == 0
    assert same(before, state(net))
    assert not net.training
    values = [row["validation"] for row in history.epochs]
    assert history.best_validation == max(values) == values[0]
    with torch.no_grad():
        assert math.isclose(float(net.log_prob(rows(80)).double().mean()), values[0], rel_tol=1e-6)


def test_patience_stops():
    history = Trainer(config(max_epochs=50, learning_rate=3.0, patience=4)).fit(model(), rows(), rows(80))
    assert history.stopped == "patience"
    assert history.epochs[-1]["epoch"] == history.best_epoch + 4


def test_a_plateau_ends_in_a_tail():
    """Constant until patience is used up, then to zero over half as many steps again."""
    # A learning rate that ruins the model at once: patience is used up after eight epochs of two steps.
    settings = config(schedule="plateau", max_epochs=60, learning_rate=3.0, patience=8, warmup_steps=0)
    history = Trainer(settings).fit(model(objective="truncated"), rows(64), rows(80))
    assert (history.stopped, history.steps) == ("patience", 24)
    rates = [row["learning_rate"] for row in history.epochs[1:]]
    assert rates == pytest.approx([3.0] * 8 + [3.0 * part / 8 for part in (7, 5, 3, 1)])


def test_the_tail_begins_at_the_best_weights(monkeypatch):
    """What was lost on the plateau is not annealed: the first step of the tail starts at the best."""
    net, x = model(objective="truncated"), rows(64)
    settings = config(schedule="plateau", max_epochs=60, learning_rate=3.0, patience=2, warmup_steps=0)
    start, firsts = state(net), []
    plain = Tail.after

    def after(*args):
        firsts.append(None)
        return plain(*args)

    def watch(batch, generator):
        if firsts == [None]:
            firsts[0] = state(net)
        return batch

    monkeypatch.setattr(Tail, "after", after)
    history = Trainer(settings).fit(net, x, rows(80), augment=watch)
    assert history.best_epoch == 0 and same(firsts[0], start)


@pytest.mark.parametrize("validation", [None, 80])
def test_a_plateau_without_patience_or_validation_anneals_within_the_budget(validation):
    settings = config(schedule="plateau", max_epochs=10, patience=None, warmup_steps=0)
    held = None if validation is None else rows(validation)
    history = Trainer(settings).fit(model(objective="truncated"), rows(32), held)
    assert (history.stopped, history.steps) == ("max_epochs", 10)
    rates = [row["learning_rate"] for row in history.epochs[1:]]
    assert rates == pytest.approx([1e-3] * 7 + [7.5e-4, 5e-4, 2.5e-4])  # six steps, then four down to zero


def test_an_average_forgets_where_training_began():
    """With a decay of 0.999 the average of 50 steps used to be 95 hundredths the start."""
    net, x = model(objective="truncated"), rows(64)
    history = Trainer(config(max_epochs=25, ema=0.999, learning_rate=0.02)).fit(net, x, rows(80))
    best = Trainer(config(max_epochs=25, learning_rate=0.02)).fit(model(objective="truncated"), x, rows(80))
    gains = [h.best_validation - h.epochs[0]["validation"] for h in (history, best)]
    assert gains[0] > 0.5 * gains[1]


def test_training_neither_reads_nor_disturbs_the_global_generator():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.get_rng_state()
        net = model()
        Trainer(config(max_epochs=2)).fit(net, rows(), rows(50), augment=noise)
        assert torch.equal(torch.get_rng_state(), expected)
        results.append(state(net))
    assert same(*results)


def test_every_step_has_noise_of_its_own_and_the_same_again():
    def remember(batch, generator):
        drawn.append(float(torch.rand((), generator=generator)))
        return batch

    drawn: list[float] = []
    for _ in range(2):
        Trainer(config(max_epochs=2)).fit(model(), rows(), augment=remember)
    assert drawn[:20] == drawn[20:]
    assert len(set(drawn)) == 20


def test_the_seed_changes_the_result():
    results = []
    for seed in (1, 2):
        net = model()
        Trainer(config(max_epochs=2, seed=seed)).fit(net, rows())
        results.append(state(net))
    assert not same(*results)


def test_ema_weights_are_what_is_kept():
    plain, averaged = model(objective="truncated"), model(objective="truncated")
    Trainer(config(max_epochs=1)).fit(plain, rows())
    Trainer(config(max_epochs=1, ema=0.999)).fit(averaged, rows())
    start = model(objective="truncated")
    a, b, c = (next(iter(n.model.encoder.parameters())) for n in (start, averaged, plain))
    # The average is on its way to where training went.
    assert 0 < (c - b).norm() < (c - a).norm()
    assert 0 < (b - a).norm() < (c - a).norm()


@pytest.mark.parametrize("pauses", [[2], [1, 4]])
def test_a_pause_changes_nothing(pauses):
    whole, parts = model(), model()
    h = Trainer(config()).fit(whole, rows(), rows(80), augment=noise)
    trainer = Trainer(config())
    for until in pauses:
        paused = trainer.fit(parts, rows(), rows(80), augment=noise, until_epoch=until)
        assert paused.stopped == "until_epoch"
        assert paused.epochs[-1]["epoch"] == until
    k = trainer.fit(parts, rows(), rows(80), augment=noise)
    assert same(state(whole), state(parts))
    assert [r["validation"] for r in h.epochs] == [r["validation"] for r in k.epochs]


def test_a_paused_model_holds_the_best_weights_so_far():
    net, trainer = model(objective="truncated"), Trainer(config(learning_rate=3.0, warmup_steps=0))
    before = state(net)
    paused = trainer.fit(net, rows(), rows(80), until_epoch=2)
    assert paused.best_epoch == 0
    assert same(before, state(net))
    assert not net.training
    rows_then = len(paused.epochs)
    trainer.fit(net, rows(), rows(80), until_epoch=4)
    assert len(paused.epochs) == rows_then, "the history handed out changed afterwards"


def test_a_finished_trainer_called_again_returns_at_once():
    net, trainer = model(), Trainer(config(max_epochs=2))
    h = trainer.fit(net, rows(), rows(50), until_epoch=2)
    best = state(net)
    k = trainer.fit(net, rows(), rows(50), augment=lambda b, g: pytest.fail("trained again"))
    assert h == k
    assert same(best, state(net))


def test_other_rows_are_never_taken_for_those_before():
    net, trainer = gaussian(), Trainer(config(max_epochs=2))
    x = rows().float()
    trainer.fit(net, x, until_epoch=1)
    with pytest.raises(TrainingError, match="paused the model on other rows"):
        trainer.fit(net, x + 1)
    trainer.fit(net, x)
    far = trainer.fit(net, x + 100)
    assert [row["epoch"] for row in far.epochs] == [0, 1, 2]
    assert far.epochs[1]["train_loss"] > 1000


def test_validation_is_weighted_rarer_and_by_what_is_asked():
    net, held = gaussian(), rows(80).float()
    weight = torch.linspace(0, 2, 80)
    with torch.no_grad():
        expected = float((net.log_prob(held) * weight).mean())
    plain = Trainer(config(evaluate_every=4)).fit(net, rows().float(), held, validation_weight=weight)
    assert plain.epochs[0]["validation"] == pytest.approx(expected, rel=1e-6)
    # The last epoch is always scored.
    assert [row["epoch"] for row in plain.epochs if "validation" in row] == [0, 4, 6]
    asked = Trainer(config(max_epochs=1)).fit(net, held, held, evaluate=lambda m, x: m.log_prob(x) * 0 + 7)
    assert asked.best_validation == 7


def test_float64_training_is_float64():
    net = gaussian()
    Trainer(config(max_epochs=1, precision="64-true")).fit(net, rows().float(), rows(60).float())
    assert {p.dtype for p in net.parameters()} == {torch.float64}


def test_the_learning_rate_rises_and_falls():
    c = TrainConfig(warmup_steps=10, learning_rate=1.0)
    rates = [c.learning_rate_at(s, 1000) for s in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 1e-4
    flat = TrainConfig(warmup_steps=0, schedule="constant", learning_rate=0.5)
    assert {flat.learning_rate_at(s, 50) for s in range(50)} == {0.5}


# -- logs


def test_the_log_has_a_line_for_every_epoch(tmp_path):
    history = Trainer(config(max_epochs=3), tmp_path).fit(model(), rows(), rows(50))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.epochs
    assert [r["epoch"] for r in lines] == [0, 1, 2, 3]
    assert {"train_loss", "nll", "kl", "validation", "usage_entropy", "learning_rate", "seconds"} <= set(
        lines[1]
    )


def test_silent_where_stderr_is_no_terminal(capfd):
    Trainer(config(max_epochs=2)).fit(model(), rows())
    assert capfd.readouterr() == ("", "")


def test_heavy_packages_are_imported_only_when_used():
    program = (
        "import sys, modeflow.training; print([m for m in ('rich', 'lightning_fabric', 'tensorboard', "
        "'safetensors', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_does_not_wait_for_a_compiler():
    """`torch._dynamo` takes seconds to import, which a short fit does not have."""
    program = (
        "import sys, torch\n"
        "from modeflow.flows import NSF\n"
        "from modeflow.training import TrainConfig, Trainer\n"
        "Trainer(TrainConfig(max_epochs=1), quiet=True).fit(NSF(2, layers=1), torch.randn(64, 2))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_optimisers_step_as_those_of_torch(name):
    """Bit for bit, their state too, and after it was given to another."""
    found = []
    for kind in (getattr(optimisers, name), getattr(torch.optim, name)):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(7)) for _ in range(2)]

        def made(weights=weights, kind=kind):
            groups = [{"params": [weights[0]], "weight_decay": 0.1}, {"params": [weights[1]]}]
            return kind(groups, lr=0.1, fused=True)

        optimiser = made()
        for step in range(6):
            if step == 3:
                state, optimiser = optimiser.state_dict(), made()
                optimiser.load_state_dict(state)
            optimiser.zero_grad()
            sum((w.sin() * (step + 1)).sum() for w in weights).backward()
            optimiser.step()
        found.append([*weights, *optimiser.state_dict()["state"][1].values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


END = "<end>"


def on_a_terminal(monkeypatch, quiet):
    """What a training writes to stderr where that is a terminal."""
    master, slave = os.openpty()
    # In a window of 24 lines of 120 characters.
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with monkeypatch.context() as patch, os.fdopen(slave, "w") as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        Trainer(config(max_epochs=2), quiet=quiet, description="a fit").fit(model(), rows(), rows(50))
        stream.write(END)
        stream.flush()
        written = ""
        while not written.endswith(END):  # a terminal hands out what it holds in pieces
            written += os.read(master, 1 << 16).decode(errors="replace")
    os.close(master)
    return written.removesuffix(END)


def test_a_terminal_shows_progress_on_stderr_alone(monkeypatch, capfd):
    shown = on_a_terminal(monkeypatch, quiet=False)
    for part in ("a fit", "epoch 2/2", "validation", "best", "left"):
        assert part in shown, part
    assert on_a_terminal(monkeypatch, quiet=True) == ""
    assert capfd.readouterr().out == ""


def test_forced_colours_do_not_make_a_terminal(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Trainer(config(max_epochs=1)).fit(model(), rows())
    assert capfd.readouterr() == ("", "")


def test_tensorboard_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'modeflow\[tensorboard\]'"):
        Trainer(config(tensorboard=True), tmp_path).fit(model(), rows())


def test_tensorboard_written(tmp_path):
    pytest.importorskip("tensorboard")
    Trainer(config(max_epochs=1, tensorboard=True), tmp_path).fit(model(), rows())
    assert list((tmp_path / "tensorboard").iterdir())


# -- what goes wrong


def test_rows_that_cannot_be_used():
    with pytest.raises(DataError, match="no rows"):
        Trainer(config()).fit(model(), rows()[:0])
    with pytest.raises(DataError, match="no validation rows"):
        Trainer(config()).fit(model(), rows(), rows()[:0])
    with pytest.raises(DataError, match=r"weight must have one number a row, shape \(300,\)"):
        Trainer(config()).fit(model(), rows(), weight=torch.ones(300, 1))


def test_nothing_to_train():
    with pytest.raises(ConfigError, match="StandardNormal has no parameters to train"):
        Trainer(config()).fit(StandardNormal(2), rows())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_epochs": 0}, "max_epochs must be an integer of 1 or more"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"learning_rate": -1.0}, "learning_rate must be a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"ema": 1.0}, "ema must be a number above 0 and below 1"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
        ({"precision": "16"}, "precision must be '32-true', '64-true' or 'bf16-mixed'"),
        ({"patience": 0}, "patience must be"),
        ({"patience": True}, "patience must be"),
        ({"strategy": "ddp_spwan"}, "did you mean 'ddp_spawn'"),
        ({"tensorboard": 1}, "tensorboard must be true or false"),
        ({"learning_rate": math.inf}, "learning_rate must be a number"),
        ({"gradient_clip": 0.0}, "gradient_clip must be a number above 0"),
        ({"checkpoint_every_seconds": -1}, "checkpoint_every_seconds must be a number of 0 or more"),
    ],
)
def test_bad_settings_are_named(options, says):
    with pytest.raises(ConfigError, match=says):
        config(**options)


def test_unknown_settings_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TrainConfig.of({"learning_rat": 0.1}, "training")


def test_settings_survive_json_whatever_their_type():
    c = TrainConfig(max_epochs=np.int64(3), learning_rate=np.float32(0.5), gradient_clip=np.float64(2))
    assert TrainConfig.of(json.loads(json.dumps(c.to_dict())), "training") == c


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_said():
    with pytest.raises(ConfigError, match="no CUDA device"):
        Trainer(config(device="cuda")).fit(model(), rows())


def test_ctrl_c_saves_and_ends(tmp_path):
    def interrupting(batch, generator):
        if not fired:
            fired.append(True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return batch

    fired: list[bool] = []
    net, previous = model(), signal.getsignal(signal.SIGINT)
    trainer = Trainer(config(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(net, rows(), rows(50), augment=interrupting)
    history = trainer.history
    assert history.interrupted
    assert history.stopped == "interrupted"
    assert history.steps == 1
    assert signal.getsignal(signal.SIGINT) is previous
    whole = model()
    Trainer(config()).fit(whole, rows(), rows(50), augment=lambda b, g: b)
    Trainer(config(), tmp_path).fit(net, rows(), rows(50), augment=lambda b, g: b, resume=True)
    assert same(state(whole), state(net))


def test_sigterm_ends_as_ctrl_c_does_and_training_goes_on_in_memory():
    def terminating(batch, generator):
        calls.append(1)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    calls: list[int] = []
    heard: list[int] = []
    net, whole = model(), model()
    trainer = Trainer(config())
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        history = trainer.fit(net, rows(), rows(50), augment=terminating)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert (history.stopped, history.steps) == ("interrupted", 13)
    again = trainer.fit(net, rows(), rows(50), augment=terminating)
    assert (again.stopped, again.interrupted) == ("max_epochs", False)
    Trainer(config()).fit(whole, rows(), rows(50), augment=lambda b, g: b)
    assert same(state(whole), state(net))


def test_a_second_ctrl_c_ends_at_once_with_the_best_weights():
    def insisting(batch, generator):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    net, previous = model(), signal.getsignal(signal.SIGINT)
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config()).fit(net, rows(), rows(50), augment=insisting)
    assert signal.getsignal(signal.SIGINT) is previous
    assert same(before, state(net))
    assert not net.training


def test_outside_the_main_thread_signals_are_left_alone():
    results = []
    thread = threading.Thread(
        target=lambda: results.append(Trainer(config(max_epochs=1)).fit(model(), rows()))
    )
    thread.start()
    thread.join()
    assert results[0].stopped == "max_epochs"


def test_seeded_restores_the_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with seeded(7):
        a = torch.rand(3)
    with seeded(7):
        b = torch.rand(3)
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_ignored_signal_stays_ignored():
    """A job in the background ignores Ctrl-C; its training must not end by one meant for another."""

    def interrupting(batch, generator):
        os.kill(os.getpid(), signal.SIGINT)
        return batch

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = Trainer(config(max_epochs=1)).fit(model(), rows(), augment=interrupting)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (history.stopped, history.interrupted) == ("max_epochs", False)
