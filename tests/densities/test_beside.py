"""Elliptical densities beside a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from modeflow.densities import Beside, StandardNormal
from modeflow.transforms.columns import tails_drawn_in

DOUBLE = torch.float64


def made(features: int = 3) -> tuple[Beside, list[np.ndarray]]:
    """A Gaussian and two t's, and their covariances."""
    rng = np.random.default_rng(0)
    roots = [np.eye(features) + 0.4 * rng.normal(size=(features, features)) for _ in range(3)]
    scales = [root @ root.T for root in roots]
    whiten = [np.linalg.inv(np.linalg.cholesky(scale)) for scale in scales]
    means = rng.normal(size=(3, features))
    weights, freedom = torch.tensor([0.2, 0.1, 0.3]).log(), torch.tensor([math.inf, 1.0, 4.0])
    return Beside(weights, torch.from_numpy(means), torch.from_numpy(np.array(whiten)), freedom), scales


def reference(beside: Beside, scales: list[np.ndarray], x: np.ndarray, keep: list[int]) -> np.ndarray:
    """The same by scipy, of some columns."""
    total = np.zeros(len(x))
    for weight, mean, scale, freedom in zip(
        beside.log_weights.exp(), beside.means.numpy(), scales, beside.freedom.tolist(), strict=True
    ):
        part = scale[np.ix_(keep, keep)]
        law = stats.multivariate_t(mean[keep], part, df=freedom)
        total += float(weight) * law.pdf(x[:, keep])
    return np.log(total)


def test_it_is_that_of_scipy():
    beside, scales = made()
    x = np.random.default_rng(1).normal(0, 3, (40, 3))
    found = beside.log_prob(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, reference(beside, scales, x, [0, 1, 2]), atol=1e-7)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_column_is_integrated_out(column):
    beside, scales = made()
    x = np.random.default_rng(2).normal(0, 3, (40, 3))
    keep = [j for j in range(3) if j != column]
    hidden = torch.from_numpy(x).clone()
    hidden[:, column] = torch.nan
    found = beside.log_prob(hidden, column).numpy()
    np.testing.assert_allclose(found, reference(beside, scales, x, keep), atol=1e-7)


def test_joint_densities_add_up_to_the_lifted_one():
    beside, _ = made()
    u = torch.randn(20, 3, dtype=DOUBLE)
    joint = torch.randn(20, 4, dtype=DOUBLE)
    lifted = beside.lift(u, joint)
    assert torch.allclose(lifted.logsumexp(1), beside.lift(u, joint.logsumexp(1)), atol=1e-12)
    assert torch.allclose(lifted.softmax(1), joint.softmax(1), atol=1e-12)
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)
    none = beside.lift(u, torch.full_like(joint, -math.inf), prior)
    assert torch.allclose(none.softmax(1), prior.expand(20, -1), atol=1e-12)
    assert torch.allclose(none.logsumexp(1), beside.log_prob(u), atol=1e-12)


def with_other(kind: torch.dtype = DOUBLE) -> tuple[Beside, Beside, StandardNormal]:
    """The same beside another model, and without, and that model."""
    plain, _ = made()
    normal = StandardNormal(3).to(kind)
    weights = plain.log_weights - math.log(2)
    parts = weights, plain.means, plain.whiten, plain.freedom
    return Beside(*parts, other=normal, log_other=math.log(0.4)), Beside(*parts), normal


@pytest.mark.parametrize("kind", [DOUBLE, torch.float32])
def test_another_model_has_its_share(kind):
    beside, plain, normal = with_other(kind)
    u, own = torch.randn(20, 3, dtype=kind), torch.randn(20, dtype=kind)
    total = 0.3 * own.exp() + plain.log_prob(u).exp() + 0.4 * normal.log_prob(u).exp()
    near = 1e-5 if kind == torch.float32 else 1e-12
    assert beside.log_rest.exp().item() == pytest.approx(0.3)  # .2, .1 and .3, halved, and .4
    assert torch.allclose(beside.lift(u, own), total.log(), atol=near)
    assert beside.lift(u, own).dtype == kind
    assert torch.allclose(beside.lift(u, own, other=normal.log_prob(u)), total.log(), atol=near)
    joint = torch.randn(20, 4, dtype=kind)
    lifted = beside.lift(u, joint)
    assert torch.allclose(lifted.logsumexp(1), beside.lift(u, joint.logsumexp(1)), atol=near)
    assert torch.allclose(lifted.softmax(1), joint.softmax(1), atol=near)


