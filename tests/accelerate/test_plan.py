"""A flow that is changed after its first call gives what the modules give that it holds now."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from mutations import (
    FLOWS,
    MUTATIONS,
    UNSEEN,
    D,
    applies_to,
    coupling_flow,
    layers_of,
    lu_of,
    main_of,
    place_of,
)
from plans import parts_of
from torch import nn

from modeflow.accelerate.runs import Run
from modeflow.errors import ModeflowError
from modeflow.native import kernels, use_native
from modeflow.nets import ResidualMLP
from modeflow.nets.mlp import linear
from modeflow.testing import perturb
from modeflow.training.flat import FlatParameters
from modeflow.transforms import (
    AffineElementwise,
    Composite,
    ConditionalAffine,
    Coupling,
    MaskedAutoregressive,
)
from modeflow.transforms.spline import rational_quadratic_spline

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")


def everything(flow, on):
    dtype = flow.dtype
    generator = torch.Generator().manual_seed(5)
    x = (1.2 * torch.randn(7, D, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    context = torch.randn(7, flow.context_features, generator=generator, dtype=torch.float64).to(dtype)
    context = context if flow.context_features else None
    with use_native(on):
        flow.zero_grad()
        log_prob = flow.log_prob(x, context)
        (log_prob * torch.arange(7)).sum().backward()
        with torch.no_grad():
            plain = flow.log_prob(x, context)
            back, logabsdet = flow.transform.inverse(0.5 * x, context)
    grads = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
    return [log_prob.detach(), plain, back, logabsdet, x.grad.clone(), *grads]


CASES = [(m, n, torch.float32) for m in MUTATIONS for n in FLOWS if applies_to(m, n)]
CASES += [(m, n, torch.float64) for m, n, _ in CASES if n in ("coupling", "autoregressive")]


@pytest.mark.parametrize(
    ("mutation", "name", "dtype"), CASES, ids=[f"{m.__name__}-{n}-{str(d)[6:]}" for m, n, d in CASES]
)
def test_after_a_change_it_is_what_the_modules_are(mutation, name, dtype):
    flow = perturb(FLOWS[name](), 0.3).to(dtype)
    assert any(isinstance(part, Run) for part in layers_now(flow))
    before = everything(flow, True)
    mutation(flow)
    flow.to(flow.dtype)
    ours, modules = everything(flow, True), everything(flow, False)
    small = 2e-3 if flow.dtype == torch.float32 else 1e-8
    assert len(ours) == len(modules)
    for a, b in zip(ours, modules, strict=True):
        assert torch.allclose(a, b, rtol=small, atol=small * float(1 + b.abs().max()))
    again = everything(flow, True)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    if mutation not in UNSEEN and len(before) == len(ours):
        assert not all(torch.equal(a, b) for a, b in zip(before, ours, strict=True))


def layers_now(flow):
    if flow.dtype == torch.float32:
        return parts_of(flow)
    everything(flow, True)
    return flow.transform._plan.parts(layers_of(flow))


def test_nothing_is_cut_again_while_nothing_changes():
    flow = perturb(coupling_flow())
    parts = parts_of(flow)
    for p in flow.parameters():
        p.data = p.data.clone()
    flow.train().eval()
    assert parts_of(flow) is parts
    handle = main_of(flow).register_forward_hook(lambda *_: None)
    assert parts_of(flow) is layers_of(flow)
    handle.remove()
    assert parts_of(flow) is parts


def test_hooks_on_all_modules_of_the_process_run():
    flow, seen = perturb(coupling_flow()), []
    parts_of(flow)
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: seen.append(type(m)))
    try:
        parts_of(flow)
    finally:
        handle.remove()
    assert Coupling in seen and nn.Linear in seen


def test_copies_and_files_begin_anew():
    flow = perturb(coupling_flow(), 0.3)
    parts_of(flow)
    file = io.BytesIO()
    torch.save(flow, file)
    file.seek(0)
    twins = [copy.deepcopy(flow), torch.load(file, weights_only=False)]
    perturb(flow, 0.5, 3)
    for twin in twins:
        assert all(layer not in list(layers_of(flow)) for run in parts_of(twin) for layer in run.layers)
        ours, modules = everything(twin, True), everything(twin, False)
        assert torch.allclose(ours[0], modules[0], atol=1e-4)
        assert not torch.allclose(ours[0], everything(flow, True)[0], atol=1e-2)


@pytest.mark.parametrize("frozen", [False, True])
def test_in_one_vector_hooks_and_frozen_parameters_are_heeded(frozen):
    flow = perturb(coupling_flow(), 0.3)
    flat = FlatParameters(list(flow.parameters()))
    flat.attach()
    weight = main_of(flow).conditioner.final.weight
    flow.log_prob(torch.ones(5, D)).sum().backward()
    expected = weight.grad.clone()
    flat.zero_grad()
    if frozen:
        weight.requires_grad_(False)
    else:
        weight.register_hook(lambda g: 2 * g)
    flow.log_prob(torch.ones(5, D)).sum().backward()
    factor = 0 if frozen else 2
    assert torch.allclose(weight.grad, factor * expected, rtol=1e-4, atol=1e-5)
    assert float(flat.gradients[0].abs().max()) > 0


@pytest.mark.parametrize("what", ["layer", "conditioner", "weight"])
def test_what_does_not_fit_is_an_error_of_pytorch(what):
    """The kernel would read beyond the end of what it is given."""
    flow = perturb(coupling_flow())
    parts_of(flow)
    layer = main_of(flow)
    if what == "layer":
        layers_of(flow)[place_of(flow, lu_of(flow))] = ConditionalAffine(D + 3)
    elif what == "conditioner":
        layer.conditioner = ResidualMLP(layer.n_kept, 3, 16)
    else:
        layer.conditioner.final.weight = nn.Parameter(torch.zeros(3, 16))
    with pytest.raises((RuntimeError, ModeflowError)):
        flow.log_prob(torch.zeros(2, D))


class Listed(nn.Module):
    """A conditioner of one's own, with layers of its own by the name that a MADE's description has."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([linear(1, 2)])

    def forward(self, x, context=None):
        ones = torch.ones_like(x[:, :1])
        return torch.stack([self.layers[0](ones * i) for i in range(x.shape[1])], 1)


def test_a_conditioner_of_ones_own_is_called():
    layer = Composite([MaskedAutoregressive(perturb(Listed(), 0.5), AffineElementwise())])
    x = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.allclose(layer.inverse(layer(x)[0])[0], x, atol=1e-5)


def test_a_spline_refuses_parameters_of_another_width():
    with pytest.raises((RuntimeError, ModeflowError)):
        rational_quadratic_spline(torch.zeros(3), torch.zeros(3, 12))
