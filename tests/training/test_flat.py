"""Flat parameters: views of one vector, and clipping that holds for any finite gradient."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from modeflow.densities import Density
from modeflow.errors import ConfigError
from modeflow.flows import NSF
from modeflow.training import TrainConfig, Trainer, flatten
from modeflow.training.flat import FlatParameters, learning_rates


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double())


def test_parameters_and_gradients_are_views_while_attached():
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    flat = FlatParameters(list(model.parameters()))
    flat.attach()
    assert [v.numel() for v in flat.vectors] == [16, 10]
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    (model[0](torch.ones(5, 3)).sum() + model[1](torch.ones(5, 4).double()).sum()).backward()
    assert torch.equal(flat.gradients[0][:12].view(4, 3), torch.full((4, 3), 5.0))
    flat.vectors[0].data.zero_()
    assert not model[0].weight.any()
    flat.zero_grad()
    assert not any(p.grad.any() for p in model.parameters())
    flat.detach()
    flat.vectors[1].data.zero_()
    assert model[1].weight.any() and all(p.grad is None for p in model.parameters())


def test_modules_have_rates_of_their_own():
    """A module says how much faster it learns than others; one within it is not meant."""
    model = net()
    model[1].learning_rate_scale = 10.0
    outer = nn.ModuleList([model])
    outer.learning_rate_scale = 3.0
    outer.own = nn.Parameter(torch.zeros(2))
    parameters = list(outer.parameters())
    assert learning_rates(outer, parameters) == [3.0, 1.0, 1.0, 10.0, 10.0]
    twin = copy.deepcopy(outer)
    assert learning_rates(twin, list(twin.parameters())) == [3.0, 1.0, 1.0, 10.0, 10.0]
    flat = FlatParameters(parameters, learning_rates(outer, parameters))
    assert flat.rates == [3.0, 1.0, 10.0]
    assert [v.numel() for v in flat.vectors] == [2, 16, 10]


def test_a_step_is_as_much_longer():
    one, two = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)

    class Both(Density):
        def __init__(self) -> None:
            super().__init__((2,))
            self.one, self.two = one, two

        def _log_prob(self, x, context):
            return (one(x) + two(x)).squeeze(1)

    two.learning_rate_scale = 7.0
    before = [p.weight.detach().clone() for p in (one, two)]
    config = TrainConfig(
        max_epochs=1,
        batch_size=4,
        learning_rate=1e-3,
        warmup_steps=0,
        schedule="constant",
        gradient_clip=None,
    )
    Trainer(config, quiet=True).fit(Both(), torch.ones(4, 2))
    moved = [p.weight.detach() - old for p, old in zip((one, two), before, strict=True)]
    torch.testing.assert_close(moved[1], 7 * moved[0], rtol=1e-3, atol=0)
    assert bool((moved[0] != 0).all())


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_clipping_holds_for_any_finite_gradient(size):
    model = nn.Linear(3, 4)
    flat = FlatParameters(list(model.parameters()))
    flat.attach()
    flat.gradients[0].fill_(size)
    norm = flat.clip(5.0)
    assert float(norm) == pytest.approx(4 * size, rel=1e-6)
    assert float(flat.gradients[0].norm()) == pytest.approx(min(4 * size, 5.0), rel=1e-5)
    flat.gradients[0][3] = math.nan
    assert not torch.isfinite(flat.clip(5.0))
    flat.gradients[0].fill_(2.0)
    flat.clip(math.inf)
    assert torch.equal(flat.gradients[0], torch.full((16,), 2.0))


def test_convolutions_keep_their_order():
    layer = torch.nn.Conv2d(3, 4, 3)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    flat = FlatParameters(list(layer.parameters()))
    flat.attach()
    assert torch.equal(layer.weight, before) and layer.weight.stride() == before.stride()
    x = torch.randn(2, 3, 5, 5)
    layer(x).square().sum().backward()
    twin = torch.nn.Conv2d(3, 4, 3)
    twin.load_state_dict(layer.state_dict())
    twin(x).square().sum().backward()
    assert torch.allclose(layer.weight.grad, twin.weight.grad, rtol=1e-4, atol=1e-4)
    flat.vectors[0].data.zero_()
    assert not layer.weight.any()
    flat.detach()
    assert layer.weight.stride() == before.stride()


def test_a_loop_of_ones_own_takes_the_steps_of_pytorch():
    torch.manual_seed(0)
    model = NSF(3, layers=2, hidden_features=8, bins=4)
    twin, x = copy.deepcopy(model), torch.randn(200, 3)
    plain = torch.optim.Adam(twin.parameters(), lr=1e-3)
    with flatten(model) as flat:
        optimizer = flat.adam(1e-3)
        for _ in range(5):
            flat.zero_grad()
            plain.zero_grad()
            (-model.log_prob(x).mean()).backward()
            (-twin.log_prob(x).mean()).backward()
            norm = flat.clip(0.5)
            expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            assert norm.item() == pytest.approx(expected.item(), rel=1e-4)
            optimizer.step()
            plain.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5) and one.grad is None
    copy.deepcopy(model).load_state_dict(model.state_dict())


def test_what_cannot_be_flattened_is_said():
    model = net()
    flat = flatten(model)
    with pytest.raises(ConfigError, match="flat already"):
        flatten(model)
    flat.detach()
    flatten(model).detach()
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameters to train"):
        flatten(model)
