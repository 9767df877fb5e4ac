"""Schemas as text, what users say of columns, and every error in one clear line."""

from __future__ import annotations

import datetime as dt
import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from test_round_trip import pandas_frame, polars_frame

from modeflow.data.columns import (
    IMPOSSIBLE,
    Bounded,
    Categorical,
    Circular,
    Constant,
    Integer,
    Ordinal,
    Positive,
    TableSchema,
    parse_spec,
    read_mixed,
)
from modeflow.errors import ConfigError, DataError

N = 200


def table(n=N):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "speed": rng.normal(0, 1, n),
            "share": rng.beta(0.5, 0.5, n),
            "few": rng.integers(0, 5, n),
            "many": rng.integers(0, 90, n),
            "city": rng.choice(["Rome", "Oslo", "Bonn"], n),
            "year": 2013,
        }
    )


# -- specs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "options"),
    [
        ("circular(360)", "circular", {"period": 360}),
        ("circular(12, origin 1, step 1)", "circular", {"period": 12, "origin": 1, "step": 1}),
        ("circular(12, 1)", "circular", {"period": 12, "origin": 1}),
        ("integer(0..)", "integer", {"low": 0}),
        ("integer(..10, step=5)", "integer", {"high": 10, "step": 5}),
        ("integer(1..5, as levels)", "integer", {"low": 1, "high": 5, "as_levels": True}),
        ("lattice(0.01, 0.., atom 0)", "lattice", {"step": 0.01, "low": 0, "atoms": (0,)}),
        ("positive(atom -1, atom 0)", "positive", {"atoms": (-1, 0)}),
        ("positive(2.5, closed)", "positive", {"low": 2.5, "closed": True}),
        ("bounded(0, 1)", "bounded", {"low": 0, "high": 1}),
        ("bounded(-1..1)", "bounded", {"low": -1, "high": 1}),
        ("ordinal(low < mid < high)", "ordinal", {"levels": ("low", "mid", "high")}),
        ("categorical(a, 'b', 3, 0.5, 01)", "categorical", {"levels": ("a", "b", 3, 0.5, "01")}),
        ("Continuous(2)", "real", {"decimals": 2}),
        ("datetime(day)", "datetime", {"step": "day"}),
        ("drop", "drop", {}),
        ({"kind": "circular", "period": 24}, "circular", {"period": 24}),
        ({"kind": "circular(24)", "origin": 0}, "circular", {"period": 24, "origin": 0}),
        ({"atoms": [0]}, "auto", {"atoms": [0]}),
    ],
)
def test_specs(said, kind, options):
    assert parse_spec(said, "c") == (kind, options)


@pytest.mark.parametrize(
    "column",
    [
        Circular(name="c", period=360),
        Circular(name="c", period=12, origin=1, step=1),
        Bounded(name="c", low=0, high=1),
        Bounded(name="c", low=-1),
        Positive(name="c", atoms=(-1, 0)),
        Positive(name="c", low=2, closed=True),
        Integer(name="c", low=0),
        Ordinal(name="c", levels=("low", "mid", "high")),
        Categorical(name="c", levels=("a", "b", 3)),
    ],
)
def test_the_spec_of_a_column_says_it_again(column):
    kind, options = parse_spec(column.spec, "c")
    assert kind == column.kind and type(column)(name="c", **options) == column


def test_what_was_said_is_kept_and_the_rest_found():
    schema = TableSchema.infer(
        table(),
        {
            "speed": "bounded(-9..9)",
            "few": "ordinal(0 < 1 < 2 < 3 < 4)",
            "many": "integer(0..120)",
            "share": {"kind": "positive", "closed": True},
            "city": Categorical(name="city", levels=("Oslo", "Rome", "Bonn", "Wien")),
        },
    )
    assert schema["speed"].spec == "bounded(-9..9)" and schema["few"].ordered
    assert (schema["many"].low, schema["many"].high, schema["many"].as_levels) == (0, 120, False)
    assert schema["city"].levels == ("Oslo", "Rome", "Bonn", "Wien") and schema["year"].kind == "constant"
    assert TableSchema.infer(table(), {"speed": {"atoms": [0.5]}})["speed"].atoms == (0.5,)
    assert "speed: bounded(-9..9)" in schema.describe()[0]


# -- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [pandas_frame(), polars_frame()], ids=["pandas", "polars"])
def test_yaml_and_dict_come_back(frame):
    schema = TableSchema.infer(frame, {"positive": "circular(400)", "word": "ordinal(b < a < c)"})
    text = schema.to_yaml("a title")
    assert TableSchema.from_yaml(text) == schema
    assert TableSchema.from_dict(schema.to_dict()) == schema
    again = TableSchema.infer(frame, TableSchema.specs_of_yaml(text))
    assert again == schema
    assert text.startswith("# a title\n") and "# 300 values" in text


