"""The benchmark of filled holes: its masks, its measures, its contestants, its page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def programs(monkeypatch):
    """The modules of the benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import holes
    import imputation
    import imputation_page
    import imputers

    yield holes, imputation, imputers, imputation_page
    for name in ("holes", "imputation", "imputers", "imputation_page"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_masks_have_their_share_and_depend_on_what_they_should(programs, share):
    """Five standard errors of every share of 10,000 rows: a false alarm in 6e-7 each."""
    holes, *_ = programs
    x = np.random.default_rng(0).normal(size=(10_000, 8)) * np.arange(1, 9)
    error = 5 * np.sqrt(share * (1 - share) / len(x))
    masks = {m: holes.holes(x, m, share, np.random.default_rng(3)) for m in holes.MECHANISMS}
    assert (np.abs(masks["MCAR"].mean(0) - share) < error).all()
    assert (np.abs(masks["MNAR"].mean(0) - share) < error).all()
    whole = ~masks["MAR"].any(0)
    assert whole.sum() == 2 and (np.abs(masks["MAR"].mean(0)[~whole] - share) < error).all()
    # The same draws decide: what MNAR adds are holes in those that decide.
    np.testing.assert_array_equal(masks["MNAR"][:, ~whole], masks["MAR"][:, ~whole])

    def leans(mask):
        """Largest correlation of a column's holes with the columns that decide."""
        return max(
            abs(np.corrcoef(mask[:, j], x[:, k])[0, 1])
            for j in np.flatnonzero(~whole)
            for k in np.flatnonzero(whole)
        )

    assert leans(masks["MCAR"]) < 5 / np.sqrt(len(x)) < 0.1 < leans(masks["MAR"])


def test_energy_and_coverage_are_what_they_say(programs):
    """Against quadrature: standard normal draws have the energy score of a normal distribution."""
    _, imputation, *_ = programs
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3))
    assert imputation.energy_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert imputation.energy_distance(np.zeros((1, 1)), np.ones((1, 1))) == pytest.approx(2)
    rows, m = 4000, 19
    truth = np.column_stack([rng.normal(size=rows), np.full(rows, 9.0)])
    draws = np.stack([np.column_stack([rng.normal(size=rows), np.zeros(rows)]) for _ in range(m)])
    mask = np.zeros((rows, 2), dtype=bool)
    mask[:, 0] = True
    found = imputation.energy_scores(draws, truth, mask)
    assert abs(found.mean() - 1 / np.sqrt(np.pi)) < 5 * found.std() / np.sqrt(rows)  # 2/√π - 1/√π
    one = imputation.energy_scores(draws[:1], truth, mask)
    np.testing.assert_allclose(one, np.abs(draws[0, :, 0] - truth[:, 0]))
    for numbers in (lambda size: rng.normal(size=size), lambda size: rng.integers(0, 3, size)):  # ties too
        inside = imputation.covered(numbers((m, 20_000)), numbers(20_000), rng)
        assert abs(inside.mean() - 0.9) < 5 * np.sqrt(0.09 / 20_000)


def small():
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 300)
    x = np.where(z, 4.0, -4.0) + 0.3 * rng.normal(size=300)
    return pd.DataFrame({"x": x, "word": np.array(["u", "v"])[z], "y": 10 * x + rng.normal(size=300)})


@pytest.mark.parametrize("method", ["NVF, leaves", "mean", "KNN", "iterative", "iterative, draws"])
def test_contestants_fill_holes_alone_and_what_is_plain_is_found(programs, monkeypatch, method):
    _, imputation, imputers, _ = programs
    monkeypatch.setitem(
        imputers.IMPUTERS,
        "NVF, leaves",
        (
            "modeflow",
            imputers.ours(latent="tree", latent_options={"likelihood": "leaves", "states": 4}, max_epochs=60),
        ),
    )
    table = small()
    mask = np.zeros(table.shape, dtype=bool)
    mask[:20, 1] = mask[30:50, 2] = True
    filled = imputers.installed()[method](table.mask(mask), ["x", "y"], 4, 0)
    assert len(filled.tables) == (4 if method in ("NVF, leaves", "iterative, draws") else 1)
    for found in filled.tables:
        assert (found.to_numpy()[~mask] == table.to_numpy()[~mask]).all() and not found.isna().any().any()
    space = imputation.Space(table, ["x", "y"])
    scores = imputation.scores(space, table, mask, filled, 0)
    assert (scores["coverage"] is None) == (len(filled.tables) == 1)
    if method == "mean":
        assert scores["rmse"] > 0.9
    else:
        assert scores["rmse"] < 0.6 and scores["right"] > 0.8
    assert 0 <= scores["energy_distance"] < 1


def test_the_page_compares_what_all_have(programs):
    *_, page = programs
    value = {"rmse": 1.0, "right": 0.5, "wasserstein": 0.1, "energy_distance": 0.01, "energy_score": 0.5}
    runs = [
        {
            "table": t,
            "seed": 0,
            "method": m,
            "mechanism": "MAR",
            "share": 0.3,
            "coverage": None,
            "rows": 9,
            "columns": 3,
            "numbers": 2,
            "seconds": 1.0,
            **value,
        }
        for t in ("abalone", "adult")
        for m in ("NVF, leaves", "mean", "KNN")
    ]
    runs[0]["energy_distance"] = 0.001
    runs.append({**runs[0], "method": "miceforest"})  # one table alone
    names, found = page.of_methods(runs)
    assert names == ["abalone", "adult"] and list(found) == ["NVF, leaves", "mean", "KNN"]
    assert page.ranks(found, "energy_distance") == [1.5, 2.25, 2.25]
    assert page.shown([0.2, None, 0.1], 1, 10, True) == ["2.0", "–", "**1.0**"]
