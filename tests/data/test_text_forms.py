"""The forms in which tables of text come, and what the reader makes of each. Every guess has a line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import warnings
import zipfile

import numpy as np
import pytest

from modeflow.data import read_rows, read_table, write_table
from modeflow.errors import DataError

X = np.random.default_rng(0).normal(size=(40, 3)).round(4)
I = np.random.default_rng(0).integers(0, 17, (40, 3))


def text(values, separator=",", form=str):
    return "\n".join(separator.join(form(v) for v in row) for row in values.tolist()) + "\n"


def comma(v):
    return str(v).replace(".", ",")


def read(tmp_path, content, name="t.csv", **options):
    """The table, and everything that was said about it."""
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = read_table(file, **options)
    return table, [*table.notes, *(f"warning: {w.message}" for w in caught)]


ABC = "a,b,c\n"
ROWS = text(X)
# name of the file, its text, and a word of the only note; None where nothing is guessed
SAME = {
    "plain": ("t.csv", ABC + ROWS, None),
    "byte order mark": ("t.csv", "\ufeff" + ABC + ROWS, None),
    "Windows line ends": ("t.csv", (ABC + ROWS).replace("\n", "\r\n"), None),
    "old Mac line ends": ("t.csv", (ABC + ROWS).replace("\n", "\r"), None),
    "no line end at the end": ("t.csv", (ABC + ROWS).strip(), None),
    "quoted": ("t.csv", '"a","b","c"\n' + text(X, form=lambda v: f'"{v}"'), None),
    "quoted names": ("t.csv", '"a","b","c"\n' + ROWS, None),
    "blanks around cells": ("t.csv", "a, b, c\n" + text(X, " , "), None),
    "no-break spaces": ("t.csv", ABC + text(X, form=lambda v: f"{v}\u00a0"), None),
    "plus signs and exponents": ("t.csv", ABC + text(X, form="{:+.9e}".format), None),
    "blank lines": ("t.csv", "\n" + ABC + "\n" + ROWS.replace("\n", "\n\n", 9) + "\n\n", None),
    "empty rows of Excel": ("t.csv", ABC + ROWS + ",,\n,,\n", "left out 2 rows at the end without any cell"),
    "UTF-16 with mark": ("t.csv", (ABC + ROWS).encode("utf-16"), None),
    "UTF-16 without mark": ("t.csv", (ABC + ROWS).encode("utf-16-le"), "UTF-16"),
    "Latin-1": ("t.csv", ("# Höhe\n" + ABC + ROWS).encode("latin-1"), "Windows-1252"),
    "semicolons": ("t.csv", "a;b;c\n" + text(X, ";"), "semicolons"),
    "semicolons and decimal commas": ("t.csv", "a;b;c\n" + text(X, ";", comma), "decimal commas"),
    "tabs in csv": ("t.csv", "a\tb\tc\n" + text(X, "\t"), "tabs"),
    "tabs and decimal commas": ("t.tsv", "a\tb\tc\n" + text(X, "\t", comma), "decimal commas"),
    "bars": ("t.txt", "a|b|c\n" + text(X, "|"), "bars"),
    "blanks in csv": ("t.csv", "a b c\n" + text(X, " "), "blanks"),
    "aligned columns": ("t.dat", "  a    b   c\n" + text(X, "", "{:10.4f}".format), "blanks"),
    "commas in txt": ("t.txt", ABC + ROWS, "commas"),
    "the line of Excel": ("t.csv", "sep=;\na;b;c\n" + text(X, ";"), "sep=;"),
    "comment": ("t.csv", "# by me,\n#\n" + ABC + ROWS, "2 comment lines"),
    "comments between": ("t.csv", ABC + ROWS.replace("\n", "\n# half\n", 1), "1 comment line "),
    "rows commented out": ("t.csv", ABC + "#1,2,3\n" + ROWS, "1 comment line "),
    "header in a comment": ("t.csv", "# " + ABC + ROWS, "comment '# a, b, c' as names"),
    "np.savetxt": ("t.txt", "# a b c\n" + text(X, " ", "{:.18e}".format), "comment '# a, b, c' as names"),
    "commas at the ends": ("t.csv", "a,b,c,\n" + ROWS.replace("\n", ",\n"), "empty last column"),
    "commas at the ends of rows": ("t.csv", ABC + ROWS.replace("\n", ",\n"), "empty last column"),
    "pandas index": (
        "t.csv", ",a,b,c\n" + "".join(f"{i},{r}\n" for i, r in enumerate(ROWS.split())), "row index (0, 1",
    ),
    "index after a selection": (
        "t.csv", ",a,b,c\n" + "".join(f"{3 * i + 5},{r}\n" for i, r in enumerate(ROWS.split())), "(5, 8, 11",
    ),
    "index saved twice": (
        "t.csv", "Unnamed: 0,a,b,c\n" + "".join(f"{i},{r}\n" for i, r in enumerate(ROWS.split())), "Unnamed",
    ),
    "write.table of R": (
        "t.txt", '"a" "b" "c"\n' + "".join(
            f'"{i}" {r}\n' for i, r in enumerate(text(X, " ").splitlines(), 1)
        ),
        "row index (1, 2",
    ),
    "true minus": ("t.csv", ABC + ROWS.replace("-", "\u2212"), "true minus sign"),
    "Fortran": ("t.csv", ABC + text(X, form=lambda v: f"{v}D+00"), "Fortran"),
    "percent": ("t.csv", ABC + text(X, form=lambda v: f"{v}%"), "sign (%)"),
    "euro": ("t.csv", ABC + text(X, form=lambda v: f"{v} €"), "sign (€)"),
    "measured in words": (
        "t.csv", "a,b,c,unit\n" + ROWS.replace("\n", ",12 kg a day\n"), "left out columns of text: 'unit'",
    ),
    "dollars": ("t.csv", ABC + text(X, form=lambda v: f"${v}".replace("$-", "-$")), "sign ($)"),
}  # fmt: skip


@pytest.mark.parametrize("form", SAME)
def test_these_files_are_the_same_table(tmp_path, form):
    name, content, word = SAME[form]
    table, said = read(tmp_path, content, name, skip_text="words" in form)
    assert table.columns == ("a", "b", "c")
    np.testing.assert_allclose(table.values, X, rtol=1e-9)
    if word is None:
        assert said == []
    else:
        assert word in " ".join(said)
        assert not any(line.startswith("warning") for line in said)


def test_words_and_signs_beside_decimal_commas_leave_the_separator(tmp_path):
    """Commas gave more numbers (the 0 of 0,5) than semicolons, and rows wider than their first line."""
    rows = [f"{i / 7:.2f};{'xy'[i % 2]};{i}%".replace(".", ",") for i in range(40)]
    table, said = read(tmp_path, "a;w;p\n" + "\n".join(rows) + "\n", "t.csv", skip_text=True)
    assert table.columns == ("a", "p") and table.values[1].tolist() == [0.14, 1]
    assert "semicolons" in " ".join(said)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("t.csv.gz", gzip.compress),
        ("t.dat.bz2", bz2.compress),
        ("t.txt.xz", lzma.compress),
        ("t.csv", gzip.compress),  # the name lies
    ],
)
def test_packed_files(tmp_path, name, pack):
    table, _ = read(tmp_path, pack((ABC + ROWS).encode()), name)
    np.testing.assert_array_equal(table.values, X)


def test_zip_files(tmp_path):
    def packed(**members):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return buffer.getvalue()

    for name in ("t.csv.zip", "t.zip", "t.csv"):
        np.testing.assert_array_equal(read(tmp_path, packed(t=ABC + ROWS), name)[0].values, X)
    with pytest.raises(DataError, match=r"packs 2 files \(a, b\)"):
        read(tmp_path, packed(a="1", b="2"), "t.zip")
    with pytest.raises(DataError, match="is a workbook"):
        read(tmp_path, packed(**{"[Content_Types].xml": ""}))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path, packed(t=ABC)[:-30], "t.csv.zip")


YEARS = "2019,2020,2021\n"
# first line and rows, how many rows come out, and what is said: a note, a warning, or nothing
HEADERS = {
    "years above fractions": (YEARS + ROWS, 40, "note"),
    "years above whole numbers": (YEARS + text(I), 40, "note"),
    "wavelengths": ("400.5,401.0,401.5\n" + ROWS, 40, "note"),
    "numbers in quotes": ('"3","1","2"\n' + ROWS, 40, "note"),
    "0,1,2 of pandas": ("0,1,2\n" + ROWS, 40, "note"),
    "0,1,2 of pandas above whole numbers": ("0,1,2\n" + text(I), 40, "note"),
    "0 of a pandas series": ("0\n" + text(X[:, :1]), 40, "note"),
    "names and years": ("mass,2019,2020\n" + ROWS, 40, "note"),
    "an unnamed index and years": (
        ",2019,2020\n" + "".join(f"{i},{r}\n" for i, r in enumerate(text(X[:, :2]).split())), 40, "note",
    ),
    "two years above whole numbers": ("2019,2020\n" + text(I[:, :2]), 40, "warning"),
    "one year": ("2019\n" + text(X[:, :1]), 40, "warning"),
    "fractions": (ROWS, 40, "as a row"),
    "whole numbers": (text(I), 40, "as a row"),
    "flags": ("0,1\n" + text(I[:, :2] % 2), 41, "as a row"),
    "counting on": (text(np.arange(160).reshape(20, 8)), 20, "as a row"),
    "the same number twice": ("7,7,8\n" + ROWS, 41, "as a row"),
    "the start of a simulation": ("1.0,2.0,3.0\n" + ROWS, 41, "as a row"),
    "whole numbers inside the range": ("1,0,-1\n" + text(3 * X), 41, "as a row"),
    "a large first value": ("99\n" + text(np.sort(I[:, :1] * 3, axis=0)[::-1]), 41, "warning"),
    "true and false": (text(I > 8), 40, "as a row"),
    "one row": ("1,2,3\n", 1, "as a row"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_first_line_of_numbers(tmp_path, case):
    content, rows, kind = HEADERS[case]
    table, said = read(tmp_path, content)
    assert len(table) == rows
    warned = any(line.startswith("warning") for line in said)
    assert warned == (kind == "warning")
    assert any(("first line" in line) and ("names" in line if kind == "note" else True) for line in said)


def test_the_option_overrules_the_guess(tmp_path):
    for content in (YEARS + ROWS, text(I), "2019\n" + text(X[:, :1])):
        lines = content.count("\n")
        for header in (True, False):
            table, said = read(tmp_path, content, header=header)
            assert len(table) == lines - header and said == []
    with pytest.raises(DataError, match="'a' in data row 1"):
        read(tmp_path, ABC + ROWS, header=False)


def test_a_text_cell_in_the_first_row_makes_no_header(tmp_path):
    with pytest.raises(DataError, match=r"column 'x0', data row 1 \(line 1\) is text: 'x9'"):
        read(tmp_path, "x9,0.5,2.5\n" + ROWS)
    with pytest.raises(DataError, match=r"1 missing value \(NaN\) in 'x0' \(1\)"):
        read(tmp_path, "NA,0.5,2.5\n" + ROWS)
    with pytest.raises(DataError, match=r"column 'x2', data row 1 \(line 1\) is text: 'setosa'"):
        read(tmp_path, text(X[:, :2]).replace("\n", ",setosa\n"))


def test_a_single_column_with_decimal_commas(tmp_path):
    table, said = read(tmp_path, "a\n" + text(X[:, :1], form=comma))
    np.testing.assert_array_equal(table.values, X[:, :1])
    assert any(line.startswith("warning") and "decimal commas" in line for line in said)


@pytest.mark.parametrize(
    ("content", "first", "words"),
    [
        ('a,b\n"12,570.5",1\n"1,000",2\n', [12570.5, 1], "commas between thousands"),
        ("a;b\n12.570,5;1\n1.000;2\n", [12570.5, 1], "decimal commas"),
        ("a,b\n12'570.5,1\n1'000,2\n", [12570.5, 1], "apostrophes"),
        ("a;b\n12\u202f570,5;1\n1 000;2\n", [12570.5, 1], "decimal commas"),
        ('a,b\n"$1,234.50",1\n$12.00,2\n', [1234.5, 1], "commas between thousands"),
        # three digits after every comma: the other columns decide
        ("a;b\n1,234;2.5\n3,456;4.1\n", [1234, 2.5], "commas between thousands in 'a'"),
        ("a;b\n1,234;2,5\n3,456;4,1\n", [1.234, 2.5], "decimal commas in 'b', 'a'"),
        ("a;b\n1,234;2\n56.5;4\n", [1234, 2], "commas between thousands in 'a'"),
        ('a,b\n"1,234",1\n"3,456",2\n', [1234, 1], "commas between thousands in 'a'"),
        ("a,b\nTrue,1\nFALSE,2\n", [1, 1], "true and false as 1 and 0 in 'a'"),
    ],
)
def test_spellings_of_numbers(tmp_path, content, first, words):
    table, said = read(tmp_path, content)
    assert table.values[0].tolist() == first
    assert words in " ".join(said)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a;b\n1,234;2\n3,456;4\n", "the comma may mark decimals or thousands"),
        ("a,b\n1,2%\n3,4\n", "sign is not on every cell"),
        ("a,b\n1,$2\n3,€4\n", "sign is not on every cell"),
        ("a;b\n0,5;1\n1.5;2\n", r"data row 2 \(line 3\) is text: '1.5'"),
        ("a,b\n2020-01-01,1\n2020-01-02,2\n", "turn times into numbers"),
        ("a,b\n12:30:00,1\n12:30:01,2\n", "turn times into numbers"),
        ("a,b\n0x1f,1\n0x2f,2\n", "whole column is text"),
        (ABC + "m,s,kg\n" + ROWS, r"line 2 \(m, s, kg\) .* looks like a line of units"),
        ("a,b\n1,2,3\n4,5,6\n", "ragged: line 2 has 3 cells, the header has 2"),
        ("a;b\n1;2\n3\n", r"ragged: line 3 has 1 cells, the header has 2 \(separated by semicolons\)"),
        ("# c\n\na,b\n1,2\n\n# c\nx,3\n", r"data row 2 \(line 7\)"),
        (",a\nu,1\nv,2\n", "column 1 has no name and is no row index"),
        (",a\n3,1\n3,2\n", "column 1 has no name and is no row index"),
        ("# a\n", "is empty"),
        ("\n\n", "is empty"),
        ("<!DOCTYPE html><html>", "web page"),
        (b"PAR1....", "is parquet, not text"),
        (b"1,2\n\x00\x01,3\n", "zero bytes"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_all_bad_columns_are_named_at_once(tmp_path):
    content = "a,b,c,d,e\n1,x,u,,inf\n2,3,v,5,1\nq,4,w,5,2\n5,6,z,7,3\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "3 columns hold text",
        "'a' (1, first 'q' in data row 3 (line 4))",
        "'b' (1, first 'x' in data row 1 (line 2))",
        "'c' (every cell, such as 'u')",
        "1 missing value (NaN) in 'd' (1), first in data row 1",
        "column 'e', data row 1 is infinite",
    ):
        assert part in message


def test_rows_and_columns_are_left_out_on_demand(tmp_path):
    content = "a,b,c\n1,,u\n2,3,v\n4,5,w\n"
    table, said = read(tmp_path, content, drop_missing=True, skip_text=True)
    assert table.columns == ("a", "b") and table.values.tolist() == [[2, 3], [4, 5]]
    assert any("left out columns of text: 'c'" in line for line in said)
    assert any("left out 1 of 3 rows with missing cells, in 'b' (1)" in line for line in said)
    with pytest.raises(DataError, match="missing"):
        read(tmp_path, content, skip_text=True)
    # A bad cell among numbers is no column of text, and text is not missing.
    with pytest.raises(DataError, match="'b', data row 2"):
        read(tmp_path, "a,b\n1,2\n3,x9\n5,6\n", drop_missing=True, skip_text=True)
    with pytest.raises(DataError, match="every row has a missing cell"):
        read(tmp_path, "a,b\n1,\n,2\n", drop_missing=True)
    np.save(tmp_path / "t.npy", [[1.0, np.nan], [2.0, 3.0]])
    assert len(read_table(tmp_path / "t.npy", drop_missing=True)) == 1


def test_unusable_rows_are_marked(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,2\nx,\n3,inf\n4,5\n")
    table, bad = read_rows(file)
    assert bad == {1: "'a' is text, 'b' is missing", 2: "'b' is infinite"}
    assert len(table) == 4 and table.values[3].tolist() == [4, 5]
    file.write_text("a,b\n1,u\n2,v\n")
    with pytest.raises(DataError, match="whole column is text"):
        read_rows(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "t,a\n" + "".join(f"{1700000000000000000 + i * 1000003},{i}\n" for i in range(9)),
            r"'t' holds whole numbers above 2\^53, which float64 rounds \(8 of 9",
        ),
        ("id,a\n" + "".join(f"{i},{i * i}\n" for i in range(12)), "'id' numbers the rows"),
        ("a\n" + "".join(f"{-999 if i % 5 == 0 else i}\n" for i in range(20)), "'a' holds -999 in 4 rows"),
        ("a;b\n0,5;1.234\n1,5;5.678\n", "read '1.234' as 1.234, though other columns have decimal commas"),
    ],
)
def test_numbers_that_may_not_be_meant_as_such_raise_a_warning(tmp_path, content, words):
    with pytest.warns(UserWarning, match=words):
        read_table(_write(tmp_path, content))


def test_exact_numbers_raise_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_table(_write(tmp_path, "t\n" + "".join(f"{10**14 + i}.5\n" for i in range(9))))
        assert np.diff(table.values[:, 0]).tolist() == [1.0] * 8
        times = 1_700_000_000_000_000_000 + 1024 * np.arange(9)
        np.save(tmp_path / "t.npy", times)
        np.testing.assert_array_equal(read_table(tmp_path / "t.npy").values[:, 0], times)
        read_table(_write(tmp_path, "a\n" + "-999\n" * 3 + "".join(f"{-990 + 7 * i}\n" for i in range(200))))
    np.save(tmp_path / "t.npy", times + 1)
    with pytest.warns(UserWarning, match="float64 rounds"):
        read_table(tmp_path / "t.npy")
    np.save(tmp_path / "t.npy", np.array(["2020-01-01"], "M8[ns]"))
    with pytest.raises(DataError, match="turn times into numbers"):
        read_table(tmp_path / "t.npy")


def _write(tmp_path, content):
    file = tmp_path / "t.csv"
    file.write_text(content)
    return file


def test_text_that_looks_like_a_comment_stays(tmp_path):
    content = "colour,a\n" + "".join(f"#{i:02x}ff00,{i}\n" for i in range(20))
    assert len(read_table(_write(tmp_path, content), columns=["a"])) == 20
    content = 'note,a\n"say ""hi""\n# no comment\n\n",1\nx,2\n'
    table, said = read(tmp_path, content, columns=["a"])
    assert table.values.tolist() == [[1], [2]] and said == []


def test_a_name_may_span_lines(tmp_path):
    table, _ = read(tmp_path, '"a\n(m)",b\n1,2\n3,4\n')
    assert table.columns == ("a (m)", "b") and len(table) == 2


def test_the_pandas_index_in_parquet(tmp_path):
    import json

    import polars as pl

    frame = pl.DataFrame({"a": [1.5, 2.5], "__index_level_0__": [3, 7], "key": [5, 6]})
    file = tmp_path / "t.parquet"
    frame.write_parquet(file, metadata={"pandas": json.dumps({"index_columns": ["key", {"kind": "range"}]})})
    table = read_table(file)
    assert table.columns == ("a",)
    assert "'__index_level_0__', 'key', the row index of pandas" in table.notes[0]
    assert read_table(file, columns=["key", "a"]).values.tolist() == [[5, 1.5], [6, 2.5]]


def test_flags_are_the_same_in_every_kind_of_file(tmp_path):
    import polars as pl

    frame = pl.DataFrame({"f": [True, False, True], "a": [0.5, 1.5, 2.5]})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    a, b = read_table(tmp_path / "t.parquet"), read_table(tmp_path / "t.csv")
    assert a.columns == b.columns and np.array_equal(a.values, b.values)


def test_dates_in_parquet(tmp_path):
    import polars as pl

    frame = pl.DataFrame({"d": ["2020-01-01"], "s": ["x"], "a": [1.5]})
    frame = frame.with_columns(pl.col("d").str.to_date())
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"2 columns hold text: 'd' \(Date\), 's' .*'d': turn times into numbers"
    ):
        read_table(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", skip_text=True)
    assert table.columns == ("a",) and "'d', 's'" in table.notes[0]


def test_standard_input_and_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((ABC + ROWS).encode())))
    table = read_table("-")
    np.testing.assert_array_equal(table.values, X)
    write_table("-", np.array([[1.0, np.nan], [2.0, 0.5]]), ("n", "x"), integer_columns=["n"])
    assert capsys.readouterr().out == "n,x\n1,NaN\n2,0.5\n"


def test_options_of_text_are_of_text(tmp_path):
    np.save(tmp_path / "t.npy", X)
    with pytest.raises(DataError, match="no text file: header=True"):
        read_table(tmp_path / "t.npy", header=True)
    with pytest.raises(DataError, match="header='yes' must be True, False"):
        read_table(tmp_path / "t.npy", header="yes")


def test_missing_integers_are_empty_cells(tmp_path):
    file = write_table(
        tmp_path / "t.csv", np.array([[1.0, 2.0], [np.nan, 3.0]]), ("n", "x"), integer_columns=["n"]
    )
    assert file.read_text() == "n,x\n1,2.0\n,3.0\n"
