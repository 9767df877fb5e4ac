"""Frames of every library come back the same, and any numbers as cells that their columns can have."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeflow.data.columns import (
    KINDS,
    Boolean,
    Bounded,
    Categorical,
    Circular,
    Constant,
    Datetime,
    Integer,
    Ordinal,
    Positive,
    Real,
    Steps,
    TableSchema,
)
from modeflow.errors import DataError

N = 300


def mixed(seed=0):
    """One column of every kind, as numpy arrays and lists; None where missing."""
    rng = np.random.default_rng(seed)
    holes = rng.random(N) < 0.1

    def with_holes(values):
        return [None if h else v for v, h in zip(list(values), holes, strict=True)]

    start = dt.datetime(2021, 3, 1)
    return {
        "real": rng.normal(0, 3, N),
        "rounded": np.round(rng.normal(0, 3000, N), 2),
        "positive": rng.lognormal(0, 1, N),
        "share": rng.beta(0.5, 0.5, N),
        "rain": np.where(rng.random(N) < 0.5, 0.0, rng.lognormal(0, 1, N)),
        "count": rng.negative_binomial(2, 0.01, N),
        "few": rng.integers(1, 9, N),
        "cents": np.round(rng.integers(1, 90, N) * 0.05, 2),
        "word": np.array(["a", "b", "c"], dtype=object)[rng.integers(0, 3, N)].tolist(),
        "hole": with_holes(np.array(["x", "y"], dtype=object)[rng.integers(0, 2, N)].tolist()),
        "flag": (rng.random(N) < 0.3).tolist(),
        "flag_hole": with_holes((rng.random(N) < 0.3).tolist()),
        "when": [start + dt.timedelta(seconds=int(s)) for s in rng.integers(0, 10**7, N)],
        "day": [(start + dt.timedelta(days=int(s))).date() for s in rng.integers(0, 400, N)],
        "number_hole": with_holes(rng.normal(0, 1, N).tolist()),
        "int_hole": with_holes(rng.integers(0, 400, N).tolist()),
        "one": ["same"] * N,
    }


def pandas_frame():
    data = mixed()
    frame = pd.DataFrame(
        {
            **{k: data[k] for k in ("real", "rounded", "positive", "share", "rain", "count", "few", "cents")},
            "single": data["real"].astype(np.float32),
            "small": pd.Series(data["few"]).astype("uint8"),
            "word": pd.Series(data["word"], dtype=object),
            "hole": pd.Series(data["hole"], dtype="string"),
            "flag": data["flag"],
            "flag_hole": pd.Series(data["flag_hole"], dtype="boolean"),
            "when": pd.Series(data["when"]).astype("datetime64[ns]"),
            "zoned": pd.Series(data["when"]).astype("datetime64[us]").dt.tz_localize("Europe/Rome"),
            "day": pd.Series(data["day"], dtype=object),
            "number_hole": pd.Series(data["number_hole"], dtype="float64"),
            "int_hole": pd.Series(data["int_hole"], dtype="Int64"),
            "one": data["one"],
            "kind": pd.Categorical(data["word"], categories=["c", "b", "a", "never"]),
            "size": pd.Categorical(data["word"], categories=["b", "c", "a"], ordered=True),
            "code": pd.Categorical(data["few"]),
        }
    )
    return frame


def polars_frame():
    data = mixed()
    levels = pl.Enum(["c", "b", "a"])
    frame = pl.DataFrame(data, strict=False)
    return frame.with_columns(
        pl.col("few").cast(pl.UInt8).alias("small"),
        pl.col("real").cast(pl.Float32).alias("single"),
        pl.Series("kind", data["word"]).cast(levels),
        pl.Series("category", data["word"]).cast(pl.Categorical),
        pl.col("when").dt.replace_time_zone("Europe/Rome").alias("zoned"),
        pl.col("when").cast(pl.Datetime("ns")).alias("fine"),
        pl.col("real").round(2).cast(pl.Decimal(20, 2)).alias("money"),
    )


def drop_none(schema):
    return {c.name: "drop" for c in schema.columns if c.kind == "id"}


def test_pandas():
    frame = pandas_frame()
    schema = TableSchema.infer(frame)
    assert drop_none(schema) == {}
    again = schema.decode(schema.encode(frame))
    pd.testing.assert_frame_equal(again, frame)


def test_polars():
    frame = polars_frame()
    schema = TableSchema.infer(frame)
    again = schema.decode(schema.encode(frame))
    assert again.schema == frame.schema
    assert again.equals(frame, null_equal=True)


def test_arrow():
    pa = pytest.importorskip("pyarrow")
    frame = polars_frame().drop("category", "kind").to_arrow()
    words = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2] * (N // 3), pa.int8()), ["z", "y", "x"], ordered=True
    )
    frame = frame.append_column("size", words).append_column("t", pa.array([1, 2, 3] * (N // 3), pa.int16()))
    schema = TableSchema.infer(frame)
    assert schema["size"] == Ordinal(name="size", dtype=schema["size"].dtype, levels=("z", "y", "x"))
    again = schema.decode(schema.encode(frame))
    assert again.schema.equals(frame.schema)
    assert again.equals(frame)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int16", "bool"])
def test_numpy(dtype):
    rng = np.random.default_rng(1)
    array = (rng.normal(0, 20, (N, 3)) if dtype != "bool" else rng.random((N, 3)) < 0.5).astype(dtype)
    schema = TableSchema.infer(array)
    again = schema.decode(schema.encode(array))
    assert again.dtype == array.dtype and np.array_equal(again, array)


def test_numpy_of_objects_and_dict():
    data = {k: mixed()[k] for k in ("real", "word", "flag_hole")}
    array = np.array(list(zip(*data.values(), strict=True)), dtype=object)
    schema = TableSchema.infer(array)
    assert schema.decode(schema.encode(array)).tolist() == array.tolist()
    columns = {"a": np.arange(5) % 3, "b": ["u", "v", "u", "v", "w"]}
    schema = TableSchema.infer(columns)
    again = schema.decode(schema.encode(columns))
    assert again["a"].tolist() == columns["a"].tolist() and again["b"].tolist() == columns["b"]


def test_text_of_a_file_becomes_numbers_and_dates_keep_their_form():
    frame = pl.DataFrame(
        {
            "n": ["1", "2", "", "4", "NA"] * 20,
            "x": [f"{i / 7:.3f}" for i in range(100)],
            "day": [f"2024-01-{1 + i % 28:02d}" for i in range(100)],
            "time": [f"2024-01-{1 + i % 28:02d}T10:{i % 60:02d}:00Z" for i in range(100)],
            "zip": [f"0{1000 + i % 7}" for i in range(100)],
        }
    )
    schema = TableSchema.infer(frame)
    assert [c.kind for c in schema.columns] == ["integer", "positive", "datetime", "datetime", "categorical"]
    again = schema.decode(schema.encode(frame))
    assert again["n"].to_list() == [1, 2, None, 4, None] * 20 and again["n"].dtype == pl.Int64
    assert again["x"].to_list() == [float(v) for v in frame["x"]]
    assert again.select("day", "time", "zip").equals(frame.select("day", "time", "zip"))


def test_columns_of_another_order_and_library_and_left_out_constants():
    frame = pandas_frame()
    schema = TableSchema.infer(frame)
    encoded = schema.encode(frame)
    assert np.array_equal(
        encoded, schema.encode(frame[frame.columns[::-1]].drop(columns="one")), equal_nan=True
    )
    other = schema.decode(encoded, frame="polars")
    assert isinstance(other, pl.DataFrame) and other.columns == list(frame.columns)
    assert np.array_equal(encoded[:, : schema.dim], schema.encode(other), equal_nan=True)


def test_only_constants():
    frame = pd.DataFrame({"a": [1, 1], "b": ["x", "x"]})
    schema = TableSchema.infer(frame)
    pd.testing.assert_frame_equal(schema.decode(np.zeros((2, 0))), frame)


@pytest.mark.parametrize("spelled", ["2.0", "2", "2.00", "-0.5", "1e3", "1.000,5"])
def test_a_constant_number_in_text_is_the_number(spelled):
    frame = pl.DataFrame({"k": ["x", "y"] * 10, "c": [spelled] * 20})
    schema = TableSchema.infer(frame)
    assert schema["c"].kind == "constant"
    encoded = schema.encode(frame)
    assert np.array_equal(encoded, schema.encode(schema.decode(encoded)))
    with pytest.raises(DataError, match="column 'c', data row 2 holds '7'"):
        schema.encode(frame.with_columns(c=pl.Series([spelled, "7"] * 10)))


def test_marks_and_large_numbers_in_constant_text():
    marks = pl.DataFrame({"k": ["x", "y"] * 10, "c": ["NA"] * 20})
    assert TableSchema.infer(marks).encode(marks).shape == (20, 1)
    given = TableSchema.infer(marks.with_columns(c=pl.Series(["2.0"] * 19 + ["NA"])), {"c": "constant"})
    assert given.encode(marks.with_columns(c=pl.lit("2.00"))).shape == (20, 1)
    large = "12345678901234567"  # above 2^53: its neighbour is the same number in float64
    frame = marks.with_columns(c=pl.lit(large))
    schema = TableSchema.infer(frame, {"c": "constant"})
    assert [str(value) for value in schema.decode(schema.encode(frame))["c"]] == [large] * 20
    with pytest.raises(DataError, match="column 'c', data row 1 holds"):
        schema.encode(frame.with_columns(c=pl.lit(large[:-1] + "8")))


# -- any numbers ------------------------------------------------------------------------------------


def wild(n=100_000, seed=0):
    """Numbers of all sizes, and what is no number."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, n) * 10.0 ** rng.integers(-12, 13, n)
    x[:5] = [math.inf, -math.inf, 1e308, -1e308, 0.0]
    return x


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bounds_hold(dtype):
    x = wild()
    for column, low, high, closed in (
        (Positive(name="c", dtype=dtype), 0, math.inf, False),
        (Positive(name="c", dtype=dtype, decimals=2), 0, math.inf, False),
        (Positive(name="c", low=0.1, dtype=dtype), 0.1, math.inf, False),
        (Positive(name="c", closed=True, dtype=dtype), 0, math.inf, True),
        (Bounded(name="c", low=0.1, high=0.7, dtype=dtype), 0.1, 0.7, True),
        (Bounded(name="c", high=0.3, decimals=1, dtype=dtype), -math.inf, 0.3, True),
        (Bounded(name="c", low=-0.123, high=1.987, decimals=1, dtype=dtype), -0.123, 1.987, True),
    ):
        values = column.decode(x)
        assert values.dtype == dtype and np.isfinite(values).all()
        room = 4e-8 if dtype == "float32" else 0.0  # 0.3 itself is no single number
        assert (values >= low - room).all() and (values <= high + room).all()
        assert closed or (values > low).all()
        if column.decimals is not None and dtype == "float64":
            small = values[np.abs(values) < 1e6]
            assert np.array_equal(small, np.round(small, column.decimals))
        assert not np.isnan(column.encode(values)).any()  # refuses none of them


