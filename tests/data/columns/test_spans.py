"""Durations and periods: numbers to a model, and given back as the type that they were."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeflow import NVF
from modeflow.data.columns import TableSchema
from modeflow.errors import DataError

N = 200


def seconds(seed=0):
    return np.random.default_rng(seed).integers(0, 5000, N).astype(float)


def spans(unit="us", hole=True):
    values = (1e6 * seconds()).astype("timedelta64[us]").astype(f"timedelta64[{unit}]")
    if hole:
        values[3] = np.timedelta64("NaT")
    return values


def wild(schema):
    x = np.random.default_rng(0).normal(0, 1, (300, schema.dim)) * np.logspace(0, 300, 300)[:, None]
    x[5] = np.nan
    return x


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_of_pandas_come_back(unit):
    frame = pd.DataFrame({"d": spans(unit), "x": seconds(1)})
    schema = TableSchema.infer(frame)
    assert schema["d"].kind == "integer" and schema["d"].missing and "in seconds" in schema["d"].about
    encoded = schema.encode(frame)
    np.testing.assert_array_equal(encoded[:, 0], np.where(np.arange(N) == 3, np.nan, seconds()))
    pd.testing.assert_series_equal(schema.decode(encoded)["d"], frame["d"])
    drawn = schema.decode(wild(schema))["d"]
    assert (
        drawn.dtype == frame["d"].dtype
        and drawn.isna().sum() == 1
        and (drawn.dropna() >= pd.Timedelta(0)).all()
    )
    assert TableSchema.from_yaml(schema.to_yaml()) == schema


def test_durations_of_other_frames_come_back():
    frame = pl.DataFrame({"d": pl.Series(spans()), "e": pl.Series(spans("ns")) / 1000})
    schema = TableSchema.infer(frame)
    assert (schema["d"].step, schema["e"].decimals) == (1, 3)  # thousandths that hardly repeat
    assert schema.decode(schema.encode(frame)).equals(frame)
    assert schema.decode(wild(schema)).schema == frame.schema
    pa = pytest.importorskip("pyarrow")
    table = frame.to_arrow()
    schema = TableSchema.infer(table)
    assert schema.decode(schema.encode(table)).equals(table)
    backed = pd.DataFrame({"d": pd.Series(spans("ns")).astype(pd.ArrowDtype(pa.duration("ns")))})
    schema = TableSchema.infer(backed)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(backed)), backed)
    for array in (np.column_stack([spans(), spans()]), {"d": spans()}):
        schema = TableSchema.infer(array)
        back = schema.decode(schema.encode(array))
        np.testing.assert_array_equal(
            back["d"] if isinstance(array, dict) else back, spans() if isinstance(array, dict) else array
        )
    listed = {"d": [None if s != s else dt.timedelta(seconds=s) for s in [*seconds(), np.nan]]}
    assert TableSchema.infer(listed).decode(np.array([[90.0]]))["d"][0] == np.timedelta64(90, "s")


@pytest.mark.parametrize("freq", ["M", "W-SUN", "Q-DEC", "D", "h"])
def test_periods_come_back(freq):
    """Months are the numbers of months since January 1970: each has a probability, none is between two."""
    first = pd.Period("2015-01-07", freq)
    values = pd.Series([first + int(k) for k in seconds() % 80], dtype=f"period[{freq}]")
    values[3] = pd.NaT
    frame = pd.DataFrame({"p": values})
    schema = TableSchema.infer(frame)
    column = schema["p"]
    assert column.kind == "integer" and f"from {values.min()} to {values.max()}" in column.about
    assert schema.encode(frame)[0, 0] == values[0].ordinal
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)
    assert schema.decode(wild(schema)).dtypes.equals(frame.dtypes)
    assert TableSchema.from_yaml(schema.to_yaml()) == schema
    other = pd.DataFrame({"p": values.dt.asfreq("Y")})
    with pytest.raises(DataError, match=r"column 'p' holds periods of type period\[Y-DEC\], not period"):
        schema.encode(other)
    as_objects = pd.DataFrame({"p": values.astype(object)})
    assert schema["p"].encode([first])[0] == first.ordinal
    np.testing.assert_array_equal(TableSchema.infer(as_objects).encode(as_objects), schema.encode(frame))


def test_a_series_of_months_numbers_no_rows():
    frame = pd.DataFrame(
        {"p": pd.period_range("2015-01", periods=N, freq="M"), "d": pd.to_timedelta(np.arange(N), "s")}
    )
    assert [c.kind for c in TableSchema.infer(frame).columns] == ["integer", "integer"]


def test_few_and_single_values_come_back():
    two = pd.to_timedelta([60, 3600] * 20, unit="s")
    frame = pd.DataFrame(
        {"two": two, "one": two[0], "few": two[:1].append(two[:39]) * 2, "month": pd.Period("2020-02")}
    )
    schema = TableSchema.infer(frame)
    assert schema["two"].kind == "categorical" and schema["one"].kind == schema["month"].kind == "constant"
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)


def test_values_that_cannot_be_are_said_as_they_are():
    schema = TableSchema.infer({"d": np.tile(spans(hole=False)[:10], 20)}, {"d": "integer(0..5000)"})
    with pytest.raises(DataError, match="data row 2 holds 1:30:00, which integer"):
        schema.encode({"d": [dt.timedelta(0), dt.timedelta(hours=1.5)]})


@pytest.mark.parametrize(
    "column",
    [pl.Series([dt.time(1, 2), dt.time(3, 4)]), pl.Series([b"a", b"b"]), pl.Series([[1], [2]]),
     pd.Series(pd.interval_range(0, 2)), pd.Series([{1}, {2}]), np.array([1j, 2j])],
)  # fmt: skip
def test_other_types_are_refused_by_name_and_may_be_dropped(column):
    make = pl.DataFrame if isinstance(column, pl.Series) else pd.DataFrame
    frame = make({"c": column, "x": [1.5, 2.5]})
    with pytest.raises(DataError, match=r"column 'c'.* say 'drop'"):
        TableSchema.infer(frame)
    schema = TableSchema.infer(frame, {"c": "drop"})
    assert schema.names == ("x",) and schema.encode(frame).tolist() == [[0.0], [1.0]]  # two levels
    with pytest.raises(DataError, match="column 'c'"):
        TableSchema.infer(frame, {"c": "categorical"})


def test_an_estimator_gives_them_back():
    frame = pd.DataFrame(
        {"took": spans(), "month": pd.period_range("2015-01", periods=N, freq="M"), "x": seconds(2)}
    )
    model = NVF(latent_options={"states": 2, "likelihood": "leaves"}, max_epochs=1, random_state=0).fit(frame)
    drawn, _ = model.sample(50)
    assert drawn.dtypes.equals(frame.dtypes) and np.isfinite(model.score_samples(frame)).all()
    filled = model.impute(frame)[0]
    assert not filled["took"].isna().any() and (filled["month"] == frame["month"]).all()
    given = model.sample_given({"month": pd.Period("2016-03"), "took": dt.timedelta(minutes=5)}, 3)
    assert (given["took"] == pd.Timedelta("5min")).all() and (given["month"] == pd.Period("2016-03")).all()
