"""Conditionals of densities that have none: against mixtures of Gaussians, and a banana, in closed form.

Draws are compared with distribution functions by Kolmogorov and Smirnov at a level of 1e-3 each.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from modeflow.densities import Beside, Feature, GaussianMixture
from modeflow.errors import ConfigError
from modeflow.latents import Conditioned, Description, LatentModel

LEVEL = 1e-3


class Plain(LatentModel):
    """A density without a latent and without marginals, which refuses rows with holes."""

    def __init__(self, density):
        super().__init__(density.event_shape)
        self.likelihood, self.chunk_rows = density, 4096

    def _log_prob(self, x, context):
        assert not x.isnan().any()
        return self.likelihood.log_prob(x)

    def draw(self, n, generator=None, temperature=1.0):
        return None, torch.zeros(n, dtype=torch.long)

    def infer(self, x):
        return None

    def read(self, x):
        return torch.zeros(len(x), dtype=torch.long)

    def describe(self):
        return Description("none", "plain", 0, "")


class Banana(torch.nn.Module):
    """x ~ N(0, 1), y ~ N(x², 0.3²)."""

    event_shape, scale = (2,), 0.3

    def log_prob(self, x):
        z = (x[:, 1] - x[:, 0] ** 2) / self.scale
        return -0.5 * (x[:, 0] ** 2 + z**2) - math.log(2 * math.pi * self.scale)

    def draw_events(self, n, context, generator, temperature=1.0):
        e = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return torch.stack([e[:, 0], e[:, 0] ** 2 + self.scale * e[:, 1]], 1)


def mixture(dtype=torch.float64, features=3):
    g = torch.Generator().manual_seed(3)
    factors = torch.randn(3, features, features, generator=g).double() / 2
    covariances = factors @ factors.mT + 0.05 * torch.eye(features).double()
    means = 1.5 * torch.randn(3, features, generator=g).double()
    parts = torch.tensor([0.5, 0.3, 0.2]).double(), means, covariances
    return GaussianMixture(*(part.to(dtype) for part in parts))


def given(m, row):
    """Weights, means and covariances of what a row of a mixture lacks, and the marginal of the rest."""
    lacks = row.isnan()
    found = []
    for w, mean, cov in zip(m.weights.double(), m.means.double(), m.covariances.double(), strict=True):
        inner, across = (
            cov[~lacks][:, ~lacks],
            cov[lacks][:, ~lacks] @ torch.linalg.inv(cov[~lacks][:, ~lacks]),
        )
        away = row[~lacks].double() - mean[~lacks]
        log_w = w.log() + MultivariateNormal(mean[~lacks], inner).log_prob(row[~lacks].double())
        found.append(
            (log_w, mean[lacks] + across @ away, cov[lacks][:, lacks] - across @ cov[~lacks][:, lacks])
        )
    log_w, means, covariances = (torch.stack(each) for each in zip(*found, strict=True))
    return log_w.softmax(0), means, covariances, log_w.logsumexp(0)


def follows(draws, weights, means, variances):
    """Whether draws are of a mixture of Gaussians in one dimension."""
    w, m, s = (each.numpy() for each in (weights, means, variances.sqrt()))
    return stats.kstest(draws.numpy(), lambda t: stats.norm.cdf(t[:, None], m, s) @ w).pvalue > LEVEL


def rows(lacks, n, m, seed=0):
    x = m.sample(n, generator=torch.Generator().manual_seed(seed))
    x[:, lacks] = torch.nan
    return x


# -- the mixture itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lacks", [[1], [0, 2], [0, 1, 2]])
def test_marginals_of_a_mixture(lacks, dtype):
    m = mixture(dtype)
    x = rows(lacks, 20, m)
    expected = torch.stack([given(m, row)[3] for row in x]) if len(lacks) < 3 else torch.zeros(20)
    assert torch.allclose(
        m.log_prob(x).double(), expected.double(), atol=1e-9 if dtype == torch.float64 else 1e-3
    )


def test_draws_of_a_mixture_are_of_its_conditional():
    m = mixture()
    x = rows([0, 2], 2, m)
    noise = torch.rand(4000, 2, m.noise_width, generator=torch.Generator().manual_seed(1)).double()
    full, log_q = m.drawn(x, noise.clamp(1e-9, 1 - 1e-9))
    assert (full[..., 1] == x[:, 1]).all()
    for i, row in enumerate(x):
        w, means, covariances, alone = given(m, row)
        for j, place in enumerate((0, 2)):
            assert follows(full[:, i, place], w, means[:, j], covariances[:, j, j])
        assert torch.allclose(log_q[:5, i], m.log_prob(full[:5, i]) - alone, atol=1e-9)


def test_numbers_that_make_no_mixture():
    with pytest.raises(ConfigError, match="of no mixture"):
        GaussianMixture(torch.ones(2), torch.zeros(1, 3), torch.eye(3).unsqueeze(0))
    with pytest.raises(ConfigError, match="not positive definite"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), -torch.eye(2).unsqueeze(0))


# -- one column ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_column_is_integrated_out(dtype):
    m = mixture(dtype)
    x = rows([2], 30, m)
    found = Conditioned(Plain(m), [Feature()] * 3).log_prob(x)
    expected = torch.stack([given(m, row)[3] for row in x])
    assert (found.double() - expected).abs().max() < 5e-3


def test_one_column_is_drawn():
    m = mixture()
    x = rows([0], 2, m)
    full = Conditioned(Plain(m), [Feature()] * 3).completions(x, 4000, torch.Generator().manual_seed(0))
    assert (full[..., 1:] == x[:, 1:]).all()
    for i, row in enumerate(x):
        w, means, covariances, _ = given(m, row)
        assert follows(full[:, i, 0], w, means[:, 0], covariances[:, 0, 0])


def test_both_columns_of_a_banana():
    density = Conditioned(Plain(Banana()), [Feature()] * 2)
    draws = density.completions(
        torch.tensor([[1.2, math.nan]]).double(), 4000, torch.Generator().manual_seed(0)
    )
    assert stats.kstest(draws[:, 0, 1].numpy(), stats.norm(1.44, 0.3).cdf).pvalue > LEVEL
    # x given y = 2 has two peaks, at about ±√2.
    draws = density.completions(
        torch.tensor([[math.nan, 2.0]]).double(), 4000, torch.Generator().manual_seed(1)
    )
    t = np.linspace(-4, 4, 40_001)
    p = np.exp(-0.5 * (t**2 + ((2 - t**2) / 0.3) ** 2))
    cdf = np.cumsum(p) / p.sum()
    assert stats.kstest(draws[:, 0, 0].numpy(), lambda x: np.interp(x, t, cdf)).pvalue > LEVEL
    alone = density.log_prob(torch.tensor([[math.nan, 2.0]]).double())
    expected = math.log(p.sum() * (t[1] - t[0]) / (2 * math.pi * 0.3))
    assert float(alone) == pytest.approx(expected, abs=5e-3)


# -- several -------------------------------------------------------------------------------------------


def wide(features=3):
    """A proposal that knows little of the density."""
    cov = 9 * torch.eye(features).double()
    return GaussianMixture(torch.ones(1).double(), torch.zeros(1, features).double(), cov.unsqueeze(0))


def test_several_columns_by_a_poor_proposal():
    m = mixture()
    x = rows([0, 2], 3, m)
    density = Conditioned(Plain(m), [Feature()] * 3, proposal=wide())
    assert density.exactness_of(x) == "estimate" and bool(density.sums_out(x).all())
    full = density.completions(x.repeat(400, 1), 1, torch.Generator().manual_seed(0))[0].view(400, 3, 3)
    found = density.log_prob(x)
    assert torch.equal(found, density.log_prob(x.flip(0)).flip(0))  # a function of the row
    for i, row in enumerate(x):
        w, means, covariances, alone = given(m, row)
        for j, place in enumerate((0, 2)):
            assert follows(full[:, i, place], w, means[:, j], covariances[:, j, j])
        # 512 draws, of which a tenth count: 0.13 is a standard error.
        assert float(found[i]) == pytest.approx(float(alone), abs=0.5)


def test_a_sweep_leaves_the_conditional_as_it_is():
    m = mixture()
    row = rows([0, 2], 1, m)[0]
    w, means, covariances, _ = given(m, row)
    g = torch.Generator().manual_seed(0)
    noise = torch.rand(1500, 1, m.noise_width, generator=g).double().clamp(1e-9, 1 - 1e-9)
    full = m.drawn(row.unsqueeze(0), noise)[0][:, 0]
    density = Conditioned(Plain(m), [Feature()] * 3, proposal=m)
    swept = density._swept(full, row, g)
    assert not (swept[:, [0, 2]] == full[:, [0, 2]]).any() and (swept[:, 1] == row[1]).all()
    for j, place in enumerate((0, 2)):
        assert follows(swept[:, place], w, means[:, j], covariances[:, j, j])


def test_what_stands_beside_takes_part():
    """Half of the mass is a Gaussian far off: given a number there, all of it."""
    m, eye = mixture(), torch.eye(3).double()
    half = torch.tensor([0.5]).double()
    beside = Beside(half.log(), torch.full((1, 3), 20.0), eye.unsqueeze(0), torch.tensor([math.inf]))
    density = Conditioned(Plain(m), [Feature()] * 3, beside, wide())
    x = torch.tensor([[20.0, math.nan, 21.0], [math.nan] * 3]).double()
    full = density.completions(x, 2000, torch.Generator().manual_seed(0))
    assert stats.kstest(full[:, 0, 1].numpy(), stats.norm(20, 1).cdf).pvalue > LEVEL
    expected = math.log(0.5) - 0.5 - math.log(2 * math.pi)
    found = density.log_prob(x)
    assert float(found[0]) == pytest.approx(expected, abs=5e-3) and float(found[1]) == 0.0
    # Nothing is known of the other row, which is a sample: half of them lie there (5 errors, 6e-7).
    assert abs(float((full[:, 1, 0] > 10).double().mean()) - 0.5) < 5 * math.sqrt(0.25 / 2000)
    with pytest.raises(ConfigError, match="need a proposal"):
        Conditioned(Plain(m), [Feature()] * 3).completions(rows([0, 2], 1, m), 1)
