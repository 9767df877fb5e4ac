"""NVF on tables as people have them: levels, times and missing cells in, the same kind of table out."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeflow import NVF
from modeflow.domains import MixedDomain, TableDomain
from modeflow.errors import ConfigError, DataError
from modeflow.estimators import load_estimator
from modeflow.estimators.selection import Selection
from modeflow.estimators.trials import Choice

SMALL = {"latent_options": {"states": 4}, "max_epochs": 2, "batch_size": 64, "random_state": 0}
LEAVES = {**SMALL, "latent_options": {"states": 4, "likelihood": "leaves"}}


def people(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Columns of every kind, with missing cells in three of them."""
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    children = pd.array(rng.poisson(1 + 2 * side), dtype="Int64")
    children[rng.random(n) < 0.1] = pd.NA
    height = 160 + 25.0 * side + rng.normal(0, 5, n)
    height[rng.random(n) < 0.1] = np.nan
    word = np.where(side == 1, "yes", "no").astype(object)
    word[rng.random(n) < 0.1] = None
    return pd.DataFrame(
        {
            "height": height,
            "city": pd.Categorical(np.where(side == 1, "Rome", "Oslo"), ["Bern", "Oslo", "Rome"]),
            "children": children,
            "born": pd.Timestamp("1980-01-01") + pd.to_timedelta(rng.integers(0, 9000, n), unit="D"),
            "member": rng.random(n) < 0.3 + 0.4 * side,
            "word": word,
            "wind": 10 * rng.integers(0, 36, n),
            "rain": np.where(rng.random(n) < 0.5, 0.0, rng.exponential(2, n)),
            "unit": "cm",
        }
    )


COLUMNS = {"wind": "circular(360)"}


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs are worse than independent columns
        return NVF(columns=COLUMNS, **SMALL).fit(people())


def discrete(n: int = 300) -> pd.DataFrame:
    """Three small columns of levels that say something of one another."""
    rng = np.random.default_rng(1)
    a = rng.integers(3, size=n)
    b = (a + (rng.random(n) < 0.3)) % 3
    flag = pd.Series(rng.random(n) < 0.2 + 0.3 * b)
    return pd.DataFrame({"a": np.array(["x", "y", "z"])[a], "b": b, "flag": flag})


def all_cells(frame: pd.DataFrame) -> pd.DataFrame:
    values = [sorted(frame[name].dropna().unique()) for name in frame]
    cells = pd.DataFrame(list(itertools.product(*values)), columns=list(frame))
    return cells.astype(dict(frame.dtypes))


@pytest.fixture(scope="module")
def levels():
    return NVF(**LEAVES).fit(discrete())


def test_samples_have_the_types_of_the_frame_and_only_values_that_a_column_can_have(fitted):
    frame = people()
    drawn, states = fitted.sample(100_000)
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(drawn) == 100_000 and states.shape[0] == 100_000
    assert drawn["city"].isin(["Bern", "Oslo", "Rome"]).all()
    assert drawn["city"].cat.categories.tolist() == ["Bern", "Oslo", "Rome"]
    assert set(drawn["word"]) == {"yes", "no"} and set(drawn["unit"]) == {"cm"}
    assert set(drawn["member"]) == {True, False}
    assert drawn["children"].min() >= 0
    assert (drawn["born"] == drawn["born"].dt.normalize()).all()
    assert set(drawn["wind"]) <= set(range(0, 360, 10))
    assert drawn["rain"].min() == 0 and (drawn["rain"] == 0).mean() == pytest.approx(0.5, abs=0.15)
    assert np.isfinite(drawn["height"]).all()
    assert not drawn.isna().any(axis=None)


def test_no_level_is_drawn_that_has_no_row(fitted):
    """Bern is a level of the type: it may be drawn, rarely."""
    assert (fitted.sample(20_000)[0]["city"] == "Bern").mean() < 0.1


