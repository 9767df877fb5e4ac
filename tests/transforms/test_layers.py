"""Layers against closed forms: standardisation, LU, elementwise maps, chains, composites."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from constructors import autoregressive, coupling, dense, keep
from modeflow.errors import ConfigError, DataError, ShapeError
from modeflow.nets import MADE
from modeflow.testing import perturb
from modeflow.transforms import (
    AdditiveElementwise,
    AffineElementwise,
    Composite,
    ConditionalAffine,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    RQSplineElementwise,
    Standardize,
)

DOUBLE = torch.float64


# -- Standardize


def test_standardize_keeps_the_digits_of_a_column_with_a_large_offset():
    rng = np.random.default_rng(0)
    raw = np.stack([1e9 + rng.normal(0, 0.5, 1000), rng.normal(-3, 2, 1000)], 1)
    layer = Standardize(2).fit(torch.from_numpy(raw)).float()  # a cast must not round the statistics
    assert layer.mean.dtype == layer.scale.dtype == DOUBLE
    u, logabsdet = layer(torch.from_numpy(raw))
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(u.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(logabsdet.numpy(), -np.log(raw.std(0)).sum(), atol=1e-10)
    back, opposite = layer.inverse(u)
    assert np.abs(back.numpy() - raw).max() <= 2.4e-7  # two units in the last place of 1e9
    assert torch.equal(opposite, -logabsdet)


@pytest.mark.parametrize("cast", ["float", "half", "double"])
def test_standardize_survives_casts_and_reloading(cast):
    layer = Standardize(2).fit(torch.randn(50, 2, dtype=DOUBLE) / 3 + 1e6)
    fresh = Standardize(2)
    fresh.load_state_dict(layer.state_dict())
    getattr(layer, cast)()
    x = torch.randn(4, 2, dtype=DOUBLE) + 1e6
    assert torch.equal(layer(x)[0], fresh(x)[0])


def test_weights_of_standardize_are_repetitions():
    x = torch.randn(5, 2, dtype=DOUBLE)
    times = torch.tensor([1, 2, 3, 1, 4])
    weighted = Standardize(2).fit(x, times.double())
    repeated = Standardize(2).fit(x.repeat_interleave(times, 0))
    assert torch.allclose(weighted.mean, repeated.mean, atol=1e-14)
    assert torch.allclose(weighted.scale, repeated.scale, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 7.5, 1e9, 0.1])
def test_standardize_refuses_a_constant_column(value):
    x = torch.randn(20, 3, dtype=DOUBLE)
    x[:, 1] = value
    with pytest.raises(DataError, match="column 1 is constant"):
        Standardize(3).fit(x)


# -- linear


@pytest.mark.parametrize("features", [1, 2, 5])
def test_lu_is_its_dense_weight(features):
    layer = perturb(LULinear(features), 0.5).double()
    lower, upper, logabsdet = layer.factors()
    dense_weight = lower @ upper
    x = torch.randn(7, features, dtype=DOUBLE)
    u, forth = layer(x)
    assert torch.allclose(u, x @ dense_weight.mT + layer.bias, atol=1e-13)
    assert torch.allclose(forth, torch.linalg.slogdet(dense_weight).logabsdet.expand(7), atol=1e-12)
    assert torch.allclose(
        layer.inverse(u)[0], (u - layer.bias) @ torch.linalg.inv(dense_weight).mT, atol=1e-11
    )
    assert torch.equal(lower.triu(1), torch.zeros_like(lower))
    assert torch.equal(lower.diagonal(), torch.ones(features, dtype=DOUBLE))
    assert torch.equal(upper.tril(-1), torch.zeros_like(upper))
    assert logabsdet.item() == pytest.approx(upper.diagonal().log().sum().item())


def test_lu_starts_as_the_identity_and_stays_invertible():
    x = torch.randn(3, 4, dtype=DOUBLE)
    assert torch.allclose(LULinear(4).double()(x)[0], x, atol=1e-6)
    layer = LULinear(4).double()
    torch.nn.init.constant_(layer.raw_diagonal, -100.0)
    u, logabsdet = layer(x)
    assert logabsdet[0].item() == pytest.approx(4 * math.log(1e-3))
    assert torch.allclose(layer.inverse(u)[0], x)


def test_permutations():
    x = torch.arange(4.0)[None]
    assert Permutation(torch.tensor([2, 0, 3, 1]))(x)[0].tolist() == [[2, 0, 3, 1]]
    assert Permutation.reverse(4)(x)[0].tolist() == [[3, 2, 1, 0]]
    order = Permutation.random(50, torch.Generator().manual_seed(1)).order
    assert order.sort().values.tolist() == list(range(50))
    assert not torch.equal(order, Permutation.random(50, torch.Generator().manual_seed(2)).order)


# -- elementwise


@pytest.mark.parametrize("kind", [AdditiveElementwise(), AffineElementwise(), RQSplineElementwise(6)])
def test_zero_parameters_are_the_identity(kind):
    x = torch.linspace(-5, 5, 41, dtype=DOUBLE)
    for call in (kind.forward, kind.inverse):
        u, logderivative = call(x, torch.zeros(41, kind.n_params, dtype=DOUBLE))
        assert torch.allclose(u, x, atol=1e-14)
        assert logderivative.abs().max() < 1e-13


def test_the_log_scale_is_clipped_softly():
    kind = AffineElementwise(max_log_scale=2.0)
    raw = torch.tensor([-1e6, -3.0, 0.0, 3.0, 1e6], dtype=DOUBLE, requires_grad=True)
    _, s = kind(torch.ones(5, dtype=DOUBLE), torch.stack((torch.zeros(5, dtype=DOUBLE), raw), -1))
    assert (s.abs() < 2.0).all()
    s.sum().backward()
    assert raw.grad[2] == 1
    assert (raw.grad > 0).all()


def test_additive_coupling_preserves_volume_exactly():
    layer = perturb(coupling(keep(True, False, False), AdditiveElementwise())(), 0.5)
    u, logabsdet = layer(torch.randn(6, 3))
    assert (logabsdet == 0).all()
    assert (layer.inverse(u)[1] == 0).all()


# -- coupling and autoregressive


def test_coupling_leaves_the_kept_features_alone():
    mask = keep(False, True, False, True, True)
    layer = perturb(coupling(mask, RQSplineElementwise(4), 2)(), 0.5)
    x, c = torch.randn(6, 5), torch.randn(6, 2)
    for call in (layer.forward, layer.inverse):
        u, _ = call(x, c)
        assert torch.equal(u[:, mask], x[:, mask])
        assert (u[:, ~mask] != x[:, ~mask]).any(0).all()


def test_coupling_that_transforms_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing is transformed"):
        Coupling(torch.ones(3, dtype=torch.bool), AffineElementwise(), dense)


def linear_chain(features, context=0):
    """A linear MADE with the coefficients of x_d = b_d + w_d x_{<d} + v_d c + s_d e_d, and those."""
    w = torch.randn(features, features, dtype=DOUBLE).tril(-1)
    b, s = torch.randn(features, dtype=DOUBLE), 0.3 + torch.rand(features, dtype=DOUBLE)
    v = torch.randn(features, context, dtype=DOUBLE)
    kind = AffineElementwise()
    made = MADE(features, 2, (), context).double()
    log_scale = -s.log()
    raw = log_scale / (1 - log_scale.abs() / kind.max_log_scale)
    with torch.no_grad():
        made.final.weight.zero_()
        made.final.weight[0::2] = -w / s[:, None]
        made.final.bias.copy_(torch.stack((-b / s, raw), 1).flatten())
        if context:
            made.context_final.weight.zero_()
            made.context_final.weight[0::2] = -v / s[:, None]
            made.context_final.bias.zero_()
    return MaskedAutoregressive(made, kind, context), w, b, s, v


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 2])
def test_autoregressive_layer_of_a_linear_gaussian_chain_is_exact(features, context):
    layer, w, b, s, v = linear_chain(features, context)
    x = torch.randn(20, features, dtype=DOUBLE)
    c = torch.randn(20, context, dtype=DOUBLE) if context else None
    u, logabsdet = layer(x, c)
    log_prob = -0.5 * (u.square().sum(-1) + features * math.log(2 * math.pi)) + logabsdet
    root = torch.linalg.inv(torch.eye(features, dtype=DOUBLE) - w)
    offset = b if c is None else b + c @ v.mT
    covariance = root @ torch.diag(s.square()) @ root.mT
    exact = torch.distributions.MultivariateNormal(offset @ root.mT, covariance).log_prob(x)
    assert torch.allclose(log_prob, exact, atol=1e-10)


def test_inverse_of_an_autoregressive_layer_is_an_inverse_autoregressive_layer():
    layer = perturb(autoregressive(4, AffineElementwise(), 2)(), 0.3).double()
    iaf = Inverse(layer)
    x, c = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 2, dtype=DOUBLE)
    y, logabsdet = iaf(x, c)
    assert torch.equal(y, layer.inverse(x, c)[0])
    # Each feature alone moves by its own slope: the diagonal of the Jacobian of an IAF.
    assert torch.allclose(logabsdet, -layer(y, c)[1])


# -- affine per context, composites


def test_conditional_affine_gives_each_state_its_location_and_scale():
    layer = perturb(ConditionalAffine(2, 3), 0.7).double()
    u = torch.randn(6, 2, dtype=DOUBLE)
    state = torch.tensor([0, 1, 2, 0, 1, 2])
    x, logabsdet = layer.inverse(u, torch.nn.functional.one_hot(state, 3).double())
    shift, log_scale = layer.table.split(2, dim=1)
    assert torch.allclose(x, shift[state] + log_scale[state].exp() * u)
    assert torch.allclose(logabsdet, log_scale[state].sum(-1))


@pytest.mark.parametrize("full", [True, False])
def test_conditional_affine_whitens_the_gaussian_it_is_given(full):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    covariance = root @ root.T + 0.1 * torch.eye(3, dtype=DOUBLE)
    if not full:
        covariance = torch.diag(covariance.diagonal())
    mean = torch.tensor([1.0, -2.0, 3.0], dtype=DOUBLE)
    layer = ConditionalAffine(3, 2, full=full).double()
    layer.set_gaussian(1, mean, covariance)
    x = torch.randn(5, 3, dtype=DOUBLE, generator=generator)
    context = torch.tensor([[0.0, 1.0]], dtype=DOUBLE).expand(5, 2)
    u, logabsdet = layer(x, context)
    log_prob = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(1) + logabsdet
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    assert torch.allclose(log_prob, expected, atol=1e-12)


def test_composite_applies_in_order_and_adds():
    a, b = perturb(LULinear(3), 0.4, 1).double(), perturb(LULinear(3), 0.4, 2).double()
    x = torch.randn(4, 3, dtype=DOUBLE)
    u, logabsdet = Composite([a, b])(x)
    y, first = a(x)
    z, second = b(y)
    assert torch.equal(u, z)
    assert torch.allclose(logabsdet, first + second)
    empty = Composite([])
    assert torch.equal(empty(x)[0], x)
    assert torch.equal(empty.inverse(x)[1], torch.zeros(4, dtype=DOUBLE))


def test_composite_is_as_exact_as_its_least_exact_part():
    bound, estimate = LULinear(2), LULinear(2)
    bound.exactness, estimate.exactness = "lower bound", "estimate"
    assert Composite([LULinear(2)]).exactness == "exact"
    assert Composite([LULinear(2), bound]).exactness == "lower bound"
    assert Composite([bound, estimate]).exactness == "estimate"
    assert Inverse(bound).exactness == "lower bound"


@pytest.mark.parametrize("context_features", [1, 3])
def test_a_conditional_affine_without_its_context_is_refused(context_features):
    with pytest.raises(ShapeError, match="needs a context"):
        ConditionalAffine(2, context_features)(torch.zeros(4, 2))


def test_a_random_permutation_is_never_the_identity():
    for seed in range(20):
        order = Permutation.random(2, torch.Generator().manual_seed(seed)).order
        assert order.tolist() == [1, 0]
    assert Permutation.random(1).order.tolist() == [0]
