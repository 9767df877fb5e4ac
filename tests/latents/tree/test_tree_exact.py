"""Every number of a tree against sums over all its states, one by one."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from modeflow.densities import Feature
from modeflow.latents.tree.messages import tree_log_prob, upward
from modeflow.latents.tree.structure import Tree
from small_trees import ANGLE, CELLS, CODE, REAL, joint_by_hand, leaves_model, rows_of

NAN = math.nan
#: Depth 2 with two children, a chain, a star; every kind of leaf.
CASES = {
    "mixed": ((REAL, CODE, ANGLE, CELLS), (1, 3, 1, -1)),
    "chain": ((REAL, CODE, REAL, CODE), (-1, 0, 1, 2)),
    "star": ((CODE, ANGLE, REAL, CELLS), (2, 2, -1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_log_prob_is_the_sum_over_all_states(name):
    features, parents = CASES[name]
    model = leaves_model(features, parents)
    rows = rows_of(features, 8)
    rows[4, 0], rows[5, 1], rows[6, 2:], rows[7] = NAN, NAN, NAN, NAN
    sums = [sum(joint_by_hand(model, row).values()) for row in rows.tolist()]
    expected = torch.tensor(sums, dtype=torch.float64).log()
    torch.testing.assert_close(model.log_prob(rows).detach(), expected, rtol=0, atol=1e-10)
    assert float(model.log_prob(rows[7:]).detach()) == pytest.approx(0, abs=1e-12)
    single = copy.deepcopy(model).float().log_prob(rows.float()).detach().double()
    torch.testing.assert_close(single, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", CASES)
def test_posterior_of_every_node(name):
    features, parents = CASES[name]
    model = leaves_model(features, parents)
    rows = rows_of(features, 4, seed=1)
    rows[3, :2] = NAN
    found = model.node_posterior(rows)
    assert found.shape == (4, 4, 3)
    for row, posterior in zip(rows.tolist(), found, strict=True):
        joint = joint_by_hand(model, row)
        total = sum(joint.values())
        expected = torch.zeros(4, 3, dtype=torch.float64)
        for z, p in joint.items():
            for f, k in enumerate(z):
                expected[f, k] += p / total
        torch.testing.assert_close(posterior, expected, rtol=0, atol=1e-12)
    # KL(p(z | x) || p(z)) is what z costs.
    cost = model.log_prob_and_cost(rows)[1]
    for row, value in zip(rows.tolist(), cost.tolist(), strict=True):
        joint, prior = joint_by_hand(model, row), joint_by_hand(model, [NAN] * 4)
        total = sum(joint.values())
        kl = sum(p / total * math.log(p / total / prior[z]) for z, p in joint.items())
        assert value == pytest.approx(kl, abs=1e-10)


def test_probabilities_of_all_cells_sum_to_one():
    features = (Feature(levels=2), Feature(levels=3), CELLS, Feature(levels=4))
    model = leaves_model(features, (1, -1, 1, 0), states=4)
    points = list(itertools.product(range(2), range(3), (-9.0, -0.2, 0.1, 1.0, 30.0), range(4)))
    total = model.log_prob(torch.tensor(points, dtype=torch.float64)).exp().sum()
    assert float(total.detach()) == pytest.approx(1, abs=1e-10)


def test_codes_and_one_real_integrate_to_one():
    features = (Feature(levels=2), REAL, Feature(levels=3), ANGLE)
    model = leaves_model(features, (-1, 0, 1, 1))
    codes = torch.tensor(list(itertools.product(range(2), range(3))), dtype=torch.float64)
    # Smooth, and zero at the ends of the line: the rule of rectangles is exact, as it is on the circle.
    x = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    angle = -math.pi + 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400
    total = 0.0
    for a, b in codes.tolist():
        grid = torch.cartesian_prod(x, torch.tensor([NAN], dtype=torch.float64))
        rows = torch.stack(
            [torch.full_like(grid[:, 0], a), grid[:, 0], torch.full_like(grid[:, 0], b), grid[:, 1]], 1
        )
        total += float(model.log_prob(rows).detach().exp().sum()) * float(x[1] - x[0])
    assert total == pytest.approx(1, abs=1e-9)
    one = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64).expand(len(angle), 3)
    over = float(model.log_prob(torch.cat((one, angle[:, None]), 1)).detach().exp().sum()) * 2 * math.pi / 400
    without = torch.tensor([[1.0, 0.3, 2.0, NAN]], dtype=torch.float64)
    assert over == pytest.approx(float(model.log_prob(without).detach().exp()), rel=1e-9)


def test_marginals_are_sums_of_the_joint():
    features = (Feature(levels=2), Feature(levels=3), REAL, CELLS)
    model = leaves_model(features, (2, 0, -1, 1))
    observed = [1.0, NAN, 0.4, NAN]
    rows = torch.tensor([[1.0, b, 0.4, c] for b in range(3) for c in (-9.0, -0.2, 0.1, 1.0, 30.0)]).double()
    marginal = model.log_prob(torch.tensor([observed]).double()).exp()
    assert float(marginal.detach()) == pytest.approx(
        float(model.log_prob(rows).detach().exp().sum()), rel=1e-10
    )


def test_completion_has_the_frequencies_of_bayes():
    """Pearson's χ² of 20,000 completions, at a false-alarm rate of 1e-6."""
    features = (Feature(levels=2), Feature(levels=3), REAL, Feature(levels=2))
    model = leaves_model(features, (1, -1, 1, 0))
    n = 20_000
    row = torch.tensor([NAN, NAN, 0.7, 1.0]).double()
    filled = model.complete(row.repeat(n, 1), torch.Generator().manual_seed(1))
    torch.testing.assert_close(filled[:, 2:], row[2:].repeat(n, 1), rtol=0, atol=0)
    cells = torch.tensor([[a, b, 0.7, 1.0] for a in range(2) for b in range(3)]).double()
    p = (model.log_prob(cells) - model.log_prob(row[None])).detach().exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-10)
    seen = torch.bincount((filled[:, 0] * 3 + filled[:, 1]).long(), minlength=6).double()
    assert float(((seen - n * p).square() / (n * p)).sum()) < chi2.ppf(1 - 1e-6, 5)


