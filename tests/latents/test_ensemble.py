"""The average of several models, against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2

from modeflow.densities import Feature
from modeflow.errors import ConfigError
from modeflow.latents import Ensemble
from modeflow.models import ContinuousNVF, DiscreteNVF, TreeNVF
from modeflow.testing import perturb


def states(k, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    model = DiscreteNVF(2, k, flow="nsf-coupling", flow_options={"layers": 2, "hidden_features": 8})
    return perturb(model, 0.3).to(dtype).eval()


def tree(seed, dtype=torch.float64):
    torch.manual_seed(seed)
    features = (Feature(levels=3), Feature(levels=2), Feature(levels=2))
    return perturb(TreeNVF(features, 4, likelihood="leaves"), 0.5).to(dtype).eval()


def cells():
    grid = [(a, b, c) for a in range(3) for b in range(2) for c in range(2)]
    return torch.tensor(grid, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_is_the_average(dtype):
    members = [states(k, k, dtype) for k in (3, 1, 2)]
    both = Ensemble(members)
    x = torch.randn(50, 2, dtype=dtype)
    expected = torch.stack([m.log_prob(x).exp() for m in members]).mean(0).log()
    torch.testing.assert_close(both.log_prob(x), expected)
    joint = both.log_joint(x)
    assert joint.shape == (50, 6) and both.n_states == 6 and both.describe().count == 6
    torch.testing.assert_close(joint.logsumexp(1), expected)
    torch.testing.assert_close(both.state_probs().sum(), torch.ones((), dtype=dtype))
    # By Jensen's inequality no worse than the mean of the members' logarithms.
    assert (both.log_prob(x) >= torch.stack([m.log_prob(x) for m in members]).mean(0)).all()
    assert both.exactness == "exact" and torch.equal(both.read(x), joint.argmax(1))


def test_samples_come_from_the_members_evenly():
    """States by chi-squared; of one state, by the mean log-density of rows. False alarms: 1e-3 each."""
    members = [states(3, 0), states(2, 1)]
    both = Ensemble(members)
    x, z = both.sample_with_states(20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(z, minlength=5).double()
    expected = 20_000 * both.state_probs()
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-3, 4)
    only, which = both.sample_with_states(4000, torch.Generator().manual_seed(1), state=4)
    assert (which == 4).all()
    mine = members[1].sample_with_states(4000, torch.Generator().manual_seed(2), state=1)[0]
    a, b = both.log_prob(only), both.log_prob(mine)
    error = math.sqrt((a.var() + b.var()) / 4000)
    assert abs(a.mean() - b.mean()) < 3.3 * error
    assert x.shape == (20_000, 2)
    with pytest.raises(ConfigError, match=r"state must lie in 0\.\.4"):
        both.draw_state(5, 1)


def test_cells_sum_to_one_and_marginals_are_sums():
    both = Ensemble([tree(seed) for seed in range(3)])
    x = cells()
    p = both.log_prob(x).exp()
    assert abs(p.sum() - 1) < 1e-10
    some = x.clone()
    some[:, 1:] = math.nan
    marginal = both.log_prob(some[[0, 4, 8]]).exp()
    torch.testing.assert_close(marginal, p.view(3, 4).sum(1))
    assert both.sums_out(some).all() and both.read(x).shape == (12, 3)


def test_missing_cells_are_drawn_by_bayes():
    """Frequencies of all completions against enumeration. False alarms: 1e-3."""
    both = Ensemble([tree(seed) for seed in range(3)])
    n = 20_000
    given = torch.tensor([[1.0, math.nan, math.nan]], dtype=torch.float64).repeat(n, 1)
    drawn = both.complete(given, torch.Generator().manual_seed(0))
    assert (drawn[:, 0] == 1).all()
    counts = torch.bincount((2 * drawn[:, 1] + drawn[:, 2]).long(), minlength=4).double()
    p = both.log_prob(cells()).exp().view(3, 4)[1]
    expected = n * p / p.sum()
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-3, 3)


def test_contexts_go_back_to_their_members():
    members = [states(3, 0), states(1, 1), states(2, 2)]
    both = Ensemble(members)
    x = both.sample(40, generator=torch.Generator().manual_seed(0))
    context = both.infer(x)
    which = context[:, 0].long()
    assert torch.equal(which, torch.stack([m.log_prob(x) for m in members], 1).argmax(1))
    again = both.reconstruct(x)
    for i, member in enumerate(members):
        rows = (which == i).nonzero().flatten()
        if len(rows):
            torch.testing.assert_close(again[rows], member.reconstruct(x[rows]))


def test_members_must_be_of_one_kind():
    with pytest.raises(ConfigError, match="of one kind and shape"):
        Ensemble([states(2, 0), tree(0)])
    with pytest.raises(ConfigError, match="means something else in each"):
        Ensemble([ContinuousNVF(2), ContinuousNVF(2)])
    with pytest.raises(ConfigError, match="needs members"):
        Ensemble([])
