"""Several processes give what one gives, up to rounding, and fail as one does."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from small_trainings import config, model, noise, rows

from modeflow.densities import Flow, StandardNormal
from modeflow.errors import ConfigError, TrainingError
from modeflow.training import Trainer
from modeflow.transforms import ConditionalAffine

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(),
    reason="processes cannot be forked here (a process that has used CUDA cannot be forked either)",
)


def gaussian() -> Flow:
    return Flow(ConditionalAffine(2), StandardNormal(2))


def agree(one, two, h, k):
    assert k.steps == h.steps
    for name, value in one.state_dict().items():
        assert torch.allclose(value, two.state_dict()[name], atol=1e-4), name
    for a, b in zip(h.epochs, k.epochs, strict=True):
        assert a.keys() == b.keys()
        for key in ("train_loss", "nll", "validation"):
            assert key not in a or abs(a[key] - b[key]) < 1e-4, key


def test_two_processes_agree_with_one(tmp_path):
    # The deterministic objective: a batch is shared out, and its gradient is the sum of the shares'.
    # Batches of 33 in shares of 17 and 16, and a last one of a single row, of which one process has none.
    x, held = rows(133)[:100], rows(60)
    one, two = model(objective="marginal"), model(objective="marginal")
    given = {"weight": torch.linspace(0, 2, 100), "augment": noise}
    settings = {"max_epochs": 3, "batch_size": 33}
    h = Trainer(config(**settings, device="cpu")).fit(one, x, held, **given)
    k = Trainer(config(**settings, device="cpu", devices=2), tmp_path).fit(two, x, held, **given)
    agree(one, two, h, k)


@needs_fork
def test_forked_processes_pause_and_go_on_without_a_folder():
    x = rows(100).float()
    one, two = gaussian(), gaussian()
    h = Trainer(config(max_epochs=4)).fit(one, x, x)
    trainer = Trainer(config(max_epochs=4, device="cpu", devices=2, strategy="ddp_fork"))
    assert trainer.fit(two, x, x, until_epoch=2).stopped == "until_epoch"
    agree(one, two, h, trainer.fit(two, x, x))


class Breaks(Flow):
    def objective(self, x, weight=None, step=None):
        loss = super().objective(x, weight, step)
        if step == 13:
            loss.value = loss.value * math.nan
        return loss


@needs_fork
def test_a_failure_in_processes_is_one_line(tmp_path):
    net = Breaks(ConditionalAffine(2), StandardNormal(2))
    x = rows().float()
    settings = config(device="cpu", devices=2, strategy="ddp_fork", learning_rate=0.1)
    with pytest.raises(TrainingError, match="epoch 2, step 14: the loss is not finite") as caught:
        Trainer(settings, tmp_path).fit(net, x, x)
    assert "\n" not in str(caught.value)
    # The best weights so far are those after the first epoch.
    one = Breaks(ConditionalAffine(2), StandardNormal(2))
    Trainer(config(learning_rate=0.1)).fit(one, x, x, until_epoch=1)
    for name, value in one.state_dict().items():
        assert torch.allclose(value, net.state_dict()[name], atol=1e-4), name


class Slow:
    """Slows the steps down, and leaves a mark that they are under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, batch, generator):
        (self.folder / "alive").touch()
        time.sleep(0.005)
        return batch


@needs_fork
def test_a_signal_to_the_parent_ends_all_processes(tmp_path):
    def interrupt():
        while not (tmp_path / "alive").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    net, x = gaussian(), rows().float()
    settings = config(device="cpu", devices=2, strategy="ddp_fork", max_epochs=500)
    thread = threading.Thread(target=interrupt)
    thread.start()
    previous = signal.getsignal(signal.SIGINT)
    trainer = Trainer(settings, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(net, x, x, augment=Slow(tmp_path))
    history = trainer.history
    thread.join()
    assert (history.stopped, history.interrupted) == ("interrupted", True)
    assert 0 < history.steps < 5000
    assert signal.getsignal(signal.SIGINT) is previous


def test_what_cannot_be_sent_to_a_process_is_named():
    with pytest.raises(ConfigError, match="augment must be a function"):
        Trainer(config(device="cpu", devices=2)).fit(gaussian(), rows().float(), augment=lambda b, g: b)


def test_bf16_training_reports_full_precision():
    net = model(objective="truncated")
    history = Trainer(config(max_epochs=2, precision="bf16-mixed")).fit(net, rows(), rows(60))
    assert all(p.dtype == torch.float32 for p in net.parameters())
    with torch.no_grad():
        exact = float(net.double().log_prob(rows(60)).mean())
    assert abs(exact - history.best_validation) < 1e-4