@pytest.mark.parametrize("library", ["polars", "arrow"])
def test_other_frames_come_back_as_such(library):
    frame = people(120)[["height", "city", "born", "member", "word"]]
    if library == "arrow":
        arrow = pytest.importorskip("pyarrow")
        data = arrow.Table.from_pandas(frame, preserve_index=False)
        drawn = NVF(**SMALL).fit(data).sample(50)[0]
        assert isinstance(drawn, arrow.Table) and drawn.schema.equals(data.schema)
        return
    given = pl.from_dict(
        {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    )
    given = given.with_columns(pl.col("city").cast(pl.Categorical), pl.col("born").cast(pl.Date))
    drawn = NVF(**SMALL).fit(given).sample(50)[0]
    assert isinstance(drawn, pl.DataFrame) and drawn.schema == given.schema


def test_the_rows_say_which_domain_it_is():
    numbers = np.random.default_rng(0).normal(size=(120, 2))
    holes = numbers.copy()
    holes[3, 1] = np.nan
    assert isinstance(
        NVF(**{**SMALL, "latent_options": None}, flow="nsf-coupling").fit(numbers).domain_, TableDomain
    )
    found = NVF(**LEAVES).fit(holes)
    assert isinstance(found.domain_, MixedDomain)
    assert found.chosen_["latent"] == "tree" and found.latent_.marginals == "exact"
    assert isinstance(found.sample(3)[0], np.ndarray)
    said = NVF(**{**SMALL, "latent_options": None}, columns={"x0": "real"}).fit(numbers)
    assert isinstance(said.domain_, MixedDomain)


def test_cells_of_a_discrete_table_sum_to_one(levels):
    p = np.exp(levels.score_samples(all_cells(discrete())))
    assert levels.density_kind_ == "exact"
    assert len(p) == 18 and p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-10)


def test_cells_sum_to_one_with_the_flow_asked_for():
    fitted = NVF(**{**SMALL, "latent_options": {"states": 4, "likelihood": "flow"}}).fit(discrete())
    assert np.exp(fitted.score_samples(all_cells(discrete()))).sum() == pytest.approx(1, abs=1e-10)


def test_a_row_with_a_missing_cell_scores_the_exact_marginal(levels):
    """The sum over the levels of the cells that are not there."""
    cells = all_cells(discrete())
    joint = np.exp(levels.score_samples(cells))
    for missing in (["a"], ["flag"], ["a", "b"], ["b", "flag"]):
        known = [name for name in cells if name not in missing]
        rows = cells.astype(object).copy()
        rows[missing] = None
        sums = pd.Series(joint).groupby([cells[name] for name in known]).transform("sum")
        np.testing.assert_allclose(np.exp(levels.score_samples(rows)), sums, atol=1e-8)
    empty = cells.astype(object).iloc[:2].copy()
    empty[:] = None
    with pytest.warns(UserWarning, match="2 of 2 rows have no cell at all"):
        np.testing.assert_allclose(levels.score_samples(empty), 0, atol=1e-10)  # nothing is observed


def test_a_level_not_seen_has_no_probability_and_is_named(levels):
    rows = discrete(5)
    before = levels.score_samples(rows)
    rows.loc[2, "a"] = "w"
    with pytest.warns(UserWarning, match=r"column 'a' has values .* 1 of 5 rows .*minus infinity"):
        scores = levels.score_samples(rows)
    assert scores[2] == -np.inf
    np.testing.assert_array_equal(np.delete(scores, 2), np.delete(before, 2))


def test_numbers_beyond_the_range_are_unlikely_not_impossible(fitted):
    rows = people(20)
    rows.loc[0, ["height", "rain"]] = [900.0, -4.0]
    rows.loc[1, "born"] = pd.Timestamp("1900-01-01")
    scores = fitted.score_samples(rows)
    assert np.isfinite(scores).all()
    assert scores[0] < scores[2:].min() and scores[1] < scores[2:].min()


def test_a_column_that_is_missing_in_every_row_scored(fitted):
    rows = people(20)
    rows["word"], rows["height"] = None, np.nan
    assert np.isfinite(fitted.score_samples(rows)).all()


