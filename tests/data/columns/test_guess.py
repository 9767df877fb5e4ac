"""What columns are taken for, on made columns of each kind.

Rates of false alarms are stated where chance decides; seeds are fixed.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeflow.data.columns import TableSchema, find_atoms
from modeflow.data.lattice import find_lattice
from modeflow.errors import ConfigError, DataError

N = 1000


def kind_of(values, name="c", **columns):
    return TableSchema.infer({name: values}, columns)[name]


def rng(seed=0):
    return np.random.default_rng(seed)


# -- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (rng().normal(0, 1, N), "real"),
        (rng().normal(300, 5, N), "real"),
        (rng().lognormal(0, 1, N), "positive"),
        (rng().exponential(3, N), "positive"),
        (rng().beta(0.5, 0.5, N), "bounded"),
        (100 * rng().beta(0.7, 0.7, N), "bounded"),
        (-rng().lognormal(0, 1, N), "bounded"),
        (np.round(rng().gamma(2, 5, N), 2), "positive"),
        (np.round(rng().gamma(2, 5, 10 * N), 2), "lattice"),
        (rng().integers(0, 2, N), "categorical"),
        (rng().integers(1, 3, N), "categorical"),
        (rng().integers(1, 13, N), "integer"),
        (rng().negative_binomial(2, 0.01, N), "integer"),
        (rng().choice([0.0, 1.386, 2.71828, 3.3], N), "ordinal"),
        (np.full(N, 7), "constant"),
        (np.full(N, np.nan), "constant"),
        (rng().permutation(N) + 1, "id"),
        (rng().choice(10**9, N, replace=False), "integer"),
    ],
)
def test_numbers(values, kind):
    assert kind_of(values).kind == kind


def test_support_is_rarely_taken_for_what_it_is_not():
    """Of 40 normal columns, all above zero or not, none has a bound; of 40 lognormal ones all have, and of 40
    beta ones both."""
    for seed in range(40):
        g = rng(1000 + seed)
        mean = g.uniform(-5, 8)
        assert kind_of(g.normal(mean, 1, N)).kind == "real"
        assert kind_of(g.lognormal(g.normal(), 0.7, N)).kind == "positive"
        assert kind_of(g.beta(0.6, 0.6, N)).kind == "bounded"


def test_few_values_are_levels_and_many_are_not():
    assert kind_of(rng().integers(0, 32, N)).as_levels
    assert not kind_of(rng().integers(0, 33, N)).as_levels
    assert not kind_of(rng().integers(0, 32, 128)).as_levels  # four rows a value
    gains = rng().choice(99_999, 60, replace=False)  # far apart: neighbours have nothing to say
    assert kind_of(rng().choice(gains, 100 * 60)).as_levels
    assert not kind_of(rng().choice(gains, 90 * 60)).as_levels
    mostly_zero = np.zeros(N)
    mostly_zero[:20] = 100 * (1 + np.arange(20))  # most of the others were seen once
    column = kind_of(mostly_zero)
    assert column.kind == "integer" and not column.as_levels and column.atoms == (0,)
    fives = kind_of(5 * rng().integers(0, 9, N))
    assert fives.as_levels and fives.step == 5 and fives.levels == tuple(range(0, 45, 5))
    assert kind_of(rng().integers(0, 9, N), c={"kind": "integer", "as_levels": False}).levels == ()


@pytest.mark.parametrize("off", [1048.36058, 1048.4])
def test_a_single_value_far_off_makes_no_levels_of_a_lattice(off):
    """Speeds in miles an hour that were knots, and a slip of the pen, on their lattice or not."""
    speeds = np.round(1.15078 * np.clip(np.round(rng().gamma(4, 2.5, 6000)), 0, 40), 5)
    assert len(np.unique(speeds)) in range(33, 42) and not kind_of(speeds).as_levels
    schema = TableSchema.infer({"c": np.append(speeds, off)})
    column = schema["c"]
    assert column.kind == "lattice" and not column.as_levels and schema.features()[0].levels == 0
    assert column.decode(np.array([off, 5 * 1.15078])).tolist() == [off, 5.7539]
    if off == 1048.36058:
        assert column.step == pytest.approx(1.15078)


def test_whole_numbers_that_differ_are_names_only_where_chance_does_not_explain_it():
    """n of R whole numbers hold n^2 / 2R equal pairs on average; beyond 10, none has probability e^-10."""
    assert kind_of(rng().choice(20 * N, N, replace=False)).kind == "id"
    assert kind_of(rng().choice(10**6, N, replace=False)).kind == "integer"
    assert kind_of(rng().choice(10**6, N, replace=False), name="customer_id").kind == "id"
    assert kind_of(np.arange(10)).kind == "integer"  # too few rows to tell
    assert kind_of(rng().normal(size=N), name="id").kind == "real"


# -- atoms ------------------------------------------------------------------------------------------


def test_atoms_of_a_density_and_of_a_lattice():
    g = rng()
    rain = np.where(g.random(N) < 0.6, 0.0, g.lognormal(0, 1, N))
    assert kind_of(rain).atoms == (0,) and kind_of(rain).kind == "positive"
    never = np.where(g.random(N) < 0.1, -1.0, g.gamma(2, 100, N))
    column = kind_of(never)
    assert column.atoms == (-1,)
    capped = np.minimum(g.gamma(2, 100, 5 * N), 500.0)
    column = kind_of(capped)
    assert column.kind == "bounded" and column.atoms == (500,) and column.high == 500
    hours = np.where(g.random(5 * N) < 0.4, 40, np.clip(np.round(g.normal(40, 25, 5 * N)), 1, 99))
    assert 40 in kind_of(hours).atoms
    pay = np.where(g.random(5 * N) < 0.2, 0, np.round(g.lognormal(7, 1, 5 * N)))
    column = kind_of(pay)
    assert column.atoms == (0,) and column.kind == "integer" and column.low >= 1
    cents = np.where(g.random(10 * N) < 0.5, 0, np.round(g.lognormal(1, 1, 10 * N), 2))
    assert kind_of(cents).kind == "lattice" and kind_of(cents).atoms == (0,)


@pytest.mark.parametrize("side", [1, -1])
def test_an_atom_beside_a_lattice_that_it_is_not_on(side):
    """Two values far apart are a lattice of their own: the bound beside the atom is the nearest of it."""
    column = kind_of(
        side * np.repeat([-0.4661833345890045, 40.533817291259766, 251.5338134765625], [4830, 1, 1])
    )
    assert column.atoms == (side * -0.4661833345890045,)
    assert sorted([abs(column.low), abs(column.high)]) == pytest.approx([40.5338, 251.5338], abs=1e-3)


def test_rates_that_repeat_are_atoms():
    """Exit rates: 1/n of few visits, beside numbers between; also where they were single precision."""
    g = rng()
    rates = np.where(g.random(5 * N) < 0.6, 1 / g.integers(2, 12, 5 * N), g.beta(1, 6, 5 * N))
    assert np.array_equal(kind_of(rates).atoms, np.unique(1 / np.arange(2, 12)))
    single = rates.astype(np.float32).astype(np.float64)
    assert np.array_equal(kind_of(single).atoms, np.unique((1 / np.arange(2, 12)).astype(np.float32)))


def test_heaps_at_round_numbers_are_no_atoms():
    g = rng()
    prices = np.round(g.lognormal(11, 0.6, 5 * N), -3)  # every value is one of a thousand
    ages = np.where(g.random(5 * N) < 0.3, 10 * g.integers(2, 9, 5 * N), g.integers(18, 95, 5 * N))
    assert kind_of(prices).atoms == () and kind_of(ages).atoms == ()


def test_smooth_columns_have_no_atoms():
    """Of 240 smooth columns (normal, exponential, geometric, power law; whole or of two decimals) none has an
    atom: the rule asks for ten times what neighbours hold in at least 20 rows, which chance does not make of
    counts with a mean of two or more (a Poisson count with mean 2 reaches 20 with probability 1e-13)."""
    for seed in range(30):
        g = rng(seed)
        made = [
            g.normal(0, 50, N),
            g.exponential(30, N),
            g.geometric(0.02, N),
            np.floor(g.pareto(1.0, N) * 5),
        ]
        for values in made:
            for digits in (0, 2):
                column = np.round(values, digits)
                levels, counts = np.unique(column, return_counts=True)
                assert find_atoms(levels, counts, find_lattice(column)) == ()


# -- words, times -----------------------------------------------------------------------------------


def test_words():
    words = rng().choice(["low", "mid", "high"], N).tolist()
    assert kind_of(words).levels == ("high", "low", "mid")
    assert kind_of([f"user{i}" for i in range(N)]).kind == "id"
    assert kind_of([f"user{i}" for i in range(N // 2)] * 2).kind == "categorical"
    assert kind_of([f"user{i}" for i in range(1200)] * 2).kind == "id"  # more levels than can be learned
    assert kind_of(["a", None] * 10).levels == ("a",) and kind_of(["a"] * 20).kind == "constant"
    assert kind_of(["TRUE", "FALSE", "TRUE"] * 9).levels == ("FALSE", "TRUE")
    assert kind_of([True, False, None] * 9).kind == "boolean"
    assert kind_of([1, "one", 2.5] * 9).levels == (1, 2.5, "one")


def test_marks_in_words_are_missing_unless_the_table_leaves_cells_blank():
    schema = TableSchema.infer({"a": ["x", "NA", "?", "None"] * 5})
    assert schema["a"].levels == ("?", "None", "x") and "NA: 5 rows" in schema.notes[-1]
    assert np.isnan(schema.encode({"a": ["NA", "x"]})[0, 0])
    schema = TableSchema.infer({"a": ["x", "NA", "?", "None"] * 5, "b": ["u", "v", None, "v"] * 5})
    assert schema["a"].levels == ("?", "NA", "None", "x") and "kept as levels" in schema.notes[-1]
    numbers = TableSchema.infer({"a": ["1", "?", "NA", "", "30", "7", "8", "9"] * 5})["a"]
    assert numbers.kind == "integer" and numbers.missing


def test_codes_with_leading_zeros_are_words():
    column = kind_of(pl.Series(["01234", "02345", "10115"] * 20))
    assert column.kind == "categorical" and column.levels[0] == "01234"


def test_times():
    start = dt.datetime(2020, 1, 1)
    hours = [start + dt.timedelta(hours=int(h)) for h in rng().integers(0, 10**5, N)]
    assert kind_of(hours).step == 3600 and not kind_of(hours).as_levels
    column = kind_of([str(h.date()) for h in hours])
    assert column.kind == "datetime" and column.step == 86400 and column.form == "%Y-%m-%d"
    assert kind_of([start, start + dt.timedelta(days=40)] * 20).as_levels
    assert kind_of([start] * 20).kind == "constant"
    assert kind_of(["03/04/2020", "05/04/2020"] * 20).kind == "categorical"  # which is the month?


@pytest.mark.parametrize(
    ("name", "values", "period"),
    [("hour", np.arange(24), 24), ("mnth", 1 + np.arange(12), 12), ("weekday", np.arange(7), 7),
     ("wind_dir", 10 * np.arange(37), 360)],
)  # fmt: skip
def test_what_goes_round_is_suggested_not_decided(name, values, period):
    schema = TableSchema.infer({name: np.tile(values, 50)})
    assert schema[name].kind == "integer" and f"circular({period})" in schema.notes[0]
    said = TableSchema.infer({name: np.tile(values, 50)}, {name: f"circular({period})"})[name]
    assert said.kind == "circular" and said.period == period and said.step == values[1] - values[0]
    assert (
        said.atoms == ((0,) if name == "wind_dir" else ())
        and said.origin == (values[0] or said.atoms != ()) * said.step
    )
    again = said.decode(said.encode(values))
    assert again.tolist() == values.tolist()


def test_a_zip_code_is_remarked():
    schema = TableSchema.infer({"zip_code": rng().integers(10000, 99999, 10 * N)})
    assert "categorical" in schema.notes[0]


def test_features():
    g = rng()
    schema = TableSchema.infer(
        {
            "word": g.choice(["a", "b"], N),
            "few": g.integers(0, 9, N),
            "many": g.integers(0, 90, N),
            "rain": np.where(g.random(N) < 0.5, 0, g.lognormal(size=N)),
            "wind": g.uniform(0, 360, N),
            "one": np.ones(N),
            "gap": np.where(g.random(N) < 0.5, np.nan, g.normal(size=N)),
        },
        {"wind": "circular(360)"},
    )
    word, few, many, rain, wind, gap = schema.features()
    assert (word.levels, word.ordered, few.levels, few.ordered, many.levels) == (2, False, 9, True, 0)
    assert (many.step, many.offset, many.low, many.high) == (1, 0, -0.5, 89.5)
    assert rain.atoms == (0,) and rain.low == 0 and rain.step == 0
    assert wind.circular and (wind.period, wind.low, wind.high) == (360, 0, 360)
    assert gap.missing and not word.missing and schema.dim == 6


def test_odd_columns():
    """One value with holes, all true, a slip among numbers, a category of thousands, numbers too large."""
    start = dt.datetime(2020, 1, 1)
    assert kind_of([start, None] * 20).kind == "datetime"
    assert kind_of([True] * 20).kind == "constant" and kind_of([True, None] * 20).kind == "boolean"
    assert kind_of([5.0, None] * 20).levels == (5,)
    text = [f"{v:.3f}" for v in rng().normal(size=N)]
    schema = TableSchema.infer({"c": ["1,5x", *text]})
    assert schema["c"].kind == "id" and "'1,5x' in data row 1): correct these cells" in schema.notes[0]
    assert kind_of(pd.Categorical([f"w{i}" for i in range(2000)])).kind == "id"
    schema = TableSchema.infer({"c": 2**60 + rng().integers(0, 2**50, N)})
    assert "2^53" in schema.notes[-1]
    tiny = kind_of(["a", "b", "c"] * 2 + [f"w{i}" for i in range(7)])
    assert tiny.kind == "categorical"


# -- times of other forms ---------------------------------------------------------------------------

DAYS = [dt.date(2023, 1, 5) + dt.timedelta(days=3 * i) for i in range(150)]


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"])
def test_days_with_dots_are_times(form):
    frame = pl.DataFrame(
        {"c": [dt.datetime(d.year, d.month, d.day, d.day % 24).strftime(form) for d in DAYS]}
    )
    schema = TableSchema.infer(frame)
    assert (schema["c"].kind, schema["c"].form) == ("datetime", form)
    assert schema.decode(schema.encode(frame)).equals(frame)
    assert schema.encode({"c": ["05.01.2023" + frame["c"][0][10:]]})[0, 0] == schema.encode(frame)[0, 0]


def test_forms_that_nobody_knows_have_to_be_said():
    frame = pl.DataFrame({"c": [d.strftime("%m/%d/%Y") for d in DAYS]})
    assert kind_of(frame["c"]).kind == "id"
    with pytest.raises(DataError, match="give their form, such as"):
        kind_of(frame["c"], c="datetime")
    schema = TableSchema.infer(frame, {"c": {"kind": "datetime", "form": "%m/%d/%Y"}})
    assert "missing" not in schema["c"].about and schema["c"].date
    again = TableSchema.from_dict(schema.to_dict())
    assert again == schema and again.decode(again.encode(frame)).equals(frame)
    assert schema.encode({"c": ["2023-01-05"]})[0, 0] == schema.encode(frame)[0, 0]
    with pytest.raises(DataError, match="data row 2 holds '2023'"):
        schema.encode({"c": [None, "2023"]})


@pytest.mark.parametrize("form", ["%Y-%m", "day", "%q", "%Y-%m-%d %H"])
def test_forms_that_lose_the_day_are_refused(form):
    with pytest.raises(ConfigError, match="does not say year, month and day"):
        kind_of([d.isoformat() for d in DAYS], c={"kind": "datetime", "form": form})


def test_a_period_below_zero_is_refused_as_such():
    with pytest.raises(ConfigError, match="period=-3 must be above 0"):
        kind_of(np.arange(50.0), c="circular(-3)")


def test_of_many_atoms_those_with_the_most_rows_are_told():
    atoms = np.repeat(np.arange(1, 9) / 9.0, 20 + 10 * np.arange(8))
    schema = TableSchema.infer({"c": np.concatenate([rng().random(N), atoms])})
    count = len(schema["c"].atoms)
    assert count > 6
    assert f"and {count - 5} more)" in schema.notes[0] and "(0.888889: " in schema.notes[0]
    assert schema["c"].about.endswith(f"and {count - 5} more atoms")