def test_atoms_stay_and_may_lie_outside():
    column = Positive(name="c", atoms=(-1.0, 0.0))
    values = column.decode(np.array([-1.0, 0.0, -0.4, 2.5, math.nan, np.float32(-1.0)]))
    assert (
        values[[0, 1, 5]].tolist() == [-1, 0, -1]
        and values[2] == 0
        and values[3] == 2.5
        and math.isnan(values[4])
    )
    assert column.encode([-1, 0, 2.5]).tolist() == [-1, 0, 2.5]


def test_lattices_hold():
    x = wild()
    cents = Steps(name="c", step=0.01, decimals=2, low=0.0)
    values = cents.decode(x)
    assert np.array_equal(values[values < 1e6], np.round(values[values < 1e6], 2)) and values.min() == 0
    fives = Integer(name="c", step=5, offset=3, low=3, high=48, dtype="uint8").decode(x)
    assert fives.dtype == np.uint8 and set(fives.tolist()) == set(range(3, 49, 5))
    for dtype in ("int8", "int64", "uint16"):
        whole = Integer(name="c", dtype=dtype).decode(x)
        assert whole.dtype == dtype and len(np.unique(whole)) > 100
    levels = Integer(name="c", levels=(1, 2, 7)).decode(x)
    assert set(levels.tolist()) == {1, 2, 7}


