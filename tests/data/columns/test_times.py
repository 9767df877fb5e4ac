"""Steps of times: found with their phase, said in words, kept by samples, and written in schemas."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from modeflow.data.columns import Datetime, TableSchema, parse_spec
from modeflow.errors import ConfigError, DataError

N = 400
MONDAY = dt.datetime(2020, 1, 6)
DAY = 86400.0


def times(step, start=MONDAY, count=200, seed=0):
    """Many of the times ``start + n * step``."""
    return [start + int(n) * step for n in np.random.default_rng(seed).integers(0, count, N)]


def wild(seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(1.6e9, 1e8, 500), rng.uniform(-4e9, 4e9, 500), [np.nan]])[:, None]


@pytest.mark.parametrize(
    ("step", "start", "spec"),
    [
        (dt.timedelta(days=7), MONDAY, "datetime(7 days, offset 2020-01-06 00:00:00)"),
        (dt.timedelta(days=14), dt.datetime(1970, 1, 1), "datetime(14 days)"),
        (dt.timedelta(hours=6), MONDAY.replace(hour=3), "datetime(6 hours, offset 2020-01-06 03:00:00)"),
        (dt.timedelta(minutes=15), MONDAY, "datetime(15 minutes)"),
        (dt.timedelta(hours=1), MONDAY.replace(minute=30), "datetime(hour, offset 2020-01-06 00:30:00)"),
        (dt.timedelta(milliseconds=40), MONDAY, "datetime(40 milliseconds)"),
        (dt.timedelta(days=1), MONDAY, "datetime(day)"),
    ],
)  # fmt: skip
def test_a_step_is_found_with_its_phase_and_kept(step, start, spec):
    values = [*times(step, start), start]
    schema = TableSchema.infer(pl.DataFrame({"when": values}))
    column = schema["when"]
    assert column.spec == spec and column.step == step.total_seconds()
    drawn = schema.decode(wild())["when"]
    assert drawn.null_count() == 1
    assert {(value - start) % step for value in drawn.drop_nulls()} == {dt.timedelta(0)}
    assert schema.decode(schema.encode(pl.DataFrame({"when": values})))["when"].to_list() == values
    again = TableSchema.from_yaml(schema.to_yaml())
    assert again == schema
    kind, options = parse_spec(spec, "when")
    assert Datetime(name="when", dtype=column.dtype, **options) == column and kind == "datetime"


def test_dates_in_text_keep_their_weekday():
    text = [str(t.date()) for t in times(dt.timedelta(days=7))]
    schema = TableSchema.infer({"day": text})
    assert "step: 7 days" in schema.to_yaml() and "offset: 2020-01-06" in schema.to_yaml()
    assert TableSchema.from_yaml(schema.to_yaml()) == schema
    drawn = schema.decode(wild())["day"]
    assert {dt.date.fromisoformat(d).weekday() for d in drawn if d is not None} == {0}


def test_a_step_that_chance_may_give_is_none():
    """Of ten random dates all differ by even numbers of days in one draw of 512."""
    even = [MONDAY + dt.timedelta(days=int(n)) for n in (0, 2, 8, 14, 20, 26, 40, 46, 50, 58)]
    assert TableSchema.infer({"t": even})["t"].step == DAY
    assert TableSchema.infer({"t": [MONDAY + dt.timedelta(days=n) for n in (0, 17, 34)]})["t"].step == DAY
    fortnights = [MONDAY + dt.timedelta(days=14 * n) for n in (0, 1, 3, 4, 7, 9)]
    assert TableSchema.infer({"t": fortnights})["t"].step == 14 * DAY


def test_a_step_that_is_said():
    values = {"t": times(dt.timedelta(days=7))}
    for said in ("datetime(7 days)", {"kind": "datetime", "step": 7 * DAY}):
        column = TableSchema.infer(values, {"t": said})["t"]
        assert column.step == 7 * DAY and column.decode(np.array([1e9]))[0].item().weekday() == 0
    assert TableSchema.infer(values, {"t": "datetime(day)"})["t"].step == DAY
    with pytest.raises(DataError, match="which datetime"):
        TableSchema.infer(values, {"t": "datetime(14 days)"})
    for bad in ("fortnight", "days 7", True, float("inf")):
        with pytest.raises(ConfigError, match="several of them such as '7 days'"):
            TableSchema.infer(values, {"t": {"kind": "datetime", "step": bad}})
    with pytest.raises(ConfigError, match="above 0"):
        TableSchema.infer(values, {"t": {"kind": "datetime", "step": -60}})


def month(n, day=1, hour=0):
    """The time in month n since January 1970, at this day, or at the last of a month that has it not."""
    first = dt.datetime(1970 + n // 12, n % 12 + 1, 1, hour)
    after = dt.datetime(1970 + (n + 1) // 12, (n + 1) % 12 + 1, 1)
    return first + dt.timedelta(days=min(day, (after - first.replace(hour=0)).days) - 1)


@pytest.mark.parametrize(
    ("every", "day", "hour", "spec"),
    [
        (1, 1, 0, "datetime(month)"),
        (1, 15, 0, "datetime(month, offset 1970-01-15 00:00:00)"),
        (1, 31, 0, "datetime(month, offset 1970-01-31 00:00:00)"),
        (1, 31, 18, "datetime(month, offset 1970-01-31 18:00:00)"),
        (3, 1, 0, "datetime(3 months)"),
        (3, 30, 0, "datetime(3 months, offset 1970-01-30 00:00:00)"),
        (12, 1, 6, "datetime(year, offset 1970-01-01 06:00:00)"),
    ],
)
def test_months_are_steps_of_their_own(every, day, hour, spec):
    """Firsts, the fifteenth, ends of months (28 to 31), quarters, years."""
    rows = np.random.default_rng(1).integers(0, 80, N)
    values = [month(int(n) * every, day, hour) for n in rows]
    schema = TableSchema.infer(pl.DataFrame({"when": values}))
    column = schema["when"]
    assert column.spec == spec and column.months and column.step == every
    np.testing.assert_array_equal(schema.encode(pl.DataFrame({"when": values}))[:, 0], rows * every)
    assert schema.decode(schema.encode(pl.DataFrame({"when": values})))["when"].to_list() == values
    drawn = schema.decode(np.random.default_rng(0).normal(400, 300, (500, 1)))["when"].to_list()
    assert set(drawn) <= {month(every * n, day, hour) for n in range(-1000, 1800)} and len(set(drawn)) > 30
    assert TableSchema.from_yaml(schema.to_yaml()) == schema
    assert TableSchema.from_dict(schema.to_dict()) == schema
    again = TableSchema.infer(pl.DataFrame({"when": values}), {"when": column.said()})
    assert again["when"].said() == column.said()
    _, options = parse_spec(spec, "when")
    assert Datetime(name="when", dtype=column.dtype, **options) == column
    off = pl.DataFrame({"when": [values[0] + dt.timedelta(days=-9)]})
    with pytest.raises(DataError, match="which datetime"):
        schema.encode(off)
    assert not float(schema.encode(off, "score")[0, 0]).is_integer()
    np.testing.assert_allclose(
        column.seconds(schema.encode(off, "score")[:, 0]),
        (off["when"][0] - dt.datetime(1970, 1, 1)).total_seconds(),
    )


def test_months_that_chance_may_give_or_that_are_few_or_said():
    text = [str(month(n).date()) for n in np.random.default_rng(0).integers(300, 420, N)]
    schema = TableSchema.infer({"t": text})
    assert "step: month" in schema.to_yaml() and schema["t"].decode(np.array([361.2])).tolist() == [
        "2000-02-01"
    ]
    three = [month(n, 15) for n in (0, 5, 13)]
    assert TableSchema.infer({"t": three})["t"].step == DAY
    few = TableSchema.infer({"t": [month(n) for n in range(20)] * 20})["t"]
    assert few.as_levels and few.step == DAY and not few.months
    said = TableSchema.infer({"t": [month(n) for n in range(20)] * 20}, {"t": "datetime(month)"})["t"]
    assert said.months and not said.as_levels
    with pytest.raises(DataError, match="which datetime"):
        TableSchema.infer({"t": [month(0), month(1), month(2, 7)]}, {"t": "datetime(month)"})
    with pytest.raises(ConfigError, match="a step of months has none"):
        Datetime(name="t", step="month", levels=(0.0, 1.0))
