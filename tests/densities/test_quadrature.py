"""Integrals over one number: peaks wide and narrow, far away, several, and on the circle."""

from __future__ import annotations

import math

import pytest
import torch

from modeflow.densities.quadrature import Curve, curve_of, log_integral


def gaussian(mean, scale):
    def log_f(t):
        z = (t - mean.unsqueeze(1)) / scale.unsqueeze(1)
        return -0.5 * z.square() - scale.log().unsqueeze(1) - 0.5 * math.log(2 * math.pi)

    return log_f


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gaussians_integrate_to_one(dtype):
    mean = torch.tensor([0.0, 3.0, -7.0, 20.0, 0.3, -1.0], dtype=dtype)
    scale = torch.tensor([1.0, 0.02, 0.3, 2.0, 0.1, 5.0], dtype=dtype)
    for near in (torch.zeros(6, dtype=dtype), mean, mean + 3 * scale):
        assert log_integral(gaussian(mean, scale), near).abs().max() < 4e-3


def test_a_narrow_peak_is_found_where_it_is_said_to_be():
    mean, scale = torch.tensor([2.0]).double(), torch.tensor([1e-3]).double()
    assert log_integral(gaussian(mean, scale), mean).abs().max() < 4e-3


def test_two_peaks_of_very_unequal_mass_and_constants():
    first, second = (gaussian(torch.tensor([m]).double(), torch.tensor([0.05]).double()) for m in (-2.0, 4.0))
    log_f = lambda t: torch.logaddexp(first(t) - 700, second(t) - 705)  # noqa: E731
    found = log_integral(log_f, torch.zeros(1).double())
    assert abs(float(found) - (-700 + math.log1p(math.exp(-5)))) < 4e-3


def test_on_the_circle():
    kappa = torch.tensor([0.0, 2.0]).double()
    log_f = lambda t: kappa.unsqueeze(1) * torch.cos(t - 3.0)  # noqa: E731
    found = log_integral(log_f, torch.tensor([3.1, -3.1]).double(), circular=True)
    exact = (2 * math.pi * torch.special.i0(kappa)).log()
    assert (found - exact).abs().max() < 2e-3


def test_nothing_has_no_mass():
    assert log_integral(lambda t: torch.full_like(t, -math.inf), torch.zeros(2)).isneginf().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_quantiles_are_those_of_a_gaussian(dtype):
    mean = torch.tensor([0.0, 3.0, -7.0, 0.3], dtype=dtype)
    scale = torch.tensor([1.0, 0.02, 0.3, 0.1], dtype=dtype)
    levels = torch.tensor([0.001, 0.1, 0.5, 0.84, 0.999], dtype=dtype).expand(4, -1)
    found = curve_of(gaussian(mean, scale), mean).quantiles(levels)
    exact = mean.unsqueeze(1) + scale.unsqueeze(1) * torch.special.ndtri(levels.double()).to(dtype)
    assert found.dtype == dtype and ((found - exact) / scale.unsqueeze(1)).abs().max() < 0.06


def test_quantiles_are_within_linear_pieces():
    """Of f(t) = t on [0, 1] that of p is its root, to rounding."""
    nodes = torch.linspace(0, 1, 5).double().unsqueeze(0)
    levels = torch.linspace(0, 1, 11).double().unsqueeze(0)
    assert torch.allclose(Curve(nodes, nodes.log()).quantiles(levels), levels.sqrt(), atol=1e-12)
    none = Curve(nodes, torch.full_like(nodes, -math.inf))
    assert none.quantiles(levels).isnan().all()
