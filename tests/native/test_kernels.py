"""Native kernels against PyTorch: values, gradients, dispatch; on every instruction set this machine has."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch

from modeflow.accelerate import description_of, native_elementwise
from modeflow.densities import Flow
from modeflow.flows import MAF, NSF
from modeflow.native import applies, kernels, native_kernels, use_native
from modeflow.testing import perturb
from modeflow.transforms import AdditiveElementwise, AffineElementwise, rational_quadratic_spline
from modeflow.transforms.elementwise import Elementwise
from modeflow.transforms.logistic_mixture import LogisticMixtureElementwise

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")
ISAS = kernels.available() if kernels is not None else []


def entries(bins, scale, n=4000):
    """Entries inside, on both ends and beyond the interval; their parameters."""
    x = 7 * torch.rand(n) - 3.5
    x[:6] = torch.tensor([-3.0, 3.0, -100.0, 100.0, 0.0, -3.0000002])
    return x, scale * torch.randn(n, 3 * bins - 1)


def distance(a, b):
    error = (a.double() - b).abs() / (1 + b.abs())
    return error.quantile(0.99), error.max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bins", [1, 2, 4, 8, 11, 32])
@pytest.mark.parametrize("inverse", [False, True])
def test_spline_is_as_close_to_float64_as_pytorch_is(isa, bins, inverse):
    kernels.use(isa)
    x, params = entries(bins, 1.0)
    ours = rational_quadratic_spline(x, params, inverse=inverse)
    with use_native(False):
        exact = rational_quadratic_spline(x.double(), params.double(), inverse=inverse)
        reference = rational_quadratic_spline(x, params, inverse=inverse)
    for a, b, c in zip(ours, exact, reference, strict=True):
        usual, worst = distance(a, b)
        usual_reference, worst_reference = distance(c, b)
        # The worst entries sit in bins a thousandth of the interval wide, where rounding x alone costs 1e-4.
        assert usual < max(1e-5, 2 * usual_reference) and worst < 4 * worst_reference + 1e-6
    outside = x.abs() > 3
    assert torch.equal(ours[0][outside], x[outside]) and not ours[1][outside].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bins", [1, 2, 4, 8, 11])
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_equal_those_of_float64(isa, bins, inverse):
    kernels.use(isa)
    x, params = entries(bins, 1.0, 1000)
    weights = torch.randn(2, 1000)

    def gradients(dtype, on):
        a, b = (t.to(dtype).clone().requires_grad_() for t in (x, params))
        with use_native(on):
            y, logderivative = rational_quadratic_spline(a, b, inverse=inverse)
            (weights[0].to(dtype) * y + weights[1].to(dtype) * logderivative).sum().backward()
        return a.grad, b.grad

    ours, exact, reference = (
        gradients(torch.float32, True),
        gradients(torch.float64, False),
        gradients(torch.float32, False),
    )
    for a, b, c in zip(ours, exact, reference, strict=True):
        usual, worst = distance(a, b)
        assert usual < 3e-4 and worst < 4 * distance(c, b)[1] + 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind, function, low, high", [
    (0, np.exp, -87.0, 88.0),
    (1, np.log, 1e-37, 1e37),
    (2, lambda x: np.logaddexp(x, x.dtype.type(0)), -80.0, 80.0),
])  # fmt: skip
def test_elementary_functions_are_within_two_units_in_the_last_place(isa, kind, function, low, high, dtype):
    kernels.use(isa)
    if dtype is np.float64 and np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("nothing here is more precise")
    generator = np.random.default_rng(0)
    x = generator.uniform(low, high, 200_001).astype(dtype)
    if kind == 1:  # every size of number, and close to one
        x[:100_000] = np.exp(generator.uniform(-80, 80, 100_000))
        x[100_000:] = 1 + generator.uniform(-0.4, 0.5, len(x) - 100_000)
    y = np.empty_like(x)
    module = kernels.float32 if dtype is np.float32 else kernels.float64
    module.elementary(kind, len(x), x.ctypes.data, y.ctypes.data)
    exact = function(x.astype(np.longdouble))
    unit = np.spacing(np.abs(exact).astype(dtype))
    # A sum of one and exp rounds once more than the function itself.
    assert (np.abs(y - exact) / unit).max() <= (2 if kind < 2 else 3)


MAPS = {
    "affine": AffineElementwise(),
    "additive": AdditiveElementwise(),
    "mixture": LogisticMixtureElementwise(5, 3.0, 2.0),
    "one logistic": LogisticMixtureElementwise(1),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", list(MAPS))
def test_maps_and_their_gradients_equal_those_of_float64(isa, name):
    kernels.use(isa)
    map_, n = MAPS[name], 1000
    x, params, weights = 3 * torch.randn(n), torch.randn(n, map_.n_params), torch.randn(2, n)
    x[:4] = torch.tensor([0.0, -40.0, 40.0, 1e-6])

    def run(dtype, on):
        a, b = (t.to(dtype).clone().requires_grad_() for t in (x, params))
        with use_native(on):
            if on:
                y, logderivative = native_elementwise(a, b, description_of(map_), False, lambda *_: None)
            else:
                y, logderivative = map_(a, b)
            (weights[0].to(dtype) * y + weights[1].to(dtype) * logderivative).sum().backward()
        return y.detach(), logderivative.detach(), a.grad, b.grad

    ours, exact, reference = run(torch.float32, True), run(torch.float64, False), run(torch.float32, False)
    for a, b, c in zip(ours, exact, reference, strict=True):
        usual, worst = distance(a, b)
        assert usual < 1e-5 and worst < 4 * distance(c, b)[1] + 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", list(MAPS))
def test_inverses_of_maps_lead_back(isa, name):
    kernels.use(isa)
    map_ = MAPS[name]
    x, params = 3 * torch.randn(1000), torch.randn(1000, map_.n_params)
    u, there = native_elementwise(x, params, description_of(map_), False, lambda *_: None)
    back, logderivative = native_elementwise(u, params, description_of(map_), True, lambda *_: None)
    # An error of x is one of u over the slope: rounding of u alone.
    allowed = 2e-6 * (1 + u.abs()) * torch.exp(-there) + 2e-6 * (1 + x.abs())
    assert ((back - x).abs() <= 4 * allowed).all()
    assert (logderivative + there).abs().quantile(0.99) < 1e-4


def test_a_subclass_with_another_map_is_not_taken_for_its_parent():
    class Doubled(AffineElementwise):
        def forward(self, x, params):
            u, logderivative = super().forward(x, params)
            return 2 * u, logderivative + 2**0.5

    assert description_of(Doubled()) is None and description_of(AffineElementwise()) is not None
    assert description_of(Elementwise()) is None


def test_a_gradient_of_a_gradient_is_that_of_pytorch():
    x, params = entries(4, 1.0, 50)

    def twice(on):
        a, b = x.clone().requires_grad_(), params.clone().requires_grad_()
        with use_native(on):
            y, logderivative = rational_quadratic_spline(a * 1.0, b * 1.0)
            (g,) = torch.autograd.grad((y + logderivative).sum(), b, create_graph=True)
            g.square().sum().backward()
        return a.grad, b.grad

    for ours, theirs in zip(twice(True), twice(False), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def test_only_what_needs_a_gradient_gets_one():
    x, params = entries(4, 1.0, 50)
    params.requires_grad_()
    rational_quadratic_spline(x, params)[0].sum().backward()
    assert params.grad is not None and x.grad is None


def test_layouts_and_empty_batches():
    x, params = entries(5, 1.0, 60)
    x, params = x.view(6, 10), params.view(6, 10, -1)
    y, _ = rational_quadratic_spline(x, params)
    strided, _ = rational_quadratic_spline(x.t(), params.transpose(0, 1))
    assert y.shape == (6, 10) and torch.equal(strided, y.t())
    # In any position of a batch: the lanes at the end of a batch too.
    for n in (1, 15, 16, 17):
        few, _ = rational_quadratic_spline(x.flatten()[:n], params.flatten(0, 1)[:n])
        assert torch.equal(few, y.flatten()[:n])
    assert rational_quadratic_spline(x[:0], params[:0])[0].shape == (0, 10)


def test_threads_change_nothing():
    x, params = entries(8, 1.0, 50_000)
    one = rational_quadratic_spline(x, params)
    torch.set_num_threads(2)
    try:
        two = rational_quadratic_spline(x, params)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_own_threads():
    x, params = entries(8, 1.0, 50_000)
    torch.set_num_threads(2)
    try:
        before = rational_quadratic_spline(x, params)[0]
        child = os.fork()
        if child == 0:
            # Compared outside torch, whose own threads would wait for those of its parent.
            after = rational_quadratic_spline(x, params)[0]
            same = (after.numpy() == before.numpy()).all()
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


def test_where_the_kernels_do_not_apply():
    x = torch.randn(3)
    assert applies(x, x) and applies(x.double()) and not applies(x.half()) and not applies(x, x.double())
    assert not applies(x.to("meta"))
    with use_native(False):
        assert not applies(x) and native_kernels() == "none"
    assert native_kernels() in ISAS
    params = torch.randn(3, 11)
    expected = rational_quadratic_spline(x, params)[0]
    batched = torch.vmap(lambda a, b: rational_quadratic_spline(a, b)[0])(x, params)
    assert torch.allclose(batched, expected, atol=1e-5)
    tangent = torch.func.jvp(lambda a: rational_quadratic_spline(a, params)[0], (x,), (torch.ones(3),))[1]
    assert torch.allclose(tangent, rational_quadratic_spline(x, params)[1].exp(), rtol=1e-3)


# -- autoregressive sampling


def flows(context):
    small = {"hidden_features": 16, "layers": 2}
    return {
        "spline": NSF(7, context, coupling=False, bins=5, **small),
        "one feature": NSF(1, context, coupling=False, bins=4, **small),
        "three blocks": NSF(4, context, coupling=False, blocks=3, layers=1, hidden_features=9),
        "affine": MAF(7, context, layers=3, hidden_features=(16, 24)),
        "no hidden layer": MAF(7, context, layers=2, hidden_features=()),
        "gated": NSF(5, context, coupling=False, context_gate=True, **small) if context else NSF(5, **small),
    }


@pytest.mark.parametrize("isa", [*ISAS, "none"])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("kind", list(flows(1)))
def test_each_unit_once_gives_what_one_pass_for_every_feature_gives(isa, kind, context):
    flow: Flow = perturb(flows(context)[kind], 0.4).eval()
    u = torch.randn(37, *flow.event_shape)
    c = torch.randn(37, context) if context else None
    exact = copy.deepcopy(flow).double()
    wide = None if c is None else c.double()
    with torch.enable_grad():  # with gradients every feature takes a pass
        expected, expected_logabsdet = exact.transform.inverse(u.double(), wide)
    if isa != "none":
        kernels.use(isa)
    with torch.no_grad(), use_native(isa != "none"):
        x, logabsdet = flow.transform.inverse(u, c)
        stepwise, _ = exact.transform.inverse(u.double(), wide)
    assert torch.allclose(stepwise, expected, atol=1e-10)
    assert torch.allclose(x.double(), expected.detach(), atol=2e-4, rtol=1e-4)
    assert torch.allclose(logabsdet.double(), expected_logabsdet.detach(), atol=2e-3, rtol=1e-4)


def test_masked_weights_are_never_read():
    flow = NSF(6, 0, coupling=False, layers=1, hidden_features=12, bins=4).eval()
    made = next(m for m in flow.modules() if type(m).__name__ == "ResidualMADE")
    u = torch.randn(5, 6)
    with torch.no_grad():
        before = flow.transform.inverse(u)[0]
        for layer in made.modules():
            if hasattr(layer, "mask"):
                layer.weight += 100.0 * (1 - layer.mask)
        assert torch.equal(flow.transform.inverse(u)[0], before)
