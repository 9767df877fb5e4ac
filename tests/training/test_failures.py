"""A number that is not finite: noticed in time, explained, and nothing good lost."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import config, model, rows

from modeflow.densities import Density, Loss
from modeflow.errors import TrainingError
from modeflow.training import Trainer, diagnose


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


@pytest.mark.parametrize("how", ["forward", "gradient"])
def test_where_looks_are_rare_the_weights_stay_good_and_the_step_is_found(tmp_path, monkeypatch, how):
    """As on a GPU: the step is noticed later, and in the meantime nothing it spoilt is kept."""
    monkeypatch.setitem(diagnose.LOOK_EVERY, "cpu", 8)
    net = Breaks(13, how)
    seen = {}

    def remember(m, x):
        seen["weights"] = {k: v.clone() for k, v in m.state_dict().items()}
        return m.log_prob(x)

    trainer = Trainer(config(batch_size=30, checkpoint_every_steps=15, device="cpu"), tmp_path)
    with pytest.raises(TrainingError, match=r"epoch 2, step 14: .*'scale") as caught:
        trainer.fit(net, rows().float(), rows(50).float(), evaluate=remember)
    assert "Linear" in str(caught.value) or "scale.weight" in str(caught.value)
    stored = load_file(tmp_path / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(v).all() for k, v in stored.items() if v.is_floating_point())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in seen["weights"].items())


def test_rare_looks_change_nothing_where_all_is_well(monkeypatch):
    results = []
    for every in (1, 8):
        monkeypatch.setitem(diagnose.LOOK_EVERY, "cpu", every)
        net = model()
        Trainer(config(max_epochs=2, device="cpu")).fit(net, rows(), rows(60))
        results.append(net.state_dict())
    a, b = results
    assert all(torch.equal(a[k], b[k]) for k in a)


class Chance(Density):
    """One of two branches, drawn anew at each step, ends in NaN when a coin falls on its edge."""

    def __init__(self) -> None:
        super().__init__((2,))
        self.left, self.right = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.drawn: list[str] = []

    def _log_prob(self, x, context):
        return -self.left(x).square().sum(-1)

    def objective(self, x, weight=None, step=None):
        coin = float(torch.rand(()))
        name = "left" if coin < 0.5 else "right"
        self.drawn.append(name)
        h = getattr(self, name)(x * (math.nan if abs(coin - 0.5) < 0.05 else 1.0))
        return Loss(h.square().mean())


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5])
def test_the_diagnosis_repeats_the_very_noise(seed):
    net = Chance()
    with pytest.raises(TrainingError) as caught:
        Trainer(config(seed=seed, max_epochs=50, device="cpu")).fit(net, rows().float())
    *_, failed, repeated = net.drawn
    assert failed == repeated
    assert f"'{failed}' (Linear)" in str(caught.value)


class SwitchedOff(Density):
    """Minus infinity is what its mask is meant to give; the NaN comes later."""

    def __init__(self) -> None:
        super().__init__((2,))
        self.mask, self.last = Masked(), torch.nn.Linear(2, 1)

    def _log_prob(self, x, context):
        return -self.last(x).square().sum(-1)

    def objective(self, x, weight=None, step=None):
        self.mask(x)
        h = self.last(x * math.nan if step == 2 else x)
        return Loss(h.square().mean())


class Masked(torch.nn.Module):
    def forward(self, x):
        return torch.full_like(x, -math.inf)


def test_a_mask_of_minus_infinity_is_not_blamed():
    with pytest.raises(TrainingError, match=r"output of 'last' \(Linear\)"):
        Trainer(config()).fit(SwitchedOff(), rows().float())


def test_a_faulty_row_is_named():
    x = rows()
    x[123, 1] = math.nan
    with pytest.raises(TrainingError, match=r"training row 123 .* is itself not finite"):
        Trainer(config()).fit(model(), x)


def test_after_a_failure_the_trainer_starts_anew():
    """Not from where it had paused: its live weights and its optimiser are no longer to be trusted."""
    x, held = rows().float(), rows(50).float()
    net, trainer = Breaks(13, "forward"), Trainer(config())
    trainer.fit(net, x, held, until_epoch=1)
    with pytest.raises(TrainingError):
        trainer.fit(net, x, held)
    net.at = -1
    fresh = copy.deepcopy(net)
    again, expected = trainer.fit(net, x, held), Trainer(config()).fit(fresh, x, held)
    assert again.steps == expected.steps == 60
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in net.state_dict().items())


class InTwoParts(Density):
    """The second part fails at a step; had the weights been spoilt, the first would seem to."""

    def __init__(self) -> None:
        super().__init__((2,))
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def _log_prob(self, x, context):
        return -self.second(self.first(x)).square().sum(-1)

    def objective(self, x, weight=None, step=None):
        h = self.first(x)
        return Loss(self.second(h * math.nan if step == 13 else h).square().mean())


@pytest.mark.parametrize("every", [1, 8])
def test_the_module_named_is_the_first_to_fail(monkeypatch, every):
    monkeypatch.setitem(diagnose.LOOK_EVERY, "cpu", every)
    with pytest.raises(TrainingError, match=r"epoch 2, step 14: .* output of 'second' \(Linear\)"):
        Trainer(config()).fit(InTwoParts(), rows().float())
