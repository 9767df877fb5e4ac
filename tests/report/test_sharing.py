"""Rows to share: what tells samples from rows, and whether rows were learned by heart."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from modeflow.data.columns import Categorical, Real, TableSchema
from modeflow.metrics.synthetic import nearest_rows
from modeflow.report.copula import copula_rows
from modeflow.report.sharing import sharing_of, sharing_section

SCHEMA = TableSchema([Real(name="x"), Real(name="y"), Categorical(name="kind", levels=("a", "b"))])


def rows(n, seed):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    x = rng.normal(size=n) + 3 * kind
    return np.column_stack([x, x + 0.3 * rng.normal(size=n), kind])


def test_new_rows_are_not_called_memory():
    """Of twenty draws of the truth; two errors of a difference are passed by chance in some 3 % of them."""
    found = [
        sharing_of(SCHEMA, rows(300, 3 * s), rows(300, 3 * s + 1), rows(900, 3 * s + 2)).remembers
        for s in range(20)
    ]
    assert sum(found) <= 3


def test_repeated_rows_are():
    train = rows(900, 0)
    near = train[:300] + np.array([1e-4, 1e-4, 0.0])
    found = sharing_of(SCHEMA, rows(300, 1), near, train)
    assert found.remembers and "learned by heart: look" in found.verdict[-1]
    assert found.copies.dcr005 > 90 and found.copies.copies == 0
    found = sharing_of(SCHEMA, rows(300, 1), train[:300], train)
    assert found.remembers and found.copies.copies == 100
    assert found.nearest[0].distance == 0 and found.pairs[0][0] == found.pairs[0][1]


def test_a_classifier_tells_shuffled_columns_and_not_the_truth():
    found = sharing_of(SCHEMA, rows(600, 1), rows(600, 2), rows(900, 3))
    assert found.shuffled.auc > found.samples.auc and abs(found.training.auc - 0.5) < 0.1
    told = found.to_dict()
    assert told["rows"] == 600 and told["remembers"] is False and len(told["nearest"]) == 5
    section = sharing_section(found)
    assert "AUC" in section.text[0] and "no proof of privacy" in section.text[1]
    assert len(section.table.rows) == 10


def test_holes_of_test_rows_are_given_to_samples():
    test = rows(60, 1)
    test[:, 0] = np.nan
    found = sharing_of(SCHEMA, test, rows(60, 2), rows(90, 3))
    assert any(cell == "–" for sample, _ in found.pairs for cell in sample)
    assert sharing_of(SCHEMA, test[:1], rows(60, 2), rows(90, 3)) is None


def test_the_nearest_rows_are_those_of_all_pairs():
    train, drawn = rows(40, 0), rows(30, 1)
    frames = [
        {"x": r[:, 0], "y": r[:, 1], "kind": np.array(["a", "b"])[r[:, 2].astype(int)]}
        for r in (train, drawn)
    ]
    found = nearest_rows(*frames, n=4)
    scale = train[:, :2].std(0)
    away = np.abs((drawn[:, None, :2] - train[:, :2]) / scale).sum(2) + 2 * (drawn[:, None, 2] != train[:, 2])
    first = np.argsort(away.min(1))[:4]
    assert [p.synthetic for p in found] == first.tolist()
    assert [p.train for p in found] == away.argmin(1)[first].tolist()
    np.testing.assert_allclose([p.distance for p in found], away.min(1)[first], rtol=1e-5)


@pytest.fixture
def copulas(monkeypatch):
    """A module in the place of `copulas`, whose copula knows no more than the columns."""
    pytest.importorskip("pandas")

    class Fitted:
        def __init__(self, distribution, random_state):
            self.rng = np.random.default_rng(random_state)

        def fit(self, frame):
            assert not frame.isna().any().any() and frame["kind"].between(0, 1).all()
            self.frame = frame

        def sample(self, n):
            if len(self.frame) < 5:
                raise ValueError("too few")
            rows = self.rng.integers(0, len(self.frame), n)
            return self.frame.apply(lambda column: self.rng.permutation(column.to_numpy()[rows]))

    top, many, one = (types.ModuleType(f"copulas{end}") for end in ("", ".multivariate", ".univariate"))
    many.GaussianMultivariate, one.BetaUnivariate = Fitted, object
    for module in (top, many, one):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_copula_stands_beside_where_one_is_installed(copulas):
    train = rows(900, 3)
    train[:90, 0], train[90:180, 2] = np.nan, np.nan
    drawn = copula_rows(SCHEMA, train, 500, seed=1)
    assert drawn.shape == (500, 3) and set(drawn[:, 2]) == {0.0, 1.0}
    # Four standard errors of a share and a mean: by chance in one seed of ten thousand.
    assert abs(drawn[:, 2].mean() - np.nanmean(train[:, 2])) < 0.09
    assert abs(drawn[:, 1].mean() - train[:, 1].mean()) < 4 * train[:, 1].std() / 500**0.5
    test = rows(600, 1)
    test[:50, 0] = np.nan
    found = sharing_of(SCHEMA, test, rows(600, 2), train)
    assert abs(found.copula.auc - found.shuffled.auc) < 0.1 < found.copula.auc - found.samples.auc
    assert f"a Gaussian copula with {found.copula.auc:.2f}." in found.verdict[0]
    assert found.to_dict()["copula"]["auc"] == found.copula.auc


def test_a_copula_that_cannot_be_fitted_is_left_out(copulas):
    assert copula_rows(SCHEMA, rows(4, 0), 10) is None
    assert copula_rows(SCHEMA, np.full((30, 3), np.nan), 10) is None


def test_without_one_it_is_said_where_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "copulas", None)
    found = sharing_of(SCHEMA, rows(60, 1), rows(60, 2), rows(90, 3))
    assert found.copula is None and "copula" not in found.verdict[0] and found.to_dict()["copula"] is None
    assert "pip install copulas" in sharing_section(found).definitions[0].text