def test_odd_names_and_levels_survive_yaml():
    names = ["a: b", "# no", "yes", "1", "", "Ü 'x' \"y\"", "n" * 200, "a\nb", "?", "- x"]
    levels = ["yes", "no", "null", "1", "~", "a: b", "# c", "Ü", "1e3", " pad ", "2020-01-01", "0x1"]
    frame = dict.fromkeys(names, levels * 3)
    schema = TableSchema.infer(frame)
    assert TableSchema.from_yaml(schema.to_yaml()) == schema


def test_a_file_edited_by_a_person():
    text = TableSchema.infer(table()).to_yaml()
    assert "  few: {kind: integer, levels: [0, 1, 2, 3, 4], dtype: int64}\n" in text
    edited = text.replace("few: {kind: integer, levels: [0, 1, 2, 3, 4], dtype: int64}", "few: categorical")
    schema = TableSchema.infer(table(), TableSchema.specs_of_yaml(edited))
    assert schema["few"].kind == "categorical" and schema["few"].levels == (0, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match=r"'few' of kind 'categorical' needs levels"):
        TableSchema.from_yaml(edited)


def test_times_in_yaml_are_dates():
    start = dt.date(2024, 1, 1)
    days = [start + dt.timedelta(days=i % 3) for i in range(60)]
    text = TableSchema.infer({"day": days}).to_yaml()
    assert "levels: [2024-01-01, 2024-01-02, 2024-01-03]" in text and "step: day" in text
    schema = TableSchema.infer(
        {"day": days}, {"day": {"kind": "datetime", "as_levels": False, "low": "2024-01-01"}}
    )
    assert TableSchema.from_yaml(schema.to_yaml()) == schema
    assert schema["day"].decode(np.array([0.0]))[0] == np.datetime64("2024-01-01")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [", r"YAML \(line 1\)"),
        ("a: 1", "needs 'columns:'"),
        ("columns: {a: real}\nrows: 3", "not 'rows'"),
        ("columns:\n  a: real\n  a: drop", "'a' is given twice"),
        ("columns: {a: reel}", "did you mean 'real'"),
        ("columns: {a: {kind: circular, periode: 3}}", "no option 'periode'; did you mean 'period'"),
        ("columns: {a: circular}", "'a' of kind 'circular' needs period"),
        ("columns: {a: auto}", "needs data"),
        ("columns: {a: 3}", "says no kind"),
        ("frame: pandsa\ncolumns: {a: real}", "did you mean 'pandas'"),
        ("columns: {a: {kind: categorical, levels: x}}", "must be a list"),
        ("columns: {a: {kind: categorical, levels: [x, x]}}", "given twice"),
        ("columns: {a: {kind: bounded, low: 3, high: 1}}", "low=3 must lie below high=1"),
        ("columns: {a: {kind: positive, low: x}}", "low must be a number"),
        ("columns: {a: {kind: circular, period: 10, step: 3}}", "whole part of the period"),
        ("columns: {a: {kind: integer, step: 0.5}}", "must be whole"),
        ("columns: {a: {kind: integer, levels: [a, b]}}", "levels must be numbers"),
        ("columns: {a: integer(many)}", "cannot be read"),
        ("columns: {a: drop(3)}", "nothing in brackets"),
    ],
)
def test_bad_files(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        TableSchema.from_yaml(text)
    assert "\n" not in str(error.value)


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"sped": "real"}, ConfigError, "no column 'sped'; did you mean 'speed'"),
        ({"speed": "reel"}, ConfigError, "column 'speed': kind 'reel' is not known; did you mean 'real'"),
        ({"speed": {"kind": "real", "bounds": 3}}, ConfigError, "no option 'bounds'"),
        ({"speed": "positive"}, DataError, r"column 'speed', data row \d+ holds -.*positive cannot have"),
        ({"speed": "bounded(0..9)"}, DataError, "which bounded"),
        ({"speed": "integer"}, DataError, "no whole number; say 'real'"),
        ({"speed": "lattice"}, DataError, "lies on no lattice"),
        ({"many": "integer(10..)"}, DataError, r"which integer\(10..\) cannot have"),
        ({"many": "integer(step 7)"}, DataError, r"which integer\(step 7"),
        ({"city": "real"}, DataError, "column 'city', data row 1 holds '.*', no number"),
        ({"city": "ordinal"}, ConfigError, "needs its levels in order"),
        ({"city": "categorical(Rome, Oslo)"}, DataError, "holds 'Bonn'.*cannot have"),
        ({"city": "datetime"}, DataError, "are dates or times"),
        ({"city": "boolean"}, DataError, "boolean cannot have"),
        ({"city": "constant"}, DataError, "constant"),
        ({"many": "circular"}, ConfigError, "needs its period"),
        ({"many": "circular(7)"}, DataError, "more than two turns"),
        ({"speed": {"kind": "real", "as_levels": True}}, ConfigError, "as_levels is an option of"),
    ],
)
def test_what_is_said_against_the_data(said, error, message):
    with pytest.raises(error, match=message) as caught:
        TableSchema.infer(table(), said)
    assert "\n" not in str(caught.value)