def test_draws_come_from_another_model():
    """Shares, and the other's quartiles; false alarm of all together below 1e-4 (5 standard errors)."""
    beside, plain, _ = with_other()
    n = 40_000
    chosen, rows = beside.draw(n, torch.Generator().manual_seed(0))
    assert len(rows) == int(chosen.sum())
    assert abs(chosen.double().mean().item() - 0.7) < 5 * math.sqrt(0.21 / n)
    only = Beside(
        torch.full((1,), -50.0), plain.means[:1], plain.whiten[:1], plain.freedom[:1],
        other=StandardNormal(3), log_other=-1e-12,
    )  # fmt: skip
    _, rows = only.draw(n, torch.Generator().manual_seed(1))
    for level in (0.25, 0.5, 0.9):
        below = (rows.numpy() < stats.norm.ppf(level)).mean(0)
        assert (np.abs(below - level) < 5 * math.sqrt(level * (1 - level) / n)).all()


def test_numbers_stay_in_double_precision():
    beside, _ = made()
    before = beside.means.clone()
    beside.float()
    assert beside.means.dtype == DOUBLE and torch.equal(beside.means, before)
    assert beside.log_prob(torch.zeros(2, 3)).dtype == torch.float32


def test_draws_have_its_shares_and_its_scales():
    """Quartiles of whitened coordinates; false alarm of all together below 1e-4 (5 standard errors)."""
    beside, _ = made()
    n = 60_000
    chosen, rows = beside.draw(n, torch.Generator().manual_seed(0))
    share = beside.log_weights.exp().sum().item()
    assert abs(chosen.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / n)
    only = Beside(torch.zeros(1) - 1e-12, beside.means[2:], beside.whiten[2:], beside.freedom[2:])
    _, rows = only.draw(n, torch.Generator().manual_seed(1))
    z = ((rows - only.means) @ only.whiten[0].T).numpy()
    for level in (0.25, 0.5, 0.9):
        below = (z < stats.t(4).ppf(level)).mean(0)
        assert (np.abs(below - level) < 5 * math.sqrt(level * (1 - level) / len(z))).all()


def drawn_in(tail: float) -> Beside:
    beside, _ = made()
    return Beside(beside.log_weights, beside.means, beside.whiten, beside.freedom, tail)


@pytest.mark.parametrize("column", [None, 0, 2])
def test_a_t_has_its_tails_where_they_are_not_drawn_in(column):
    plain, _ = made()
    tail = 2.0
    beside = drawn_in(tail)
    v = torch.from_numpy(np.random.default_rng(3).normal(0, 9, (50, 3)))
    u, slope = tails_drawn_in(v, torch.tensor(tail))
    keep = [j for j in range(3) if j != column]
    for j in (1, 2):  # the t's alone, each
        weights = torch.full((3,), -math.inf).index_fill(0, torch.tensor([j]), 0.0)
        one = Beside(weights, plain.means, plain.whiten, plain.freedom, tail)
        other = Beside(weights, plain.means, plain.whiten, plain.freedom)
        found, wanted = one.log_prob(u, column), other.log_prob(v, column) - slope[:, keep].sum(1)
        assert torch.allclose(found, wanted, atol=1e-10)
    near = u.clamp(-1.9, 1.9)
    assert torch.allclose(beside.log_prob(near), plain.log_prob(near), atol=1e-12)


def test_draws_of_a_t_are_drawn_in():
    """The same numbers drawn, seen before and after."""
    plain, _ = made()
    _, rows = plain.draw(3000, torch.Generator().manual_seed(0))
    _, mapped = drawn_in(2.0).draw(3000, torch.Generator().manual_seed(0))
    same = (mapped == rows).all(1)
    known = torch.isclose(mapped, tails_drawn_in(rows, torch.tensor(2.0))[0], atol=1e-12).all(1)
    assert (same | known).all() and (known & ~same).any() and (same & ~known).any()


def test_rows_beyond_all_squares_have_a_density():
    _, scales = made()
    for beside in (made()[0], drawn_in(8.0)):
        rows = torch.tensor([[1e200, 0.0, 0.0], [508.0, -300.0, 0.0], [1e60, 1e60, 1e60]], dtype=DOUBLE)
        assert beside.log_prob(rows).isfinite().all()
        assert beside.log_prob(rows, 1).isfinite().all()
    at = np.array([[1e70, -1e70, 3.0]])
    found = made()[0].log_prob(torch.from_numpy(at)).numpy()
    np.testing.assert_allclose(found, reference(made()[0], scales, at, [0, 1, 2]), rtol=1e-9)
