"""Gradients without keeping activations equal those with them."""

from __future__ import annotations

import pytest
import torch

from modeflow.errors import ConfigError
from modeflow.flows import MAF, NSF, FlowPlusPlus, Glow, RealNVP, RealNVPImage, build_flow
from modeflow.testing import perturb
from modeflow.training import TrainConfig, Trainer
from modeflow.transforms import set_activations
from modeflow.transforms.activations import ACTIVATIONS

CASES = {
    "glow": (lambda c: Glow((2, 8, 8), c, levels=2, steps=3, hidden_channels=8), (2, 8, 8)),
    "realnvp-image": (lambda c: RealNVPImage((1, 8, 8), c, hidden_channels=8), (1, 8, 8)),
    "spline": (lambda c: NSF(5, c, layers=4, hidden_features=12), (5,)),
    "affine": (lambda c: RealNVP(5, c, layers=4, hidden_features=12), (5,)),
    "mixture": (lambda c: FlowPlusPlus(4, c, layers=2, hidden_features=12, components=3), (4,)),
    "autoregressive": (lambda c: MAF(4, c, layers=3, hidden_features=(12,)), (4,)),
    "residual": (lambda c: build_flow("residual", 3, c, {"layers": 3, "hidden_features": (8,)}), (3,)),
    "surjective": (lambda c: build_flow("funnel", 4, c), (4,)),
}


def gradients(flow, x, context, kind):
    set_activations(flow, kind)
    flow.zero_grad()
    x = x.clone().requires_grad_()
    context = None if context is None else context.clone().requires_grad_()
    torch.manual_seed(1)
    value = flow.log_prob(x, context)
    value.sin().sum().backward()
    inputs = [x] if context is None else [x, context]
    return value.detach(), [t.grad for t in [*inputs, *flow.parameters()]]


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("kind", ["recompute", "invert"])
def test_values_and_gradients_are_the_same(name, kind, context):
    recipe, shape = CASES[name]
    # Residual layers move their power iterations on at every evaluation in training.
    flow = perturb(recipe(context).double(), 0.1).train(name != "residual")
    x = 0.5 * torch.randn(5, *shape, dtype=torch.float64)
    c = torch.randn(5, context, dtype=torch.float64) if context else None
    gradients(flow, x, c, "keep")  # sets what the first batch sets
    value, expected = gradients(flow, x, c, "keep")
    again, found = gradients(flow, x, c, kind)
    assert torch.allclose(value, again)
    for a, b in zip(expected, found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-8 * float(1 + a.abs().max()))


def test_less_is_kept():
    flow = Glow((2, 8, 8), levels=1, steps=12, hidden_channels=16).train()
    x = torch.rand(4, 2, 8, 8)
    flow.log_prob(x)
    kept = {}
    for kind in ACTIVATIONS:
        set_activations(flow, kind)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            flow.log_prob(x).sum()
        kept[kind] = sum(sizes)
    assert kept["recompute"] < 0.2 * kept["keep"] and kept["invert"] < 0.6 * kept["recompute"]


def test_another_kind_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'invert'"):
        set_activations(RealNVP(2), "inverted")


def test_a_training_with_less_memory_ends_at_the_same_place():
    x = torch.randn(200, 3)
    found = {}
    for kind in ("keep", "invert"):
        torch.manual_seed(0)
        flow = perturb(RealNVP(3, layers=3, hidden_features=8), 0.1)
        history = Trainer(TrainConfig(max_epochs=3, activations=kind, batch_size=50), quiet=True).fit(flow, x)
        assert history.steps == 12
        found[kind] = flow.log_prob(x).mean()
    assert torch.allclose(found["keep"], found["invert"], atol=1e-4)
    with pytest.raises(ConfigError, match="activations must be 'keep'"):
        TrainConfig(activations="none")
