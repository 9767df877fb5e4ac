"""A native run of layers against the modules it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from plans import parts_of

from modeflow.accelerate.runs import Run
from modeflow.flows import MAF, NICE, NSF, FlowPlusPlus, RealNVP, build_flow
from modeflow.native import kernels, use_native
from modeflow.testing import perturb
from modeflow.training.flat import FlatParameters
from modeflow.transforms import Coupling, MaskedAutoregressive

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")
ISAS = kernels.available() if kernels is not None else []


def in_runs(flow):
    """Whether its couplings or autoregressive layers go by the kernel."""
    layers = [layer for part in parts_of(flow) if isinstance(part, Run) for layer in part.layers]
    return any(isinstance(layer, Coupling | MaskedAutoregressive) for layer in layers)


CASES = {
    "one feature": (NSF, 1, 0, {"hidden_features": 8}),
    "one feature, context": (NSF, 1, 2, {"hidden_features": 8}),
    "two": (NSF, 2, 3, {"hidden_features": 64, "blocks": 1}),
    "five": (NSF, 5, 0, {"hidden_features": 17, "bins": 3, "blocks": 3}),
    "many": (NSF, 43, 2, {"hidden_features": 32, "bins": 4}),
    "reversed": (NSF, 4, 0, {"hidden_features": 16, "mixing": "reverse"}),
    "wide": (NSF, 5, 2, {"hidden_features": 150, "bins": 3}),
    "autoregressive": (NSF, 7, 0, {"hidden_features": 40, "coupling": False, "bins": 4}),
    "autoregressive, many": (NSF, 43, 0, {"hidden_features": 32, "coupling": False, "bins": 4}),
    "autoregressive, context": (NSF, 7, 3, {"hidden_features": 32, "coupling": False, "blocks": 3}),
    "autoregressive, one feature": (NSF, 1, 2, {"hidden_features": 8, "coupling": False}),
    "affine": (RealNVP, 5, 2, {"hidden_features": 20}),
    "additive": (NICE, 6, 2, {"hidden_features": 20}),
    "mixture": (FlowPlusPlus, 5, 2, {"hidden_features": 20, "components": 3}),
    "context, elementwise affine": (NSF, 6, 3, {"hidden_features": 20, "context_affine": "diagonal"}),
    "masked affine": (MAF, 7, 0, {"hidden_features": (24, 40)}),
    "masked affine, context": (MAF, 7, 3, {"hidden_features": (24, 40)}),
    "masked affine, no hidden layer": (MAF, 5, 2, {"hidden_features": ()}),
}
#: As far as the smallest instruction set goes.
NARROW = [name for name in CASES if name not in ("two", "wide")]


def everything(flow, x, context, weights, on):
    with use_native(on):
        flow.zero_grad()
        x = x.clone().requires_grad_()
        context = None if context is None else context.clone().requires_grad_()
        log_prob = flow.log_prob(x, context)
        (log_prob * weights).sum().backward()
        with torch.no_grad():
            back = flow.transform.inverse(x, context)
            plain = flow.log_prob(x, context)
    grads = [x.grad] + ([] if context is None else [context.grad]) + [p.grad for p in flow.parameters()]
    return [log_prob.detach(), plain, *back], grads


def spread(a, exact):
    """The largest error of each row."""
    return (a.double() - exact).abs().reshape(len(a), -1).amax(1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("rows", [1, 37, 300])
def test_values_and_gradients_are_those_of_the_modules(isa, name, rows):
    kernels.use(isa)
    recipe, features, width, options = CASES[name]
    flow = perturb(recipe(features, width, layers=3, **options), 0.3)
    fits = name in NARROW or isa == "avx512" or (isa == "avx2" and name == "two")
    assert in_runs(flow) == fits
    x, weights = 1.5 * torch.randn(rows, features), torch.randn(rows)
    context = torch.randn(rows, width) if width else None
    exact = copy.deepcopy(flow).double()
    wide = None if context is None else context.double()
    truth = everything(exact, x.double(), wide, weights.double(), False)
    ours = everything(flow, x, context, weights, True)
    theirs = everything(flow, x, context, weights, False)
    # Nine rows of ten are as close as the modules' own float32; single ones sit where rounding is amplified.
    for a, b, c in zip(ours[0], theirs[0], truth[0], strict=True):
        rounding = 1e-6 * (10 + c.abs().max())
        if rows > 1:
            assert spread(a, c).quantile(0.9) < 3 * spread(b, c).quantile(0.9) + rounding
        # Of many features the worst row of either is .1 to .4 nats off, whichever is luckier.
        assert spread(a, c).max() < 10 * spread(b, c).max() + 0.02 * c.abs().max()
    # A unit within rounding of zero may count as on in one and off in the other: a row's worth of gradient.
    for a, b, c in zip(ours[1], theirs[1], truth[1], strict=True):
        if a.numel():
            size = 1e-3 + c.abs().max()
            assert (a.double() - c).abs().max() < 5 * (b.double() - c).abs().max() + 2e-3 * size


def test_threads_change_nothing():
    flow = perturb(NSF(6, layers=3, hidden_features=24), 0.3)
    x, weights = torch.randn(700, 6), torch.randn(700)
    one, one_grads = everything(flow, x, None, weights, True)
    one_grads = [g.clone() for g in one_grads]
    torch.set_num_threads(3)
    try:
        three, three_grads = everything(flow, x, None, weights, True)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one + one_grads, three + three_grads, strict=True))


def test_a_row_is_the_same_in_every_batch():
    flow = perturb(NSF(6, layers=3, hidden_features=24), 0.3)
    x = torch.randn(300, 6)
    with torch.no_grad():
        full = flow.log_prob(x)
        assert torch.equal(full[:1], flow.log_prob(x[:1])) and torch.equal(
            full[77:200], flow.log_prob(x[77:200])
        )


def test_a_gradient_of_a_gradient_is_that_of_the_modules():
    flow = perturb(NSF(3, 2, layers=2, hidden_features=8), 0.3)
    x, context = torch.randn(9, 3), torch.randn(9, 2)

    def twice(on):
        flow.zero_grad()
        with use_native(on):
            y = x.clone().requires_grad_()
            (score,) = torch.autograd.grad(flow.log_prob(y, context).sum(), y, create_graph=True)
            score.square().sum().backward()
        return [p.grad.clone() for p in flow.parameters() if p.grad is not None]

    for a, b in zip(twice(True), twice(False), strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-3 * (1 + float(b.abs().max())))


def test_what_the_kernel_does_not_know_stays_with_the_modules():
    gated = NSF(3, 2, layers=2, hidden_features=8, context_gate=True)
    assert not in_runs(gated)
    assert not in_runs(build_flow("sos", 3))
    assert not in_runs(NSF(3, layers=2, hidden_features=2048))
    mixed = build_flow("funnel", 4)
    mixed.log_prob(torch.randn(5, 4))
    assert any(isinstance(part, Run) for part in parts_of(mixed))
    dropping = NSF(3, layers=2, hidden_features=8, dropout=0.5).train()
    x = torch.randn(50, 3)
    perturb(dropping)
    assert not torch.equal(dropping.log_prob(x), dropping.log_prob(x))
    dropping.eval()
    assert torch.equal(dropping.log_prob(x), dropping.log_prob(x))


@pytest.mark.parametrize("coupling", [True, False])
def test_dropout_that_does_not_drop_is_no_obstacle(coupling):
    flow = NSF(4, layers=2, hidden_features=8, dropout=0.5, coupling=coupling)
    twin = NSF(4, layers=2, hidden_features=8, coupling=coupling)
    perturb(flow, 0.3)
    twin.load_state_dict(flow.state_dict())
    x = torch.randn(50, 4)
    assert in_runs(flow.eval())
    with torch.no_grad():
        assert torch.equal(flow.log_prob(x), twin.eval().log_prob(x))
        for a, b in zip(flow.transform.inverse(x), twin.transform.inverse(x), strict=True):
            assert torch.equal(a, b)
        flow.train()
        assert not torch.equal(flow.log_prob(x), flow.log_prob(x))


def test_parameters_may_move_and_change():
    flow = perturb(NSF(3, layers=2, hidden_features=8))
    x = torch.randn(5, 3)
    before = flow.log_prob(x).detach()
    for p in flow.parameters():
        p.data = p.data.clone()
    assert torch.equal(flow.log_prob(x).detach(), before)
    perturb(flow, 0.5, seed=9)
    assert not torch.equal(flow.log_prob(x).detach(), before)
    twin = copy.deepcopy(flow)
    perturb(flow, 0.5, seed=10)
    assert not torch.equal(twin.log_prob(x), flow.log_prob(x))
    for p in flow.parameters():
        p.requires_grad_(False)
    assert not flow.log_prob(x).requires_grad
    flow.double()
    assert flow.log_prob(x.double()).dtype == torch.float64


def test_a_graph_can_be_used_twice():
    flow = perturb(NSF(3, layers=2, hidden_features=8))
    loss = flow.log_prob(torch.randn(20, 3)).sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in flow.parameters()]
    loss.backward()
    for a, p in zip(first, flow.parameters(), strict=True):
        assert torch.allclose(2 * a, p.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("coupling", [False, True])
def test_a_one_hot_context_is_a_context_like_others(coupling):
    flow = perturb(NSF(4, 5, layers=2, hidden_features=16, coupling=coupling), 0.3)
    x, states = torch.randn(70, 4), torch.randint(5, (70,))
    context = torch.nn.functional.one_hot(states, 5).float()
    nearly = context + 1e-30  # no zeros, and equal to rounding
    with torch.no_grad():
        assert torch.allclose(flow.log_prob(x, context), flow.log_prob(x, nearly), atol=1e-5)
    _, grads = everything(flow, x, context, torch.ones(70), True)
    grads = [g.clone() for g in grads]
    _, others = everything(flow, x, nearly, torch.ones(70), True)
    for a, b in zip(grads, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(1 + b.abs().max()))


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("ordered", [True, False])
def test_in_one_vector_the_gradients_are_the_same(extra, ordered):
    flow = perturb(NSF(4, 2, layers=3, hidden_features=8), 0.3)
    x, context, weights = torch.randn(90, 4), torch.randn(90, 2), torch.randn(90)
    _, apart = everything(flow, x, context, weights, True)
    apart = [g.clone() for g in apart[2:]]
    parameters = list(flow.parameters())
    other = torch.nn.Parameter(torch.zeros(3))
    laid = parameters if ordered else [*parameters[5:], *parameters[4::-1]]
    flat = FlatParameters([*laid[:3], other, *laid[3:]] if extra else laid)
    flat.attach()
    run = next(part for part in parts_of(flow) if isinstance(part, Run))
    block = run.stack(run.parameters()).block
    assert block is not None and block.vector is flat.vectors[0]
    (flow.log_prob(x, context) * weights).sum().backward()
    for p, g in zip(parameters, apart, strict=True):
        assert torch.equal(p.grad, g)
    flat.zero_grad()
    y = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(y, context).sum(), y, create_graph=True)
    score.square().sum().backward()
    again = [p.grad.clone() for p in parameters]
    flat.zero_grad()
    with use_native(False):
        (score,) = torch.autograd.grad(flow.log_prob(y, context).sum(), y, create_graph=True)
        score.square().sum().backward()
    for p, g in zip(parameters, again, strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-3, atol=1e-4 * float(1 + g.abs().max()))
    assert float(flat.gradients[0].abs().max()) > 0
    flat.detach()
    assert run.stack(run.parameters()).block is None


@pytest.mark.parametrize("coupling", [False, True])
def test_a_graph_remembers_the_weights_it_was_made_with(coupling):
    flow = perturb(NSF(4, 3, layers=2, hidden_features=16, coupling=coupling), 0.3)
    x, context = torch.randn(80, 4), torch.randn(80, 3)
    flow.log_prob(x, context).sum().backward()
    expected = [p.grad.clone() for p in flow.parameters()]
    flow.zero_grad()
    loss = flow.log_prob(x, context).sum()
    for p in flow.parameters():
        p.data = torch.full_like(p, 7.0)
    loss.backward()
    for a, p in zip(expected, flow.parameters(), strict=True):
        assert torch.equal(a, p.grad)


def test_graphs_that_live_at_once_have_tapes_of_their_own():
    flow = perturb(NSF(4, layers=2, hidden_features=16), 0.3)
    x, y = torch.randn(80, 4, requires_grad=True), torch.randn(80, 4, requires_grad=True)
    alone = torch.autograd.grad(flow.log_prob(x).sum(), x)[0]
    first, second = flow.log_prob(x).sum(), flow.log_prob(y).sum()
    torch.autograd.grad(second, y)
    assert torch.equal(torch.autograd.grad(first, x)[0], alone)
