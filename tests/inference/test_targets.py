"""Named targets: what is known of them, by quadrature and draws; and what a user's function may be."""

from __future__ import annotations

import math

import pytest
import torch

import modeflow
from modeflow.densities import StandardNormal
from modeflow.errors import ConfigError
from modeflow.inference import TARGETS, as_target, named_target
from modeflow.inference.targets import check_log_prob
from modeflow.testing.quadrature import check_counts, midpoints

#: Of the others the cells are small enough for the trapezoidal rule to be exact to 1e-6.
SMALL = {
    "funnel": {"scale": 0.7},
    "banana": {"scale": 2.0, "curvature": 0.1},
    "mixture": {"weights": range(1, 9)},
}


def corner(name):
    if name in ("u1", "u2", "u3", "u4"):
        return torch.tensor([6.0, 8.0], dtype=torch.float64)
    sizes = {"funnel": (4.2, 60.0), "banana": (14.0, 20.0), "mixture": (9.0, 9.0)}
    return torch.tensor(sizes[name], dtype=torch.float64)


@pytest.mark.parametrize("name", TARGETS)
def test_the_normaliser_and_the_draws(name):
    target = named_target(name, **SMALL.get(name, {}))
    high = corner(name)
    cells = 800
    grid, volume = midpoints(-high, high, cells)
    mass = target.log_prob(grid).exp() * volume
    # The funnel's neck is thinner than a cell.
    close = 2e-3 if name == "funnel" else 1e-5
    assert math.log(float(mass.sum())) == pytest.approx(target.log_normalizer, abs=close)
    x = target.sample(20_000, torch.Generator().manual_seed(0))
    assert x.shape == (20_000, 2) and x.dtype == torch.float64
    # Pearson's chi-squared, a false alarm in 1e-6.
    check_counts(x, mass / mass.sum(), -high, high, cells)
    if target.marginal_sds is not None:
        mean = (mass[:, None] * grid).sum(0)
        variance = (mass[:, None] * grid.square()).sum(0) - mean.square()
        assert torch.allclose(variance.sqrt(), target.marginal_sds, rtol=0.02 if name == "funnel" else 1e-4)


def test_what_the_literature_says():
    assert named_target("funnel").marginal_sds.tolist() == pytest.approx([1, math.e])
    assert named_target("banana").marginal_sds.tolist() == pytest.approx([10, 3])
    assert "|z1| <= 4" in named_target("u3").confinement and named_target("u1").confinement == ""
    assert named_target("funnel", features=4).event_shape == (4,)
    z = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    wave = math.sin(math.pi / 4)
    assert float(named_target("u2").log_prob(z)) == pytest.approx(-0.5 * ((0.2 - wave) / 0.4) ** 2)


@pytest.mark.parametrize("name", TARGETS)
def test_both_precisions_and_gradients(name):
    target = named_target(name)
    x = target.sample(50, torch.Generator().manual_seed(1))
    single = target.log_prob(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), target.log_prob(x), atol=1e-3)
    check_log_prob(target.log_prob, torch.zeros(3, *target.event_shape))


def test_whatever_has_a_log_prob_is_a_target():
    assert as_target(StandardNormal(3)).event_shape == (3,)
    plain = as_target(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1))
    assert plain.event_shape == (2,) and plain.log_normalizer is None
    assert as_target(lambda x: x.sum(1), 4).event_shape == (4,)
    assert as_target("u1").name == "u1"
    with pytest.raises(ConfigError, match="no exact sampler"):
        plain.sample(3)


CALLS = {
    "unknown": (lambda: named_target("u5"), "did you mean 'u"),
    "option": (lambda: named_target("funnel", width=3), "width"),
    "weights": (lambda: named_target("mixture", weights=[1, 2]), "8 islands need as many weights"),
    "scale": (lambda: named_target("banana", scale=0.0), "scale must be above 0"),
    "no function": (lambda: as_target(3), "must be a name, a function"),
    "no shape": (lambda: as_target(lambda x: x), "pass event_shape"),
    "a column": (
        lambda: check_log_prob(lambda x: x[:, :1], torch.ones(5, 2)),
        "one number a row; received (5, 1)",
    ),
    "a float": (lambda: check_log_prob(lambda x: 1.0, torch.ones(5, 2)), "received float"),
    "nowhere": (
        lambda: check_log_prob(lambda x: x.sum(1) * math.nan, torch.ones(5, 2)),
        "finite at none of 5",
    ),
    "detached": (lambda: check_log_prob(lambda x: x.detach().sum(1), torch.ones(5, 2)), "gives no gradient"),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_one_line(name):
    call, message = CALLS[name]
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_room_is_reached_from_the_package():
    assert modeflow.inference.fit_posterior and modeflow.flows.NSF and modeflow.models.DiscreteNVF
