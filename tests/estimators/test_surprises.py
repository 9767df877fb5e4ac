"""What each cell says beside the others: against closed forms, enumeration, and grids."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from modeflow import NVF, FlowDensity
from modeflow.densities import Preprocessed
from modeflow.errors import ConfigError
from modeflow.estimators import surprises as module
from modeflow.latents import LatentModel

SMALL = {"max_epochs": 3, "random_state": 0, "device": "cpu"}
LEAVES = {"latent": "tree", "latent_options": {"likelihood": "leaves", "states": 5}}


def numbers(n=200, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return np.column_stack([a, 3 * a + rng.normal(size=n), rng.exponential(size=n)])


def mixed(n=200, seed=0):
    """Levels, an angle, whole numbers, a column with an atom, missing cells."""
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    rain = np.where(rng.random(n) < 0.4, 0.0, rng.exponential(size=n) + side)
    frame = pd.DataFrame(
        {
            "city": np.array(["Oslo", "Rome"])[side],
            "wind": rng.normal(90 + 90 * side, 20) % 360,
            "count": rng.poisson(4 + 8 * side),
            "rain": rain,
            "size": rng.normal(side, 0.5),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.05).astype({"city": object})


def quiet(estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X)


@pytest.fixture(scope="module")
def tree():
    return quiet(NVF(**LEAVES, columns={"wind": "circular(360)"}, **SMALL), mixed())


@pytest.fixture(scope="module")
def flow():
    return quiet(
        FlowDensity("nsf-coupling", flow_options={"layers": 2, "hidden_features": 8}, **SMALL), numbers()
    )


class Gaussian(LatentModel):
    """A multivariate Gaussian in the place of a latent-variable model."""

    def __init__(self, precision):
        super().__init__((len(precision),))
        self.precision = torch.nn.Parameter(precision)
        self.chunk_rows = 1000

    def _log_prob(self, x, context):
        n = len(self.precision)
        quadratic = ((x @ self.precision) * x).sum(1)
        return 0.5 * (torch.logdet(self.precision) - quadratic - n * math.log(2 * math.pi))


def test_of_a_gaussian_they_are_those_of_its_regressions(flow):
    """x_j given the others is normal with variance 1/P_jj and mean -Σ P_jk x_k / P_jj."""
    a = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precision = a @ a.T + 0.3 * torch.eye(3, dtype=torch.float64)
    model = Preprocessed(flow._scorer().transform, Gaussian(precision), 1).eval()
    X = numbers(20, 3)
    with torch.no_grad():
        u, _ = model.transform(torch.from_numpy(X))
        slopes = torch.stack(
            [
                torch.autograd.functional.jacobian(lambda row: model.transform(row[None])[0][0], x).diagonal()
                for x in torch.from_numpy(X)
            ]
        )
    diagonal = precision.diagonal()
    mean = -(u @ precision - u * diagonal) / diagonal
    z = (u - mean) * diagonal.sqrt()
    exact = 0.5 * z**2 - 0.5 * diagonal.log() + 0.5 * math.log(2 * math.pi) - slopes.abs().log()
    before, flow._scorer_model = flow._scorer_model, model
    try:
        found = flow.surprises(X)
    finally:
        flow._scorer_model = before
    np.testing.assert_allclose(found, exact.detach().numpy(), atol=4e-3)


def test_of_a_flow_they_are_those_of_a_fine_grid(flow):
    X = numbers(6, 1)
    found = flow.surprises(X)
    for j in range(3):
        grid = np.linspace(-30, 30, 30_001)
        many = np.repeat(X, len(grid), 0)
        many[:, j] = np.tile(grid, len(X))
        mass = np.exp(flow.score_samples(many)).reshape(len(X), -1).sum(1) * (grid[1] - grid[0])
        np.testing.assert_allclose(found[:, j], np.log(mass) - flow.score_samples(X), atol=6e-3)


def test_leaves_by_marginals_and_by_quadrature_agree(tree, monkeypatch):
    """The way without marginals, on levels, an angle, a lattice and numbers, beside missing cells."""
    X = mixed(40, 2)
    exact = tree.surprises(X)
    monkeypatch.setattr(module, "_is_known", lambda *_: False)
    monkeypatch.setattr(module, "_INTEGRATED", 7)
    np.testing.assert_allclose(tree.surprises(X), exact, atol=5e-3)
    assert (np.isnan(exact) == X.isna().to_numpy()).all() and np.isnan(exact).any()


def test_chains_that_leave_out_what_is_missing_need_no_quadrature(monkeypatch):
    """A latent flow whose generator is linear: its bounds are densities, with cells missing too."""
    options = {"posterior": "langevin", "features": 1, "draws": 2, "langevin_steps": 2}
    settings = {"latent": "continuous", "likelihood": "gaussian", "latent_options": options}
    X = numbers(60)[:, :2]
    estimator = quiet(NVF(**settings, likelihood_options={"decoder_features": [], "scale": 0.4}, **SMALL), X)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_is_known", lambda *_: False)
        integrated = estimator.surprises(X[:6])
    monkeypatch.setattr(module, "slice_of", None)
    assert np.allclose(estimator.surprises(X[:6]), integrated, atol=5e-3)


def test_atoms_are_a_part_of_what_a_column_may_be(monkeypatch):
    frame = mixed(300, 5)[["rain", "size"]].dropna()
    estimator = quiet(NVF(**LEAVES, columns={"rain": {"kind": "real", "atoms": [0.0]}}, **SMALL), frame)
    assert estimator.domain_.schema.features()[0].atoms == (0.0,)
    exact = estimator.surprises(frame[:40])
    monkeypatch.setattr(module, "_is_known", lambda *_: False)
    np.testing.assert_allclose(estimator.surprises(frame[:40]), exact, atol=5e-3)


def test_levels_are_summed_by_enumeration(tree):
    X = mixed(30, 4).dropna()[["city", "wind", "count", "rain", "size"]]
    found = tree.surprises(X)[:, 0]
    # The same by scores of both cities; offsets of the lattice are others for another row.
    both = np.stack([tree.score_samples(X.assign(city=city)) for city in ("Oslo", "Rome")])
    np.testing.assert_allclose(found, np.logaddexp(*both) - tree.score_samples(X), atol=0.05)


def test_sums_over_a_table_of_levels_are_exact():
    rng = np.random.default_rng(0)
    a = rng.integers(3, size=300)
    frame = pd.DataFrame({"a": a.astype(str), "b": ((a + rng.integers(2, size=300)) % 3).astype(str)})
    estimator = quiet(NVF(**LEAVES, **SMALL), frame)
    cells = pd.DataFrame([(i, j) for i in "012" for j in "012"], columns=["a", "b"])
    joint = np.exp(estimator.score_samples(cells)).reshape(3, 3)
    assert abs(joint.sum() - 1) < 1e-9
    given_b, given_a = joint / joint.sum(0), joint / joint.sum(1, keepdims=True)
    exact = -np.log(np.stack([given_b.ravel(), given_a.ravel()], 1))
    np.testing.assert_allclose(estimator.surprises(cells), exact, atol=1e-9)


def test_expected_surprises_are_their_mean_over_the_model(tree):
    drawn = tree.sample(4000, random_state=7)[0]
    surprises = tree.surprises(drawn)
    error = surprises.std(0) / math.sqrt(200) + surprises.std(0) / math.sqrt(4000)
    # By chance false: 4.5 standard errors, five columns, 4e-5.
    assert (np.abs(tree.expected_surprises() - surprises.mean(0)) < 4.5 * error).all()


def test_units_move_surprises_and_not_what_exceeds_the_expected(tree):
    metres = numbers(300, 6)
    kilometres = metres * [1, 1, 1e-3]
    found = []
    for X in (metres, kilometres):
        estimator = quiet(NVF(**LEAVES, **SMALL), X)
        found.append((estimator.surprises(X[:20]), estimator.expected_surprises()))
    (one, of_one), (other, of_other) = found
    np.testing.assert_allclose(one[:, 2] - other[:, 2], math.log(1000), atol=1e-6)
    np.testing.assert_allclose(one - of_one, other - of_other, atol=1e-6)


@pytest.mark.filterwarnings("ignore:column 'city'")
def test_a_value_that_a_column_cannot_have_is_the_reason(tree):
    row = mixed(30, 4).dropna()[:1].assign(city="Paris")
    found = tree.surprises(row)[0]
    assert found[0] == np.inf and np.isnan(found[1:]).all()


def test_an_ensemble_averages_densities_before_the_quotient():
    X = numbers()
    one = quiet(NVF(**LEAVES, ensemble=2, **SMALL), X)
    members = one.latent_.members
    assert len(members) == 2
    hidden = X[:10].copy()
    hidden[:, 1] = np.nan
    expected = one._score(hidden) - one.score_samples(X[:10])
    np.testing.assert_allclose(one.surprises(X[:10])[:, 1], expected, atol=1e-8)


def test_images_have_no_columns():
    images = SimpleNamespace(domain_=SimpleNamespace(word="image"))
    with pytest.raises(ConfigError, match="images have no columns"):
        module.left_out(images, None)