def test_what_is_constant_is_put_back_and_another_value_of_it_is_impossible(fitted):
    rows = people(4)
    assert np.isfinite(fitted.score_samples(rows.drop(columns="unit"))).all()
    rows.loc[1, "unit"] = "inch"
    with pytest.warns(UserWarning, match="1 of 4 rows"):
        assert np.flatnonzero(fitted.score_samples(rows) == -np.inf).tolist() == [1]


def test_a_saved_estimator_is_the_same(fitted, tmp_path):
    again = load_estimator(fitted.save(tmp_path / "m.safetensors"))
    rows = people(50, seed=3)
    np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))
    pd.testing.assert_frame_equal(again.sample(20, random_state=1)[0], fitted.sample(20, random_state=1)[0])
    assert again.schema_.describe() == [text.split(";")[0] for text in fitted.schema_.describe()]
    assert again.columns == COLUMNS
    again.save(tmp_path / "n.safetensors")
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_dates_with_bounds_and_levels_are_saved(tmp_path):
    days = pd.to_datetime(["2007-11-11", "2007-11-16", "2008-11-04"])
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"egg": days[rng.integers(3, size=200)], "x": rng.normal(size=200)})
    for columns in (
        None,
        {"egg": {"kind": "datetime", "step": "day", "low": "2007-01-01", "high": "2009-01-01"}},
    ):
        fitted = NVF(columns=columns, **SMALL).fit(frame)
        again = load_estimator(fitted.save(tmp_path / "m.safetensors"))
        assert again.schema_ == fitted.schema_
        pd.testing.assert_frame_equal(again.sample(9, random_state=1)[0], fitted.sample(9, random_state=1)[0])


