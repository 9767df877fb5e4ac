"""Conditionals of tables of complete numbers, under flat states and plain flows: in the units of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from small_estimators import FAST

from modeflow import NVF, FlowDensity
from modeflow.cli import main
from modeflow.errors import ConfigError, DataError


def table(n=600, seed=0):
    """A Gaussian in units far from standard, and a count."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    b = 0.8 * a + 0.6 * rng.normal(size=n)
    c = np.round(10 + 3 * a + rng.normal(size=n))
    return pd.DataFrame({"a": 1000 + 50 * a, "b": 0.01 * b, "c": c}, index=np.arange(n) * 2)


@pytest.fixture(scope="module")
def fitted():
    return NVF(2, stacking=True, **FAST).fit(table())


@pytest.fixture(scope="module")
def pair():
    """Two columns without a lattice, of which conditionals can be integrated."""
    return FlowDensity(**FAST).fit(table()[["a", "b"]])


def test_a_conditional_density_is_one_in_the_units_of_its_column(pair):
    axis = np.linspace(-0.2, 0.2, 2001)
    x = pd.DataFrame({"a": 1030.0, "b": axis})
    p = np.exp(pair.log_prob_given(x, ["b"], ["a"]))
    assert np.trapezoid(p, axis) == pytest.approx(1, abs=5e-3)
    drawn = pair.sample_given({"a": 1030.0}, 3000, random_state=0)
    assert list(drawn.columns) == ["a", "b"] and (drawn["a"] == 1030.0).all()
    cdf = np.cumsum(p) * (axis[1] - axis[0])
    # A false alarm in 1,000.
    assert stats.kstest(drawn["b"], lambda t: np.interp(t, axis, cdf)).pvalue > 1e-3
    found = pair.predict_column("b", x[:1])
    assert found.kind == "estimate" and found.draws.shape == (1, 100)
    middle = axis[np.searchsorted(cdf, 0.5)]
    assert abs(found.mode()[0] - middle) < 5 * 1.2533 * drawn["b"].std() / 10
    np.testing.assert_allclose(
        pair.log_prob_given(x[:3], ["a", "b"], []), pair.score_samples(x[:3]), atol=1e-12
    )


def test_cells_are_filled_and_others_stay(fitted):
    x = table(40, seed=1)
    holes = x.mask(np.random.default_rng(0).random(x.shape) < 0.4)
    holes.iloc[3] = np.nan
    first, second = fitted.impute(holes, 2, random_state=0)
    known = holes.notna().to_numpy()
    for filled in (first, second):
        assert filled.index.equals(x.index) and not filled.isna().any().any()
        assert (filled.to_numpy()[known] == x.to_numpy()[known]).all()
        assert filled["c"].dtype == np.int64
    assert not first.equals(second) and fitted.impute(holes, 2, random_state=0)[0].equals(first)
    (mean,) = fitted.impute(holes[:10], how="mean", random_state=0)
    assert not mean.isna().any().any() and (mean["c"] == mean["c"].round()).all()
    assert fitted.impute(x)[0].equals(x.astype({"c": np.int64}))
    assert fitted.conditional_kind_ == "estimate"
    with pytest.raises(DataError, match="missing value"):
        fitted.score_samples(holes)


def test_equal_rows_are_drawn_apart_and_whatever_stands_around_them(fitted):
    drawn = fitted.sample_given({"a": [1000.0, 1050.0, 1000.0, 1050.0]}, 4, random_state=0)
    assert drawn["a"].tolist() == [1000.0, 1050.0, 1000.0, 1050.0] and drawn["b"].nunique() == 4
    assert abs(fitted.sample_given({"c": 16}, 500, random_state=0)["a"].mean() - 1095) < 25


def test_densities_and_the_file_stay_as_they_are(tmp_path):
    model = NVF(1, **FAST).fit(table())
    model.save(tmp_path / "before.safetensors")
    scores = model.score_samples(table()[:5])
    model.sample_given({"a": 1000.0}, 3)
    assert model._conditioned[1].model.proposal is not None
    model.save(tmp_path / "after.safetensors")
    assert (tmp_path / "before.safetensors").read_bytes() == (tmp_path / "after.safetensors").read_bytes()
    assert (model.score_samples(table()[:5]) == scores).all()


def test_bad_questions_get_one_line(fitted):
    for cells, says in (
        ({"c": 9.5}, "'c' is given 9.5, and has steps of 1: the nearest value is 10"),
        ({"b": "much"}, "'b' is given 'much', not a number"),
        ({"b": None}, "'b' is given no value"),
        ({"b": np.inf}, "'b' is given an infinite number"),
    ):
        with pytest.raises(DataError, match=says):
            fitted.sample_given(cells)
    with pytest.raises(ConfigError, match="no column 'd' in the model"):
        fitted.sample_given({"d": 1})
    with pytest.raises(ConfigError, match="given must be values by column"):
        fitted.sample_given([1, 2])
    one = fitted.log_prob_given(table(3), "b", "a")
    assert (one == fitted.log_prob_given(table(3), ["b"], ["a"])).all()
    with pytest.raises(DataError, match="infinite"):
        fitted.impute(table(5).assign(a=np.inf))
    with pytest.warns(UserWarning, match="a=9000.0 lies far from all rows"):
        fitted.sample_given({"a": 9000.0, "c": 10})


def test_numbers_are_given_and_filled_at_the_command_line(tmp_path, capsys):
    run, data = str(tmp_path / "run"), str(tmp_path / "t.csv")
    table(300).to_csv(data, index=False)
    settings = ["--set", "max_epochs=2", "--set", "n_states=1", "--set", "flow=nsf-coupling", "--quiet"]
    assert main(["fit", data, "-o", run, *settings]) == 0
    lines = (tmp_path / "t.csv").read_text().splitlines()
    lines[1:5] = ["1000,,10", ",,", "1010,x,9", "990,0.001,"]
    (tmp_path / "holes.csv").write_text("\n".join(lines[:8]))
    capsys.readouterr()
    out = tmp_path / "f.csv"
    assert main(["impute", run, str(tmp_path / "holes.csv"), "-m", "2", "-o", str(out), "--json"]) == 0
    told = capsys.readouterr()
    assert "1 of 7 rows is left out: row 3: 'b' is text" in told.err and '"kind": "estimate"' in told.out
    filled = pl.read_csv(out)
    assert filled.columns == ["a", "b", "c", "imputation"] and filled.height == 12
    assert not filled.null_count().sum_horizontal().item() and filled["a"][0] == 1000
    assert main(["sample", run, "-n", "3", "--given", "a=1000,c=10", "-o", "-"]) == 0
    rows = capsys.readouterr().out.split()
    assert len(rows) == 4 and all(row.startswith("1000") and row.endswith(",10") for row in rows[1:])
    assert main(["sample", run, "-n", "3", "--given", "c=9.5", "-o", "-"]) == 2
    assert "the nearest value is 10" in capsys.readouterr().err
    assert main(["report", run, "--quiet"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("What if" in page and "given a = " in page) or "given c = " in page


def test_a_whole_number_given_beyond_its_range_stays_what_was_given():
    rng = np.random.default_rng(0)
    n = rng.integers(0, 60, 300)
    frame = pd.DataFrame({"n": n, "x": 0.1 * n + rng.normal(size=300)})
    fitted = FlowDensity(**FAST).fit(frame)
    with pytest.warns(UserWarning, match="n=2000 lies far from all rows"):
        drawn = fitted.sample_given({"n": [30, 2000]}, 2, random_state=0)
    assert drawn["n"].tolist() == [30, 2000] and drawn["n"].dtype == np.int64