def test_thousands_of_levels_and_names_of_rows():
    words = [f"w{i}" for i in range(3000)]
    with pytest.raises(DataError, match=r"3000 levels, more than 1000.*'drop'"):
        TableSchema.infer({"c": words}, {"c": "categorical"})
    schema = TableSchema.infer(
        {"c": words, "n": np.arange(3000), "x": np.random.default_rng(0).normal(size=3000)}
    )
    assert [c.kind for c in schema.columns] == ["id", "id", "real"] and "'drop'" in schema.notes[0]
    with pytest.raises(
        DataError,
        match=r"columns 'c' .*, 'n' .* name the rows.*: pass columns={'c': 'drop', 'n': 'drop'}, or",
    ):
        schema.encode({"c": words, "n": np.arange(3000), "x": np.zeros(3000)})
    dropped = TableSchema.infer({"c": words, "x": np.zeros(3000)}, {"c": "drop"})
    with pytest.raises(DataError, match="no column to model"):
        dropped.check()


def test_tables_that_are_none():
    for frame, message in (
        ({}, "no columns"),
        ({"a": []}, "no rows"),
        (3, "a table is a data frame"),
        (np.zeros(3), "needs shape"),
        ({"a": [1, 2], "b": [1]}, "1 and 2 rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "twice"),
        ({"a": [[1], [2]]}, "holds list"),
        (pd.DataFrame({"a": pd.interval_range(0, 2)}), "interval"),
        (pl.DataFrame({"a": [[1], [2]]}), "type List"),
        ({"a": np.array([1.0, math.inf])}, "data row 2 is infinite"),
    ):
        with pytest.raises(DataError, match=message):
            TableSchema.infer(frame)


def test_columns_that_differ_are_named():
    schema = TableSchema.infer(table())
    with pytest.raises(DataError, match=r"missing 'city'; unexpected 'ctiy'; did you mean 'city'"):
        schema.encode(table().rename(columns={"city": "ctiy"}))
    with pytest.raises(DataError, match="has 6 columns"):
        schema.encode(table()[["speed", "few"]].to_numpy())
    with pytest.raises(DataError, match="shape"):
        schema.decode(np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="did you mean 'pandas'"):
        schema.decode(np.zeros((3, 5)), frame="panda")
    assert np.array_equal(schema.encode(table().to_numpy(dtype=object)), schema.encode(table()))


def test_values_not_seen():
    schema = TableSchema.infer(table(), {"many": "integer(0..89)"})
    rows = table(3).assign(
        city=["Rome", "Osol", "Oslo"], many=[1, 2, 500], year=[2013, 2013, 2014], few=[0, 9, 1]
    )
    with pytest.raises(DataError, match=r"column 'few', data row 2 holds 9, .*its values are 0, 1, 2, 3, 4"):
        schema.encode(rows)
    with pytest.raises(DataError, match=r"data row 2 holds 'Osol', which categorical\(.*did you mean 'Oslo'"):
        schema.encode(rows.assign(few=0, many=1))
    with pytest.raises(DataError, match=r"column 'year', data row 3 holds 2014, which constant"):
        schema.encode(rows.assign(few=0, city="Rome", many=1))
    missing = schema.encode(rows, unseen="missing")
    few, many, city = (schema.names.index(name) for name in ("few", "many", "city"))
    assert (
        np.isnan(missing[1, [few, city]]).all()
        and np.isnan(missing[2, many])
        and not np.isnan(missing[0]).any()
    )
    impossible = schema.encode(rows, unseen="impossible")
    assert impossible[1, city] == IMPOSSIBLE and np.isfinite(impossible[0]).all()
    assert (impossible[2] == IMPOSSIBLE).all()  # another year than there is
    near = schema.encode(rows.assign(city="Rome"), unseen="nearest")
    assert near[1, few] == 4 and near[2, many] == 89
    with pytest.raises(DataError, match="Osol"):
        schema.encode(rows, unseen="nearest")
    with pytest.raises(ConfigError, match="did you mean 'missing'"):
        schema.encode(rows, unseen="mising")


def test_levels_match_however_they_are_typed():
    column = Categorical(name="c", levels=(2, 3))
    assert column.encode(["2", "3", ""]).tolist()[:2] == [0, 1] and math.isnan(column.encode([None])[0])
    words = Categorical(name="c", levels=("2", "5more"))
    assert words.encode(np.array([2, 2])).tolist() == [0, 0] and words.encode([2.0, None])[0] == 0
    flags = TableSchema.infer({"c": [True, False] * 5})["c"]
    assert flags.encode(["true", "FALSE", "1"]).tolist()[:2] == [1, 0] and flags.encode([0, 1]).tolist() == [
        0,
        1,
    ]
    assert Integer(name="c").encode(["1", "NA", "3"]).tolist()[::2] == [1, 3]


# -- reading ----------------------------------------------------------------------------------------


def test_files_of_all_endings(tmp_path):
    frame = pl.DataFrame(table().to_dict("list"))
    schema = TableSchema.infer(frame)
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", frame["speed", "few"].to_numpy())
    for name in ("t.csv", "t.parquet"):
        read, _ = read_mixed(tmp_path / name)
        assert [c.kind for c in TableSchema.infer(read).columns] == [c.kind for c in schema.columns]
        assert np.array_equal(schema.encode(read), schema.encode(frame))
    assert read_mixed(tmp_path / "t.npy")[0].columns == ["x0", "x1"]
    assert read_mixed(tmp_path / "t.csv", ["city", "few"])[0].columns == ["city", "few"]
    assert read_mixed("moons")[0].shape == (10_000, 2)
    with pytest.raises(DataError, match="no file"):
        read_mixed(tmp_path / "no.csv")
    with pytest.raises(DataError, match="no text file"):
        read_mixed(tmp_path / "t.parquet", header=True)


DAY, MOMENT = dt.date(2024, 1, 31), dt.datetime(2024, 1, 31, 10, 30)


@pytest.mark.parametrize("kind", ["polars", "pandas", "dict"])
def test_a_constant_time_is_one_after_it_was_kept_as_text(kind):
    columns = {"a": [0.1, 0.5, 0.7], "day": [DAY] * 3, "moment": [MOMENT] * 3, "word": ["2024-01-31"] * 3}
    frame = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "dict": dict}[kind](columns)
    schema = TableSchema.infer(frame)
    kept = [
        TableSchema.from_dict(json.loads(json.dumps(schema.to_dict()))),
        TableSchema.infer(frame, TableSchema.specs_of_yaml(schema.to_yaml())),
        TableSchema.infer(frame, {column.name: column.said() for column in schema.columns}),
    ]
    for again in kept:
        assert again == schema and [c.kind for c in again.columns][1:] == ["constant"] * 3
        back = again.decode(again.encode(frame, "impossible"))
        cells = {name: pd.Series(back[name]).iloc[0] for name in columns}
        assert pd.Timestamp(cells["day"]).date() == DAY and not isinstance(cells["day"], str)
        assert pd.Timestamp(cells["moment"]) == pd.Timestamp(MOMENT) and not isinstance(cells["moment"], str)
        assert cells["word"] == "2024-01-31"
    with pytest.raises(ConfigError, match="'day': 'May' is no date, such as 2024-01-31"):
        Constant(name="day", value="May", time=True)