def test_completed_reals_follow_their_conditional():
    """Kolmogorov–Smirnov distance of 10,000 completions to the conditional, at a false-alarm rate of 1e-6."""
    features = (REAL, Feature(levels=3), REAL)
    model = leaves_model(features, (1, -1, 1))
    row = torch.tensor([NAN, NAN, -0.3]).double()
    filled = model.complete(row.repeat(10_000, 1), torch.Generator().manual_seed(2))[:, 0].sort().values
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    grid = torch.stack([x, torch.full_like(x, NAN), torch.full_like(x, -0.3)], 1)
    density = (model.log_prob(grid) - model.log_prob(row[None])).detach().exp()
    cdf = density.cumsum(0) * (x[1] - x[0])
    assert float(cdf[-1]) == pytest.approx(1, abs=1e-6)
    at = torch.from_numpy(np.interp(filled.numpy(), x.numpy(), cdf.numpy()))
    empirical = (torch.arange(10_000) + 0.5) / 10_000
    # P(distance > d) <= 2 exp(-2 n d²)
    assert float((at - empirical).abs().max()) < math.sqrt(math.log(2e6) / 2e4) + 1e-3


def test_samples_have_the_probabilities_of_their_cells():
    """Pearson's χ² of 20,000 samples, at a false-alarm rate of 1e-6."""
    features = (Feature(levels=2), Feature(levels=3), CELLS)
    model = leaves_model(features, (1, -1, 0))
    n = 20_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(3))
    edges = torch.tensor(CELLS.cells).double()
    cell = torch.searchsorted(edges, drawn[:, 2].contiguous(), right=True)
    index = ((drawn[:, 0] * 3 + drawn[:, 1]) * 5 + cell).long()
    inner = (-9.0, -0.2, 0.2, 1.0, 30.0)
    rows = torch.tensor([[a, b, c] for a in range(2) for b in range(3) for c in inner]).double()
    expected = n * model.log_prob(rows).detach().exp()
    seen = torch.bincount(index, minlength=30).double()
    many = expected > 5
    statistic = float(((seen - expected).square() / expected)[many].sum())
    assert int(many.sum()) > 15
    assert statistic < chi2.ppf(1 - 1e-6, int(many.sum()))


def test_prior_and_likelihood_are_the_joint():
    features, parents = CASES["mixed"]
    model = leaves_model(features, parents)
    row = rows_of(features, 1)
    for z, p in joint_by_hand(model, row[0].tolist()).items():
        state = torch.tensor([z])
        found = model.prior.log_prob(state.double()) + model.likelihood.log_prob(row, state.double())
        assert float(found.detach()) == pytest.approx(math.log(p), abs=1e-10)


# -- the gradient ---------------------------------------------------------------------------------


def _arguments(features: int = 5, states: int = 3):
    generator = torch.Generator().manual_seed(0)
    leaves = torch.randn(features, 4, states, generator=generator, dtype=torch.float64) * 3
    root = torch.rand(states, generator=generator, dtype=torch.float64).softmax(0)
    tables = torch.randn(features - 1, states, states, generator=generator, dtype=torch.float64).softmax(-1)
    return [part.requires_grad_() for part in (leaves, root, tables)]


TREES = [Tree((-1, 0, 0, 1, 1)), Tree((1, 2, 3, 4, -1)), Tree.star(5)]


@pytest.mark.parametrize("tree", TREES)
def test_gradient_of_the_messages(tree):
    leaves, root, tables = _arguments()
    assert torch.autograd.gradcheck(lambda *parts: tree_log_prob(*parts, tree), (leaves, root, tables))


@pytest.mark.parametrize("tree", TREES)
def test_messages_are_those_of_plain_autograd(tree):
    """The same sum written down feature by feature and differentiated by autograd."""
    leaves, root, tables = _arguments()

    def plain(place: int):
        value = leaves[place]
        for edge, parent in enumerate(tree.parent_places.tolist()):
            if parent == place:
                child = plain(edge + 1)
                value = value + torch.logsumexp(child.unsqueeze(1) + tables[edge].log(), -1)
        return value

    slow = torch.logsumexp(plain(0) + root.log(), -1)
    fast = tree_log_prob(leaves, root, tables, tree)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    weight = torch.tensor([0.3, 1.0, 2.0, 0.0]).double()
    for a, b in zip(
        torch.autograd.grad((fast * weight).sum(), (leaves, root, tables)),
        torch.autograd.grad((slow * weight).sum(), (leaves, root, tables)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_far_states_cost_no_precision_in_single_precision():
    """Leaves that contradict one another by thousands of nats: finite, and what double precision says."""
    generator = torch.Generator().manual_seed(0)
    tree = Tree((-1, 0, 0, 0, 1))
    leaves = 2000 * torch.randn(5, 50, 4, generator=generator)
    root, tables = torch.full((4,), 0.25), torch.full((4, 4, 4), 1e-7) + (1 - 4e-7) * torch.eye(4)
    single = upward(leaves, root, tables, tree).log_prob.double()
    double = upward(leaves.double(), root.double(), tables.double(), tree).log_prob
    torch.testing.assert_close(single, double, rtol=1e-6, atol=1e-2)
    assert bool(torch.isfinite(single).all())
