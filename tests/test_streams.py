"""Whatever draws inside whatever draws has noise of its own, and a row's noise is the row's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import modeflow.transforms
from drawing_models import DRAWS, NESTS, PAIRS, PARTS, built
from modeflow.densities import BoundedFlow, Flow, StandardNormal
from modeflow.errors import ConfigError
from modeflow.latents import ContinuousLatentModel
from modeflow.latents.posteriors import DiagonalGaussian
from modeflow.transforms import AffineElementwise, Composite, Coupling, Rescale, Rounding, Transform
from modeflow.transforms import noise as streams
from modeflow.transforms.noise import row_noise, uniform_noise

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture
def copies(monkeypatch):
    """Rows that are equal count as different ones: a batch of one row averages over its noise."""
    start = streams._RowNoise.__init__

    def numbered(self, rows, *arguments):
        number = torch.arange(len(rows), device=rows.device, dtype=torch.float32)
        start(self, torch.cat((rows.detach().flatten(1).float(), number.unsqueeze(1)), 1), *arguments)

    monkeypatch.setattr(streams._RowNoise, "__init__", numbered)


def fresh(monkeypatch):
    """In the place of the rows' streams torch's generator, whose numbers never come twice."""
    monkeypatch.setattr(
        streams._RowNoise, "uniform", lambda self, like: torch.rand(like.shape, dtype=torch.float64)
    )


def mean_of_estimates(density, row, n):
    """Mean of the estimated density over n draws of everything, and its standard error."""
    chunks(density, 10**6)
    with torch.no_grad():
        p = density.log_prob(row.expand(n, *row.shape)).double().exp()
    return float(p.mean()), float(p.std()) / math.sqrt(n)


def chunks(density, rows):
    for module in density.modules():
        if hasattr(module, "chunk_rows"):
            module.chunk_rows = rows


class StandardEncoder(nn.Module):
    closed_kl = True

    def forward(self, x):
        return DiagonalGaussian(torch.zeros_like(x), torch.zeros_like(x))


class Slope(nn.Module):
    """Shift and log-scale of ``y = .29 z + .1 ε``, for an affine map from y to noise."""

    def forward(self, kept, z):
        scale = torch.full_like(z, -math.log(0.1) / (1 - math.log(10) / math.log(1e3)))
        return torch.cat((-2.9 * z, scale), 1)


def small_case(draws, z_draws):
    """``z ~ N(0, 1)``, ``y | z ~ N(.29 z, .1²)``, of which the cell ``[-1/2, 1/2)`` is seen."""
    affine = Coupling(torch.tensor([False]), AffineElementwise(), lambda *_: Slope(), 1)
    flow = Flow(affine, StandardNormal(1), 1)
    likelihood = BoundedFlow(Composite([Rounding(), Rescale(1.0, -0.5)]), flow, 1, (1,), draws)
    return ContinuousLatentModel(StandardNormal(1), likelihood, StandardEncoder(), None, z_draws, 10**6)


@DTYPES
@pytest.mark.parametrize(("draws", "z_draws"), [(1, 1), (4, 4)])
def test_a_bound_of_known_probability_is_one(copies, draws, z_draws, dtype):
    """P = 0.897, its logarithm -0.109. Five standard errors: a false alarm in 1e-6 of all hashes."""
    truth = math.erf(0.5 / math.sqrt(2 * (0.29**2 + 0.1**2)))
    model = small_case(draws, z_draws).to(dtype).eval()
    mean, error = mean_of_estimates(model, torch.zeros(1, dtype=dtype), 100_000 // draws**2)
    assert abs(mean / truth - 1) < 5 * error / truth
    assert error < 0.02


@pytest.mark.parametrize(("nest", "part"), PAIRS)
def test_the_estimate_is_right_on_average(copies, monkeypatch, nest, part):
    """Its mean is that with fresh numbers everywhere. Five standard errors: a false alarm in 1e-6."""
    density, rows = built(nest, part)
    n = 300 if NESTS[nest].shares else 4000
    ours = [mean_of_estimates(density, row, n) for row in rows]
    fresh(monkeypatch)
    for row, (mean, error) in zip(rows, ours, strict=True):
        expected, other = mean_of_estimates(density, row, n)
        assert abs(mean - expected) <= 5 * math.hypot(error, other) + 1e-6 * mean
        assert error < 0.4 * mean


@pytest.mark.parametrize(("nest", "part"), [p for p in PAIRS if not NESTS[p[0]].shares])
def test_no_number_comes_twice(monkeypatch, nest, part):
    density, rows = built(nest, part)
    seen: list[torch.Tensor] = []
    draw = streams._RowNoise.uniform

    def recorded(self, like):
        seen.append(draw(self, like))
        return seen[-1]

    monkeypatch.setattr(streams._RowNoise, "uniform", recorded)
    with torch.no_grad():
        density.log_prob(rows)
    assert len(seen) >= DRAWS**2
    for numbers in torch.cat([s.flatten(1) for s in seen], 1):
        assert len(numbers.unique()) == len(numbers)


@DTYPES
@pytest.mark.parametrize(("nest", "part"), PAIRS)
def test_a_row_has_its_noise_in_every_batch(nest, part, dtype):
    density, rows = built(nest, part, dtype)
    close = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 1e-10}
    with torch.no_grad():
        full = density.log_prob(rows)
        assert torch.isfinite(full).all()
        torch.rand(3)
        assert torch.equal(full, density.log_prob(rows))
        order = torch.tensor([2, 0, 0, 1])
        assert torch.allclose(density.log_prob(rows[order]), full[order], **close)
        chunks(density, 2)
        assert torch.allclose(density.log_prob(rows), full, **close)


def test_within_an_estimate_noise_is_the_rows_even_while_training():
    """A part in training mode takes one draw, of the stream it is in."""
    density, rows = built("likelihood of z", "cif")
    density.train()
    assert torch.equal(density.log_prob(rows), density.log_prob(rows))
    assert not torch.equal(density.likelihood.log_prob(rows, rows), density.likelihood.log_prob(rows, rows))


def subclasses(cls):
    return {c for sub in cls.__subclasses__() for c in (sub, *subclasses(sub))}


def test_every_layer_that_draws_is_in_the_table():
    drawing = {c for c in subclasses(Transform) if vars(c).get("exactness") == "lower bound"}
    drawing = {c for c in drawing if c.__module__.startswith(modeflow.transforms.__name__)}
    tested = {type(m) for nest, part in PAIRS for m in built(nest, part)[0].modules()}
    assert drawing and not drawing - tested
    assert {"cif", "dequantised-variational"} <= set(PARTS)


def test_noise_for_other_rows_than_those_of_the_estimate_is_refused():
    with row_noise(torch.zeros(3, 1), 0), pytest.raises(ConfigError, match="asks for noise for 6 rows"):
        uniform_noise(torch.zeros(6, 2))


def test_parts_of_one_stream_are_told_apart_by_what_they_are_and_by_nothing_else():
    rows, part, other = torch.randn(5, 2), object(), object()

    def number(*opened):
        blocks = [row_noise(rows, seed, who) for seed, who in opened]
        for block in blocks:
            block.__enter__()
        found = uniform_noise(torch.zeros(5, 1, dtype=torch.float64))
        for block in reversed(blocks):
            block.__exit__(None, None, None)
        return found

    assert torch.equal(number((0, part)), number((0, other)))
    alone = [number((0, part)), number((1, part)), number((0, part), (0, part)), number((0, part), (1, part))]
    alone += [number((1, part), (0, part)), number((0, part), (0, part), (0, part))]
    assert len(torch.cat(alone).unique()) == 5 * len(alone)
    with row_noise(rows, 0, part):
        first, second = number((0, part)), number((0, other))
        assert not torch.isin(first, second).any()
        assert torch.equal(first, number((0, part))) and torch.equal(second, number((0, other)))
