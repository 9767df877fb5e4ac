"""The benchmark of odd rows: its splits, its summaries over sets that all have, its page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anomalies(monkeypatch, tmp_path):
    """The program, with a folder of data of one set of 200 rows, a tenth of them odd, one column constant."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import anomalies

    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(200, 2)), np.ones(200)])
    X[:20] += [6, 6, 0]
    (tmp_path / "anomaly").mkdir()
    np.savez(tmp_path / "anomaly" / "45_wine.npz", X=X, y=np.arange(200) < 20)
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path))
    yield anomalies
    sys.modules.pop("anomalies", None)


def test_both_protocols_rank_the_same_rows(anomalies):
    train, test, truth = anomalies.rows_of("wine", 3, "contaminated")
    clean, same, again = anomalies.rows_of("wine", 3, "one class")
    assert train.shape == (140, 2) and len(clean) == 126 and truth.sum() == 6
    np.testing.assert_array_equal(test, same)
    np.testing.assert_array_equal(truth, again)
    assert not {tuple(row) for row in train} & {tuple(row) for row in test}


@pytest.mark.parametrize("method", ["NVFOutlier", "NVFOutlier, columns", "Gaussian mixture"])
def test_what_is_far_is_found(anomalies, monkeypatch, method):
    monkeypatch.setitem(anomalies.SETTINGS, "max_epochs", 5)
    run = anomalies.measure("wine", "one class", method, 0)
    assert run["auroc"] == 1.0 and run["odd"] == 6 and run["rows"] == [126, 60] and run["columns"] == 2


def test_ranks_are_over_sets_and_seeds_that_all_have(anomalies):
    value = dict.fromkeys(anomalies.METHODS, 0.5) | {"kNN": 0.9, "LOF": 0.1}
    runs = [
        {
            "set": name,
            "protocol": "one class",
            "method": m,
            "seed": seed,
            "auroc": v,
            "aupr": v,
            "seconds": 1.0,
        }
        for name in ("wine", "wbc")
        for seed in (0, 1)
        for m, v in value.items()
        if (name, seed, m) != ("wbc", 1, "kNN")
    ]
    runs.append({**runs[0], "set": "yeast"})  # one method alone
    runs[2]["auroc"] = 1.0  # kNN on the first seed of wine
    rows = anomalies.summaries(runs)
    found = {(r["part"], r["method"]): r for r in rows}
    assert found["all", "kNN"]["sets"] == 2 and found["all", "kNN"]["rank_auroc"] == 1.0
    assert found["all", "kNN"]["auroc"] == pytest.approx((0.95 + 0.9) / 2)
    assert found["all", "LOF"]["rank_auroc"] == len(value)
    assert {p for p, _ in found} == {"all", "development", "others"}
    assert len(anomalies.DEVELOPMENT) == 15
    assert set(anomalies.DEVELOPMENT) < set(anomalies.SETS) and len(anomalies.SETS) == 2 * 15