def test_the_number_of_states_of_a_tree_is_chosen_by_the_rows_named_and_kept(tmp_path):
    """Of few rows by their number alone; `SMALL` says nothing of it but the number of epochs."""
    fitted = NVF(max_epochs=1, random_state=0).fit(discrete(80))
    assert fitted.latent_.describe().words == "a tree of 3 × 16 states"
    assert fitted.built()["latent_options"]["states"] == 16 and fitted.selection_ == []
    assert fitted.get_params()["latent_options"] is None  # what was given stays
    again = NVF.load(fitted.save(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(again.score_samples(discrete(9)), fitted.score_samples(discrete(9)))
    with pytest.raises(ConfigError, match="states must be a number, 'auto' or"):
        NVF(latent="tree", latent_options={"states": "many"}).fit(discrete(80))


@pytest.mark.parametrize("flow, kind", [("flat states", "discrete"), ("tree", "tree")])
def test_what_was_chosen_is_built_and_saved(flow, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(Selection, "run", lambda self, left: Choice(flow, 3))
    fitted = NVF(max_epochs=1, random_state=0).fit(discrete(200))
    assert fitted.latent_.describe().kind == fitted.chosen_["latent"] == kind
    assert fitted.n_states_ + len(fitted.dead_states_) == (3 if kind == "discrete" else 1)
    again = NVF.load(fitted.save(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(again.score_samples(discrete(9)), fitted.score_samples(discrete(9)))
    if kind == "discrete":
        assert fitted.conditional_kind_ == "estimate" and fitted.impute(discrete(3))[0].equals(discrete(3))


def test_rows_of_no_weight_say_nothing():
    frame = discrete()
    other = frame.assign(a="x", b=0)
    weight = np.r_[np.ones(len(frame)), np.zeros(len(other))]
    held = discrete(50)
    both = NVF(**LEAVES).fit(pd.concat([frame, other]), sample_weight=weight, validation=held)
    alone = NVF(**LEAVES).fit(frame, sample_weight=np.ones(len(frame)), validation=held)
    np.testing.assert_allclose(both.score_samples(held), alone.score_samples(held), atol=1e-5)
    heavy = NVF(**LEAVES).fit(frame, sample_weight=np.where(frame["flag"], 20.0, 1.0), validation=held)
    assert heavy.sample(5000)[0]["flag"].mean() > alone.sample(5000)[0]["flag"].mean() + 0.1


def test_an_angle_has_no_ends():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"wind": np.round(rng.normal(0, 20, 400) % 360, 3), "x": rng.normal(size=400)})
    fitted = NVF(columns=COLUMNS, **SMALL).fit(frame)
    rows = pd.DataFrame({"wind": [0.0, 359.9999, 180.0], "x": 0.0})
    at = fitted.score_samples(rows)
    assert at[0] == pytest.approx(at[1], abs=1e-3) and at[2] < at[0] - 1
    drawn = fitted.sample(100_000)[0]["wind"]
    assert drawn.min() >= 0 and drawn.max() < 360


def test_a_run_goes_on_bit_by_bit(tmp_path):
    frame = people(160)
    # On a GPU sums are rounded in another order each time.
    settings = {
        **SMALL,
        "device": "cpu",
        "columns": COLUMNS,
        "training": {"schedule": "constant", "patience": None},
    }
    straight = NVF(**{**settings, "max_epochs": 4}).fit(frame, run_dir=tmp_path / "a")
    NVF(**settings).fit(frame, run_dir=tmp_path / "b")
    resumed = NVF(**{**settings, "max_epochs": 4}).fit(frame, run_dir=tmp_path / "b", resume=True)
    np.testing.assert_array_equal(resumed.score_samples(frame), straight.score_samples(frame))


def test_columns_may_be_dropped():
    frame = people(120).assign(name=[f"p{i}" for i in range(120)])
    fitted = NVF(columns={"name": "drop", **COLUMNS}, **SMALL).fit(frame)
    assert "name" not in fitted.sample(2)[0]
    assert np.isfinite(fitted.score_samples(frame)).all()


def test_validation_rows_with_values_not_seen_are_left_out():
    """One such row made the validation minus infinity at every epoch: the start was kept, untrained."""
    frame, held = people(), people(80, 1)
    held.loc[3, "children"] = 60
    with pytest.warns(UserWarning, match="'children' has values that it did not have .* 1 of 80 rows"):
        fitted = NVF(**LEAVES).fit(frame, validation=held)
    assert np.isfinite(fitted.validation_["value"]) and fitted.validation_["n"] == 79
    held["children"] = 60
    with pytest.warns(UserWarning), pytest.raises(DataError, match="none of 80 validation rows"):
        NVF(**LEAVES).fit(frame, validation=held)


@pytest.mark.parametrize("values", ["all", "two", "positive", "magnitudes"])
def test_numbers_up_to_1e300_have_a_density_and_samples(values):
    """Two far values among normal ones, or all: no overflow on the way, whose warnings are errors here."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=200)
    column = {
        "all": 1e299 * normal,
        "two": np.concatenate([normal[2:], [9e299, -9e299]]),
        "positive": 9e299 * rng.uniform(size=200),
        "magnitudes": 10 ** rng.uniform(0, 299, 200),
    }[values]
    frame = pd.DataFrame({"v": column, "w": rng.choice(["a", "b"], 200)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = NVF(latent_options={"states": 2, "likelihood": "leaves"}, max_epochs=1, random_state=0)
        model.fit(frame)
        assert np.isfinite(model.score_samples(frame)).all()
        assert np.isfinite(model.sample(100)[0]["v"]).all()


def test_numbers_beyond_1e300_are_refused_by_column_and_row():
    """Their mean was no number, and the training stopped at its first step."""
    frame = pd.DataFrame({"v": np.random.default_rng(0).normal(size=100), "w": ["a", "b"] * 50})
    model = NVF(latent_options={"states": 2, "likelihood": "leaves"}, max_epochs=1, random_state=0)
    odd = frame.copy()
    odd.loc[[5, 7], "v"] = [-1.7e308, 1e308]
    told = r"column 'v', data row 6 holds -1.7e\+308 \(and 1 more rows\), beyond 1e\+300: give the"
    with pytest.raises(DataError, match=told):
        model.fit(odd)
    with pytest.raises(DataError, match=told):
        model.fit(frame).score_samples(odd)
