"""Batches: what no step changes of the rows is worked out for many at once, and only that."""

from __future__ import annotations

import pytest
import torch
from small_trainings import config, model, rows
from torch import nn

from modeflow.densities import Preprocessed, StandardNormal
from modeflow.training import Trainer, batches
from modeflow.training.batches import Batches
from modeflow.training.rows import InMemory
from modeflow.transforms import Standardize


@pytest.mark.parametrize("most", [1, 100, 8192])
@pytest.mark.parametrize("first", [0, 3])
def test_batches_are_those_of_the_order_from_anywhere(monkeypatch, most, first):
    monkeypatch.setattr(batches, "_ROWS", most)
    x = torch.arange(600.0).view(300, 2)
    order = InMemory(x, torch.Generator().manual_seed(1))
    taken = Batches(order, 32, lambda part: (part, part.sum(1)))
    for number in range(first, 10):
        index, (part, total) = taken.take(number)
        expected, here = order.take(32 * number, 32 * (number + 1))
        assert torch.equal(index, expected) and torch.equal(part, here) and torch.equal(total, here.sum(1))
    assert len(index) == 300 - 9 * 32


class Moving(Standardize):
    """Another map by a method of its own: what its parent says of itself does not hold."""

    calls = 0

    def forward(self, x, context=None):
        self.calls += 1
        return super().forward(x, context)


def hooked(transform):
    transform.register_forward_hook(lambda *_: None)
    return transform


def trained(transform):
    transform.shift = nn.Parameter(torch.zeros(2))
    return transform


@pytest.mark.parametrize("change", [Moving, hooked, trained])
def test_what_may_change_is_asked_in_every_step(change):
    transform = Moving(2) if change is Moving else change(Standardize(2))
    density = Preprocessed(transform.fit(rows()), StandardNormal(2))
    assert [part.shape for part in density.prepare(rows())] == [(300, 2)]
    settled = Preprocessed(Standardize(2).fit(rows()), StandardNormal(2))
    assert [part.shape for part in settled.prepare(rows())] == [(300, 2), (300,)]


class Doubled(Preprocessed):
    def objective(self, x, weight=None, step=None):
        loss = super().objective(x, weight, step)
        loss.value = 2 * loss.value
        return loss


def test_an_objective_of_ones_own_is_what_is_fitted():
    twice = model()
    twice.__class__ = Doubled
    losses = [
        Trainer(config(max_epochs=1), quiet=True).fit(net, rows()).epochs[-1] for net in (model(), twice)
    ]
    assert losses[1]["train_loss"] == pytest.approx(2 * losses[0]["train_loss"], rel=0.2)
    x, weight = rows(), torch.rand(300)
    net = model(objective="marginal")
    part = tuple(each[40:70] for each in net.prepare(x))
    one, other = net.objective_of(part, weight[40:70], 3), net.objective(x[40:70], weight[40:70], 3)
    assert torch.equal(one.value, other.value) and one.terms == other.terms


def test_training_is_the_same_however_many_are_taken(monkeypatch):
    found = []
    for most in (1, 8192):
        monkeypatch.setattr(batches, "_ROWS", most)
        net = model()
        Trainer(config(max_epochs=2), quiet=True).fit(net, rows(), rows(100))
        found.append(net.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
