"""Conditioners: shapes, masks, the way of the context, gradients, saving."""

from __future__ import annotations

import pytest
import torch

from constructors import NETS
from modeflow.nets import MADE, MaskedLinear, ResidualMADE
from modeflow.testing import jacobian, perturb

cases = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in NETS.items()])


def build(case):
    return perturb(case.factory(), 0.3).double().eval()


def inputs(case, rows=6):
    x = torch.randn(rows, case.features, dtype=torch.float64)
    c = torch.randn(rows, case.context_features, dtype=torch.float64)
    return x, c if case.context_features else None


@cases
@pytest.mark.parametrize("rows", [6, 1, 0])
def test_shapes(case, rows):
    assert build(case)(*inputs(case, rows)).shape == (rows, *case.shape)


@cases
def test_dependence_on_inputs(case):
    if case.features == 0:
        pytest.skip("no inputs")
    net = build(case)
    x, c = inputs(case, 64)
    x.requires_grad_(True)
    seen = (jacobian(net(x, c), x) != 0).any(0)
    if case.masked:
        features, params = case.shape
        expected = torch.ones(features, features).tril(-1).bool().repeat_interleave(params, 0)
        assert torch.equal(seen, expected)
    else:
        assert seen.all()


@cases
def test_every_output_depends_on_every_entry_of_the_context(case):
    if case.context_features == 0:
        pytest.skip("no context")
    net = build(case)
    x, c = inputs(case, 64)
    c.requires_grad_(True)
    assert (jacobian(net(x, c), c) != 0).any(0).all()


@pytest.mark.parametrize("kind", [MADE, ResidualMADE])
def test_the_first_output_is_not_linear_in_the_context(kind):
    # Units of degree zero see the context alone; without them the first output would be linear in it.
    net = perturb(kind(3, 1, (32,) if kind is MADE else 32, context_features=1), 0.5).double()
    c = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]
    y = net(torch.zeros(9, 3, dtype=torch.float64), c)[:, 0, 0].detach()
    assert y.diff(n=2).abs().max() > 1e-3


@cases
def test_gradients_reach_every_parameter(case):
    if case.masked and case.features == 1 and case.context_features == 0:
        pytest.skip("the output is a constant: a ReLU may be dead for good")
    net = build(case)
    x, c = inputs(case, 64)
    net(x, c).sin().sum().backward()
    for name, module in net.named_modules():
        for key, p in module.named_parameters(recurse=False):
            dead = isinstance(module, MaskedLinear) and key == "weight" and not module.mask.any()
            if p.numel() and not dead:
                assert torch.isfinite(p.grad).all()
                assert p.grad.abs().max() > 0, f"{name}.{key}"


def test_masked_weights_do_not_act_and_get_no_gradient():
    net = perturb(MADE(4, 2, (16,)), 0.3)
    net(torch.randn(5, 4)).sum().backward()
    for layer in net.modules():
        if isinstance(layer, MaskedLinear):
            assert (layer.weight.grad[layer.mask == 0] == 0).all()
            changed = layer.weight.detach() + 100 * (1 - layer.mask)
            x = torch.randn(3, layer.in_features)
            before = layer(x)
            with torch.no_grad():
                layer.weight.copy_(changed)
            assert torch.equal(layer(x), before)


def test_narrow_layers_still_reach_the_last_features():
    net = perturb(MADE(20, 1, (6,)), 0.3).double()
    x = torch.randn(8, 20, dtype=torch.float64, requires_grad=True)
    seen = (jacobian(net(x), x) != 0).any(0)
    assert seen[-1].any()
    assert seen[:, :15].any(0).sum() >= 3
    assert not torch.triu(seen).any()


def test_dropout_acts_in_training_only():
    net = perturb(ResidualMADE(3, 2, 32, dropout=0.5), 0.3)
    x = torch.randn(4, 3)
    net.eval()
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))


@cases
def test_state_loads_into_a_new_network(case):
    torch.manual_seed(1)
    a, b = build(case), case.factory().double()
    b.load_state_dict(a.state_dict())
    x, c = inputs(case)
    assert torch.equal(a(x, c), b.eval()(x, c))
