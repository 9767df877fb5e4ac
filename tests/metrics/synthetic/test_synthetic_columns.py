"""Shape, Trend and mutual information: by hand, by a slow second way, and where the answer is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import mutual_info_score
from synthetic_tables import CATEGORICAL, mixed, shuffled

from modeflow.errors import DataError
from modeflow.metrics import synthetic
from modeflow.metrics.synthetic.columns import _joint

ALL = [synthetic.shape, synthetic.trend, synthetic.mutual_information]


@pytest.mark.parametrize("score", ALL)
def test_real_rows_in_another_order_are_perfect(score):
    real = mixed(500)
    assert score(real, real.sample(frac=1, random_state=0), CATEGORICAL).score == pytest.approx(1, abs=1e-12)


def test_shuffled_columns_keep_their_shape_alone():
    real = mixed(2000)
    fake = shuffled(real)
    assert synthetic.shape(real, fake, CATEGORICAL).score == 1
    assert synthetic.trend(real, fake, CATEGORICAL).score < 0.8
    assert synthetic.mutual_information(real, fake, CATEGORICAL).score < 0.7
    pairs = synthetic.mutual_information(real, fake, CATEGORICAL).worst(2)
    assert {"x", "y"} == {*pairs[0][0], *pairs[1][0]} - {"name"} and pairs[0][1] < pairs[1][1]


def test_shape_by_hand():
    real = {"x": [1.0, 2.0, 3.0, 4.0], "c": ["a", "a", "b", "b"]}
    fake = {"c": ["a", "c"], "x": [3.5, 2.0]}
    found = synthetic.shape(real, fake)
    # F_r - F_s: 1/4 at 1, 0 at 2, 1/4 at 3, -1/4 at 3.5. Levels: |1/2-1/2| + |1/2-0| + |0-1/2|, halved.
    assert found.columns == {"x": 0.75, "c": 0.5}
    assert found.score == 0.625 and found.worst(1) == [("c", 0.5)]
    assert found.to_dict() == {"score": 0.625, "columns": {"x": 0.75, "c": 0.5}}


def test_shape_is_the_statistic_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300).round(1), rng.normal(0.2, 1.3, size=177).round(1)
    found = synthetic.shape({"x": a}, {"x": np.append(b, [np.nan, np.nan])})
    assert found.score == pytest.approx(1 - ks_2samp(a, b).statistic, abs=1e-14)


def test_missing_cells_are_a_level_of_categories_and_left_out_of_numbers():
    real = {"x": [1.0, np.nan], "c": ["a", None], "n": [np.nan, np.nan]}
    fake = {"x": [1.0, 1.0], "c": ["a", "a"], "n": [np.nan, 1.0]}
    assert synthetic.shape(real, fake).columns == {"x": 1, "c": 0.5, "n": 0}


def test_trend_by_hand():
    real = {"x": [0.0, 1.0, 2.0, 10.0], "y": [0.0, 1.0, 2.0, 10.0], "c": ["a", "a", "b", "b"]}
    fake = {"x": [0.0, 1.0, 2.0, 20.0], "y": [0.0, -1.0, -2.0, -20.0], "c": ["a", "a", "b", "b"]}
    found = synthetic.trend(real, fake)
    # Correlations 1 and -1. The bins of x, by each table's own edges: 1, 2, 3, 11 and 1, 1, 2, 11.
    # (1,a) 1/4 and 1/2, (2,a) 1/4 and 0, (3,b) 1/4 and 0, (2,b) 0 and 1/4, (11,b) 1/4 both: TV 1/2.
    # y of the real table: 1a, 2a, 3b, 11b; of the other: 11a, 10a, 10b, 1b: nothing in common.
    assert found.pairs == pytest.approx({("x", "y"): 0, ("x", "c"): 0.5, ("y", "c"): 0}, abs=1e-12)
    assert found.score == pytest.approx(0.5 / 3) and found.undefined == ()
    assert found.to_dict()["pairs"][1] == ["x", "c", pytest.approx(0.5)]


def test_a_wrong_maximum_shifts_every_bin():
    rng = np.random.default_rng(0)
    real = {"x": rng.uniform(0, 1, 500), "c": rng.integers(0, 2, 500)}
    # One cell of 500 has moved, by so much that all others fall into one bin.
    fake = {"x": np.append(real["x"][:-1], 100.0), "c": real["c"]}
    assert synthetic.trend(real, fake, ["c"]).score < 0.2 < 0.99 < synthetic.shape(real, fake, ["c"]).score


def test_correlations_leave_out_missing_cells_in_pairs():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) * [1, 1e6, 1e-3] + [1e3, 0, 5]
    tables = []
    for seed in (1, 2):
        holes = np.random.default_rng(seed).random(base.shape) < 0.2
        tables.append(pd.DataFrame(np.where(holes, np.nan, base), columns=list("abc")))
    found = synthetic.trend(*tables).pairs
    first, second = (table.corr() for table in tables)
    for pair, value in found.items():
        assert value == pytest.approx(1 - abs(first.loc[pair] - second.loc[pair]) / 2, abs=1e-10)


def test_constant_columns():
    rng = np.random.default_rng(0)
    real = {"k": np.full(50, 0.1), "x": rng.normal(size=50), "c": rng.integers(0, 2, 50)}
    found = synthetic.trend(real, real, ["c"])
    assert found.undefined == (("k", "x"),) and found.score == pytest.approx(1)
    assert synthetic.shape(real, real, ["c"]).score == 1
    assert synthetic.mutual_information(real, real, ["c"]).score == 1
    nothing = {"k": [1.0, 1.0], "j": [2.0, 2.0]}
    assert np.isnan(synthetic.trend(nothing, nothing).score)
    assert synthetic.mutual_information(nothing, nothing).score == 1


def test_large_tables_are_cut_to_the_same_part_each_time():
    real = mixed(900)
    once, again, other = (
        synthetic.trend(real, mixed(700, 5), CATEGORICAL, max_rows=100, seed=s) for s in (0, 0, 1)
    )
    assert once == again and once.pairs != other.pairs
    # Two numbers are compared by all rows.
    assert once.pairs["x", "y"] == other.pairs["x", "y"]


def test_mutual_information_by_hand():
    real = {"a": list("uuvv"), "b": list("uuvv"), "c": list("uvuv")}
    fake = {"a": list("uuvv"), "b": list("uvuv"), "c": list("uvuv")}
    # NMI of (a, b), (a, c), (b, c): 1, 0, 0 and 0, 0, 1: the two that differ have weight 1, and differ by 1.
    found = synthetic.mutual_information(real, fake)
    assert found.pairs == pytest.approx({("a", "b"): 0, ("a", "c"): 1, ("b", "c"): 0}, abs=1e-12)
    assert (found.score, found.unweighted) == (pytest.approx(0, abs=1e-12), pytest.approx(1 / 3))


def test_mutual_information_a_second_way():
    real, fake = mixed(400), shuffled(mixed(300, 3))
    fake.loc[:20, "x"] = 99.0  # outside the real range: one bin more
    columns = list(real)
    edges = {name: np.histogram_bin_edges(real[name], bins=10) for name in "xy"}

    def informations(table):
        cut = {
            name: pd.Categorical(pd.cut(table[name], edges[name], include_lowest=True)).codes
            if name in edges
            else pd.Categorical(table[name]).codes
            for name in columns
        }
        for a, b in combinations(columns, 2):
            whole = mutual_info_score(cut[a], cut[a]) + mutual_info_score(cut[b], cut[b])
            yield 2 * mutual_info_score(cut[a], cut[b]) / whole

    a, b = (np.array(list(informations(table))) for table in (real, fake))
    expected = 1 - ((a + b) * abs(a - b)).sum() / (a + b).sum()
    found = synthetic.mutual_information(real, fake, CATEGORICAL)
    assert found.score == pytest.approx(expected, abs=1e-12)
    assert found.unweighted == pytest.approx(1 - abs(a - b).mean(), abs=1e-12)


def test_columns_of_few_values_are_not_cut():
    rng = np.random.default_rng(0)
    # Eleven values of which two share a bin of ten: their difference is all that y tells.
    x = rng.choice([*range(9), 9.8, 10.0], 400)
    real = {"x": x, "y": (x == 10.0).astype(float)}
    more = {"x": np.append(x[:-1], 3.3), "y": real["y"]}
    assert synthetic.mutual_information(real, real).score == 1
    assert synthetic.mutual_information(real, more).score < 0.95


def test_counts_of_columns_with_many_levels():
    rng = np.random.default_rng(0)
    tables = [(rng.integers(0, 40_000, n), rng.integers(0, 30_000, n)) for n in (60, 50)]
    tables[1][0][:30], tables[1][1][:30] = tables[0][0][:30], tables[0][1][:30]
    p, q = _joint(*tables)
    assert len(p) == len(q) <= 110 and (p.sum(), q.sum()) == (60, 50) and np.minimum(p, q).sum() == 30


@pytest.mark.parametrize("score", ALL[1:])
def test_pairs_need_two_columns(score):
    with pytest.raises(DataError, match="one column"):
        score({"x": [1.0, 2.0]}, {"x": [1.0, 2.0]})
