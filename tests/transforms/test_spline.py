"""The rational-quadratic spline against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeflow.transforms import rational_quadratic_spline

B = 3.0


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def knots(params, bound=B, smallest=1e-3):
    """Knots and slopes of one spline, by their definition, in numpy."""
    params = np.asarray(params, dtype=float)
    n = (len(params) + 1) // 3

    def edges(raw):
        share = smallest + (1 - smallest * n) * softmax(raw)
        return -bound + 2 * bound * np.concatenate([[0], np.cumsum(share)])

    slope = 1e-3 + np.logaddexp(0, params[2 * n :] + math.log(math.expm1(1 - 1e-3)))
    return edges(params[:n]), edges(params[n : 2 * n]), np.concatenate([[1], slope, [1]])


def spline(x, params, **options):
    x = torch.as_tensor(x, dtype=torch.float64)
    params = torch.as_tensor(params, dtype=torch.float64)
    return rational_quadratic_spline(x, params.expand(*x.shape, -1), **options)


def random_params(bins, size=1.5, rows=None):
    return size * torch.randn(*(() if rows is None else (rows,)), 3 * bins - 1, dtype=torch.float64)


@pytest.mark.parametrize("bins", [1, 2, 5, 16])
def test_knots_map_to_knots_with_their_slopes(bins):
    params = random_params(bins)
    x, y, slope = knots(params)
    u, logderivative = spline(x, params)
    np.testing.assert_allclose(u, y, atol=1e-12)
    np.testing.assert_allclose(logderivative[:-1], np.log(slope[:-1]), atol=1e-9)
    back, logderivative = spline(y, params, inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-10)
    np.testing.assert_allclose(logderivative[:-1], -np.log(slope[:-1]), atol=1e-8)


def test_derivative_is_continuous_at_the_knots_and_the_tails():
    params = random_params(6)
    x, _, slope = knots(params)
    h = 1e-10
    for side in (-h, h):
        np.testing.assert_allclose(spline(x + side, params)[1], np.log(slope), atol=1e-5)


def test_matches_the_formula_in_every_bin():
    params = random_params(7)
    xs, ys, d = knots(params)
    t = np.array([0.0, 0.1, 0.5, 0.9, 0.999])
    for k in range(7):
        w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
        s = h / w
        den = s + (d[k + 1] + d[k] - 2 * s) * t * (1 - t)
        y = ys[k] + h * (s * t**2 + d[k] * t * (1 - t)) / den
        slope = s**2 * (d[k + 1] * t**2 + 2 * s * t * (1 - t) + d[k] * (1 - t) ** 2) / den**2
        u, logderivative = spline(xs[k] + t * w, params)
        np.testing.assert_allclose(u, y, atol=1e-10)
        np.testing.assert_allclose(logderivative, np.log(slope), atol=1e-8)
        back, _ = spline(y, params, inverse=True)
        np.testing.assert_allclose(back, xs[k] + t * w, atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
def test_identity_outside_and_with_zero_parameters(inverse):
    far = torch.tensor([-1e6, -50.0, -3.0001, 3.0001, 7.0, 1e6])
    u, logderivative = spline(far, random_params(5), inverse=inverse)
    assert torch.equal(u, far.double())
    assert (logderivative == 0).all()
    x = torch.linspace(-4, 4, 201, dtype=torch.float64)
    u, logderivative = spline(x, torch.zeros(14), inverse=inverse)
    assert (u - x).abs().max() < 1e-14
    assert logderivative.abs().max() < 1e-13


@pytest.mark.parametrize("inverse", [False, True])
def test_one_bin_has_no_freedom(inverse):
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)
    u, _ = spline(x, torch.tensor([1.7, -0.4]), inverse=inverse)
    assert (u - x).abs().max() < 1e-14


@settings(max_examples=60, deadline=None)
@given(
    params=st.lists(st.floats(-9, 9), min_size=11, max_size=11),
    bound=st.sampled_from([0.5, 3.0, 20.0]),
)
def test_monotone_and_invertible_for_any_parameters(params, bound):
    params = torch.tensor(params, dtype=torch.float64)
    x = torch.linspace(-1.2 * bound, 1.2 * bound, 801, dtype=torch.float64)
    u, logderivative = spline(x, params, tail_bound=bound)
    assert torch.isfinite(logderivative).all()
    assert (u.diff() > 0).all()
    assert u.abs().max() <= 1.2 * bound + 1e-12
    back, opposite = spline(u, params, tail_bound=bound, inverse=True)
    # A rounding error of u grows by the slope of the inverse, and within a bin by more.
    allowed = 1e-11 * bound * (1 + (-logderivative).exp())
    assert ((back - x).abs() < allowed).all()
    # A derivative may change by orders of magnitude within one bin: compare where x came back well.
    assert (logderivative + opposite).abs().max() < 1e-4


def test_float32_is_within_1e_5_of_float64():
    params = random_params(8, 1.0, rows=4000).float()
    x = 6.4 * torch.rand(4000) - 3.2
    for inverse in (False, True):
        single = rational_quadratic_spline(x, params, inverse=inverse)
        double = rational_quadratic_spline(x.double(), params.double(), inverse=inverse)
        # A rounding error of the input grows by the slope.
        slope = double[1].exp().clamp_min(1.0)
        assert ((single[0] - double[0]).abs() < 1e-5 * slope).all()
        assert ((single[1] - double[1]).abs() < 1e-4 * slope).all()
        assert (single[1] - double[1]).abs().median() < 1e-6


def test_float32_round_trip_scaled_by_the_slope():
    params = random_params(8, 2.0, rows=4000).float()
    x = 6.4 * torch.rand(4000) - 3.2
    u, logderivative = rational_quadratic_spline(x, params)
    back, _ = rational_quadratic_spline(u, params, inverse=True)
    allowed = 20 * torch.finfo(torch.float32).eps * B * (1 + (-logderivative).exp())
    assert ((back - x).abs() < allowed).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_to_second_order(inverse):
    params = random_params(4, 0.7, rows=6).requires_grad_(True)
    x = torch.tensor([-3.5, -2.1, -0.3, 0.4, 2.2, 3.5], dtype=torch.float64, requires_grad=True)

    def function(x, params):
        return rational_quadratic_spline(x, params, inverse=inverse)

    assert torch.autograd.gradcheck(function, (x, params))
    assert torch.autograd.gradgradcheck(function, (x, params))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_no_gradient_is_nan_at_edges_or_extremes(inverse, size):
    torch.manual_seed(1)
    params = (size * torch.randn(9, 14)).requires_grad_(True)
    x = torch.tensor([-1e30, -3.0, -2.9999998, 0.0, 1e-30, 2.9999998, 3.0, 3.0000002, 1e30])
    x.requires_grad_(True)
    u, logderivative = rational_quadratic_spline(x, params, inverse=inverse)
    assert torch.isfinite(u).all()
    assert torch.isfinite(logderivative).all()
    (u.clamp(-10, 10).sum() + logderivative.sum()).backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(params.grad).all()


def test_empty_and_many_dimensional_batches():
    assert spline(torch.zeros(0), torch.zeros(8))[0].shape == (0,)
    assert spline(torch.zeros(2, 3, 4), torch.zeros(8))[1].shape == (2, 3, 4)
