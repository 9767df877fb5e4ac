"""The trainer: what it optimises, keeps, logs, and how it stops."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time

import pytest
import torch
from small_trainings import config, model, noise, rows

from modeflow.densities import Density, Flow, Loss, StandardNormal
from modeflow.errors import ConfigError, DataError, TrainingError
from modeflow.training import TrainConfig, Trainer, seeded
from modeflow.transforms import ConditionalAffine


def gaussian() -> Flow:
    return Flow(ConditionalAffine(2), StandardNormal(2))


def state(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_gaussian_is_fitted_to_its_maximum_likelihood():
    x = 0.5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -2.0])
    net = gaussian()
    history = Trainer(config(max_epochs=80, batch_size=100, learning_rate=0.1)).fit(net, x)
    m, s = net.transform.table[0].split(2)
    assert torch.allclose(m, x.mean(0), atol=0.01)
    assert torch.allclose(s.exp(), x.std(0, unbiased=False), rtol=0.02)
    assert history.steps == 80 * 5
    assert history.stopped == "max_epochs"


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
    a, b, c = (next(iter(n.model.posterior_net.parameters())) for n in (start, averaged, plain))
    # An average with so long a memory has hardly moved.
    assert 0 < (b - a).norm() < 0.1 * (c - a).norm()


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


def test_tensorboard_missing_or_written(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"pip install 'modeflow\[tensorboard\]'"):
            Trainer(config(tensorboard=True), tmp_path).fit(model(), rows())
        return
    Trainer(config(max_epochs=1, tensorboard=True), tmp_path).fit(model(), rows())
    assert list((tmp_path / "tensorboard").iterdir())


# -- what goes wrong


class Breaks(Density):
    """Gaussian whose loss becomes NaN at a step, in one module, under one term."""

    def __init__(self, at: int, how: str) -> None:
        super().__init__((2,))
        self.scale = torch.nn.Linear(2, 2)
        self.at, self.how = at, how

    def _log_prob(self, x, context):
        return -self.scale(x).square().sum(-1)

    def objective(self, x, weight=None, step=None):
        h = self.scale(x)
        if step == self.at and self.how == "forward":
            h = self.scale(x * math.nan)
        extra = (h * 0).abs().sqrt().sum() if step == self.at and self.how == "gradient" else h.sum() * 0
        nll = h.square().mean() + extra
        return Loss(nll, {"nll": nll.detach(), "other": torch.zeros(())})


@pytest.mark.parametrize(
    ("how", "says"),
    [("forward", r"'scale' \(Linear\)"), ("gradient", "non-finite gradient is 'scale.weight'")],
)
def test_a_loss_that_is_not_finite_is_explained(tmp_path, how, says):
    net = Breaks(13, how)
    trainer = Trainer(config(batch_size=30, checkpoint_every_steps=5), tmp_path)
    with pytest.raises(TrainingError, match=says) as caught:
        trainer.fit(net, rows().float(), rows(50).float())
    message = str(caught.value)
    assert "epoch 2, step 14" in message
    assert "\n" not in message
    if how == "forward":
        assert "term 'nll'" in message
    assert all(torch.isfinite(v).all() for v in net.state_dict().values())
    assert (tmp_path / "checkpoints" / "last.safetensors").exists()


def test_no_rows():
    with pytest.raises(DataError, match="no rows"):
        Trainer(config()).fit(model(), rows()[:0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_epochs": 0}, "max_epochs must be an integer of 1 or more"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"learning_rate": -1.0}, "learning_rate must be a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"optimizer": "sgd"}, "adam, adamw"),
        ({"ema": 1.0}, "ema must be a number above 0 and below 1"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
        ({"precision": "16"}, "precision must be one of"),
        ({"patience": 0}, "patience must be"),
    ],
)
def test_bad_settings_are_named(options, says):
    with pytest.raises(ConfigError, match=says):
        config(**options)


def test_unknown_settings_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TrainConfig.from_dict({"learning_rat": 0.1})


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
    history = Trainer(config(), tmp_path).fit(net, rows(), rows(50), augment=interrupting)
    assert history.interrupted
    assert history.stopped == "interrupted"
    assert history.steps == 1
    assert signal.getsignal(signal.SIGINT) is previous
    whole = model()
    Trainer(config()).fit(whole, rows(), rows(50), augment=lambda b, g: b)
    Trainer(config(), tmp_path).fit(net, rows(), rows(50), augment=lambda b, g: b, resume=True)
    assert same(state(whole), state(net))


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