def test_circles_hold():
    x = wild()
    angle = Circular(name="c", period=360).decode(x)
    assert (angle >= 0).all() and (angle < 360).all()
    turn = Circular(name="c", period=2 * math.pi, origin=-math.pi, decimals=3).decode(x)
    assert (turn >= -math.pi).all() and (turn < math.pi).all() and np.array_equal(turn, np.round(turn, 3))
    month = Circular(name="c", period=12, origin=1, step=1, dtype="int64").decode(x)
    assert month.dtype == np.int64 and set(month.tolist()) == set(range(1, 13))
    single = Circular(name="c", period=360, dtype="float32").decode(x)
    assert (single >= 0).all() and (single < 360).all()
    assert Circular(name="c", period=360).encode([-10, 370, 360, 12]).tolist() == [350, 10, 0, 12]


def test_best_guesses_of_several_draws():
    """Means, of codes the level nearest to theirs; mean directions of angles; the most frequent level."""
    real = Real(name="x").middle(np.array([[1.0, 0.0], [4.0, 0.0]]))
    np.testing.assert_array_equal(real, [2.5, 0.0])
    coded = Integer(name="x", levels=(0.0, 3.0, 10.0))
    codes = np.array([[0.0, 2.0], [2.0, 2.0], [0.0, 1.0]])  # values 0, 10, 0 and 10, 10, 3
    np.testing.assert_array_equal(coded.decode(coded.middle(codes)), [3, 10])
    circle = Circular(name="x", period=24.0, origin=-12.0)
    hours = circle.middle(np.array([[11.0, 5.0], [-11.5, 7.0]]))  # 11 and 12.5; across the origin
    np.testing.assert_allclose(hours, [11.75, 6.0], rtol=1e-12)
    word = Categorical(name="x", levels=("a", "b"))
    assert word.decode(word.middle(np.array([[1.0], [0.0], [1.0]]))).tolist() == ["b"]