def test_what_says_everything_is_taken_as_it_stands():
    """Nothing is found out again of columns that a schema has said, on rows that look otherwise."""
    frame = table()
    schema = TableSchema.infer(frame)
    said = {column.name: column.said() for column in schema.columns}
    few = frame.iloc[:40]
    again = TableSchema.infer(few, said)
    assert [c.options() for c in again.columns] == [c.options() for c in schema.columns]
    assert not again.notes


def test_remarks_of_one_kind_are_one_line():
    rng = np.random.default_rng(0)
    zeros = {f"z{i}": np.where(rng.random(300) < 0.5, 0.0, rng.gamma(2.0, 1.0, 300)) for i in range(3)}
    frame = pd.DataFrame({**zeros, "zip": ["01234", "09876", "12345"] * 100, "one": 1, "two": 2})
    notes = TableSchema.infer(frame).notes
    assert len(notes) == 3
    assert [sum(name in note for note in notes) for name in ("'z0'", "'z1'", "'z2'", "'one'", "'zip'")] == [
        1
    ] * 5
    assert any("'z0' (0: " in note and note.startswith("values that hold far more rows") for note in notes)
    assert any("columns 'one' (constant(1)), 'two' (constant(2)) are set aside" in note for note in notes)
    many = pd.DataFrame({f"c{i}": [1] * 9 for i in range(30)})
    assert "and 10 more are set aside" in TableSchema.infer(many).notes[0]