def test_levels_and_times_hold():
    x = wild()
    assert set(Categorical(name="c", levels=("a", 2, True)).decode(x)) <= {"a", 2, True}
    assert set(Boolean(name="c").decode(x).tolist()) == {False, True}
    assert set(Ordinal(name="c", levels=(0.5, 7.25)).decode(x).tolist()) == {0.5, 7.25}
    hours = Datetime(name="c", step=3600.0).decode(x)
    assert (hours.astype("int64") % 3_600_000_000 == 0).all() and hours.max() < np.datetime64("2262-04-01")
    days = Datetime(name="c", step=86400.0, dtype="date").decode(x)
    assert days.dtype == "datetime64[D]"
    text = Datetime(name="c", step=86400.0, form="%Y-%m-%d").decode(np.array([0.0, 86400.0 * 365, math.nan]))
    assert text.tolist() == ["1970-01-01", "1971-01-01", None]


@pytest.mark.parametrize("make", [pandas_frame, polars_frame])
def test_a_decoded_table_is_one_that_its_schema_takes(make):
    """Wild numbers in every column of a table of all kinds: 20,000 rows, none refused, types kept."""
    frame = make()
    schema = TableSchema.infer(frame)
    rows = np.column_stack([wild(20_000, seed) for seed in range(schema.dim)])
    drawn = schema.decode(rows)
    assert list(drawn.dtypes) == list(frame.dtypes)
    encoded = schema.encode(drawn)
    assert np.array_equal(encoded, schema.encode(schema.decode(encoded)))


def test_missing_cells_come_back_missing():
    frame = polars_frame()
    schema = TableSchema.infer(frame)
    drawn = schema.decode(np.full((3, schema.dim), math.nan))
    modelled = drawn.select(schema.names)
    assert modelled.null_count().row(0) == (3,) * schema.dim


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(st.none(), st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9, allow_subnormal=False)),
        min_size=1,
        max_size=40,
    )
)
def test_any_numbers_come_back(values):
    schema = TableSchema.infer({"c": values}, None if len(set(values)) < 15 else {"c": "real"})
    if schema.dim and schema["c"].kind != "id":
        again = schema.decode(schema.encode({"c": values}))["c"]
        expected = np.array([math.nan if v is None else float(v) for v in values])
        scale = np.abs(expected[~np.isnan(expected)]).max(initial=1)
        assert np.allclose(again.astype(float), expected, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=1, max_size=15))
def test_any_words_come_back(values):
    schema = TableSchema.infer(
        {"c": values}, {"c": "categorical"} if any(v and v.strip() for v in values) else {}
    )
    again = schema.decode(schema.encode({"c": values}))["c"] if schema.dim else None
    if again is not None and schema["c"].dtype == "":
        words = set(schema["c"].levels)
        for before, after in zip(values, again.tolist(), strict=True):
            assert after == (before if before in words else None)


def test_every_kind_is_in_the_registry():
    kinds = {
        Real,
        Positive,
        Bounded,
        Circular,
        Integer,
        Steps,
        Datetime,
        Categorical,
        Ordinal,
        Boolean,
        Constant,
    }
    assert {KINDS[k.kind] for k in kinds} == kinds and {"drop", "id"} <= set(KINDS)


def test_decimals_of_single_precision_stay_those():
    """0.89 that was a float32 is 0.88999998…: a sample of 0.89 would be none of the values of its column."""
    rng = np.random.default_rng(0)
    cents = np.round(0.89 * rng.integers(1, 4000, 3000), 2)
    frame = pl.DataFrame(
        {
            "single": cents.astype(np.float32).astype(np.float64),
            "double": cents,
            "real": rng.normal(size=3000).astype(np.float32).astype(np.float64),
            "whole": rng.integers(0, 900, 3000).astype(float),
        }
    )
    schema = TableSchema.infer(frame)
    assert [c.said()["single"] for c in schema.columns] == [True, False, True, False]
    again = TableSchema.from_dict(schema.to_dict())
    assert again.decode(schema.encode(frame)).equals(frame)
    drawn = again.decode(schema.encode(frame) + rng.normal(size=(3000, 4)) * [5, 5, 0.1, 5])
    assert (drawn["single"].to_numpy().astype(np.float32) == drawn["single"].to_numpy()).all()
    assert (drawn["real"].to_numpy().astype(np.float32) == drawn["real"].to_numpy()).all()
    assert (np.round(drawn["double"].to_numpy(), 2) == drawn["double"].to_numpy()).all()
