"""Reading and writing tables: what comes in, and what is refused with which words."""

from __future__ import annotations

import os
import warnings

import h5py
import numpy as np
import polars as pl
import pytest

from modeflow.data import Table, check_writable, read_table, write_table
from modeflow.errors import DataError

VALUES = np.array([[1.0, -2.5], [3.0, 1e-300], [0.1, 12345678.9]])


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5", ".hdf5"])
def test_round_trip_is_exact(tmp_path, suffix):
    path = tmp_path / f"new/folder/t{suffix}"
    write_table(path, VALUES, ["a", "b"])
    back = read_table(path)
    np.testing.assert_array_equal(back.values, VALUES)
    assert back.values.dtype == np.float64
    assert back.columns == (("x0", "x1") if suffix == ".npy" else ("a", "b"))
    assert os.listdir(path.parent) == [path.name], "temporary files stay behind"


def test_integer_columns_are_written_as_integers(tmp_path):
    path = write_table(tmp_path / "t.csv", np.array([[1.0, 2.0]]), ["n", "x"], integer_columns=["n"])
    assert path.read_text() == "n,x\n1,2.0\n"


def test_csv_header_forms(tmp_path):
    assert read_table(write(tmp_path, "1,2\n3,4\n")).columns == ("x0", "x1")
    assert len(read_table(write(tmp_path, "1,2\n3,4\n"))) == 2
    # pandas writes 0,1 above a frame without names
    counted = read_table(write(tmp_path, "0,1\n1.5,2\n3,4\n"))
    assert counted.columns == ("0", "1") and len(counted) == 2
    assert len(read_table(write(tmp_path, "0,1\n1,2\n"))) == 2
    assert read_table(write(tmp_path, "1_0,2_0\n1,2\n")).columns == ("1_0", "2_0")
    spaced = read_table(write(tmp_path, b'\xef\xbb\xbf a ,"b"\r\n 1 ,"2"\r\n\r\n'))
    assert spaced.columns == ("a", "b") and spaced.values.tolist() == [[1, 2]]


def test_columns_are_selected_in_the_order_asked(tmp_path):
    path = write(tmp_path, "name,a,b\nx,1,2\ny,3,4\n")
    table = read_table(path, columns=["b", "a"])
    assert table.columns == ("b", "a")
    assert table.values.tolist() == [[2, 1], [4, 3]]
    with pytest.raises(DataError, match="no column 'aa'; did you mean 'a'"):
        read_table(path, columns=["aa"])
    with pytest.raises(DataError, match="give a list"):
        read_table(path, columns="a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,x9\n", r"column 'b', data row 2 \(line 3\) is text: 'x9'"),
        ("1,2\n3,1_0\n", r"column 'x1', data row 2 \(line 2\) is text: '1_0'"),
        ("a,b\n1,2\n,NA\nnan,4\n", r"3 missing values \(NaN\) in 'a' \(2\), 'b' \(1\)"),
        ("a,b\n1,2\n3,-inf\n", r"column 'b', data row 2 is infinite"),
        ("a,b\n1,1e400\n", r"column 'b', data row 1 is infinite"),
        ("a,b\n1,2\n3\n", r"ragged: line 3 has 1 cells, the header has 2"),
        ("1,2\n3\n", r"ragged: line 2 has 1 cells, the first line has 2"),
        ("a,b\n1,2\n3,4,5\n", r"ragged: line 3 has 3 cells"),
        ("a,a\n1,2\n", r"column 'a' twice"),
        (",a\n0.5,2\n", r"column 1 has no name"),
        ("", r"is empty"),
        ("a,b\n", r"no data rows"),
        (b"a,b\n1,\xe9\n2,3\n4,5\n", r"data row 1 \(line 2\) is text: 'é'"),
        ("a,b\nu,1\nv,2\n", r"whole column is text"),
    ],
)
def test_bad_csv_names_the_place(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read_table(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_parquet_types(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"i": [1, 2], "b": [True, False], "s": ["1.5", "2"]}).write_parquet(path)
    assert read_table(path).values.tolist() == [[1, 1, 1.5], [2, 0, 2]]
    pl.DataFrame({"i": [1, None]}).write_parquet(path)
    with pytest.raises(DataError, match=r"1 missing value \(NaN\) in 'i' \(1\)"):
        read_table(path)
    frame = pl.DataFrame({"d": ["2020-01-01"]}).with_columns(pl.col("d").str.to_date())
    frame.write_parquet(path)
    with pytest.raises(DataError, match="column 'd' is Date"):
        read_table(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_table(path)


def test_arrays_are_found_and_named(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, X=VALUES, y=np.zeros(3))
    assert read_table(path).values.shape == (3, 2)
    assert read_table(path, array="y").values.shape == (3, 1)
    assert read_table(path, columns=["x1"]).values.shape == (3, 1)
    np.savez(path, left=VALUES, right=VALUES)
    with pytest.raises(DataError, match=r"left \(3, 2\), right \(3, 2\); say which"):
        read_table(path)
    with pytest.raises(DataError, match="no array 'rigth'; did you mean 'right'"):
        read_table(path, array="rigth")
    np.savez(path, table=VALUES, mask=np.zeros(3))
    assert read_table(path).values.shape == (3, 2)
    with h5py.File(tmp_path / "t.h5", "w") as handle:
        handle["group/rows"] = VALUES
    assert read_table(tmp_path / "t.h5").values.shape == (3, 2)


class _Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
def test_pickled_arrays_are_refused_and_not_run(tmp_path, name):
    bomb = np.array([_Bomb(tmp_path / "boom")], dtype=object)
    path = tmp_path / name
    with open(path, "wb") as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith("npy"):
            np.save(handle, bomb, allow_pickle=True)
        else:
            np.savez(handle, data=bomb)
    with pytest.raises(DataError, match="pickled objects"):
        read_table(path)
    assert not (tmp_path / "boom").exists()


def test_bad_files_are_refused_in_one_line(tmp_path):
    good = write_table(tmp_path / "good.npy", VALUES)
    cases = {
        "folder": (tmp_path, "is a folder"),
        "missing": (tmp_path / "god.npy", "no file .*; did you mean 'good.npy'"),
        "suffix": (write(tmp_path, "1", "t.xlsx"), "unknown ending '.xlsx'"),
        "pickle": (write(tmp_path, "1", "t.pkl"), "is a pickle"),
        "cut": (write(tmp_path, good.read_bytes()[:-5], "cut.npy"), "damaged"),
        "empty": (write(tmp_path, "", "e.npy"), "damaged"),
        "nonsense": (write(tmp_path, "hello", "n.npz"), "no numpy file"),
        "h5": (write(tmp_path, "hello", "n.h5"), "cannot be read as hdf5"),
    }
    for label, (path, words) in cases.items():
        with pytest.raises(DataError, match=words) as caught:
            read_table(path)
        assert "\n" not in str(caught.value), label
    for label, array, words in (
        ("text", np.array([["a"]]), "not numbers"),
        ("complex", np.ones((2, 2), complex), "not numbers"),
        ("cube", np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        ("none", np.ones((0, 3)), "0 rows"),
        ("nan", np.array([[np.nan, 1.0]]), r"'x0' \(1\)"),
        ("inf", np.array([[1.0, 1.0], [1.0, np.inf]]), "column 'x1', data row 2"),
    ):
        np.save(tmp_path / f"{label}.npy", array)
        with pytest.raises(DataError, match=words):
            read_table(tmp_path / f"{label}.npy")


def test_unwritable_paths_are_refused_before_the_work(tmp_path):
    blocker = write(tmp_path, "", "file")
    with pytest.raises(DataError, match="cannot write"):
        check_writable(blocker / "out.csv")
    with pytest.raises(DataError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "a/b/out.csv")
    assert (tmp_path / "a/b").is_dir() and not list((tmp_path / "a/b").iterdir())
    with pytest.raises(DataError, match="unknown ending"):
        write_table(tmp_path / "t.xyz", VALUES)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_table(tmp_path / "t.npy", VALUES)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(DataError, match="No space left"):
        write_table(path, VALUES + 1)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_table(path).values, VALUES)
    assert os.listdir(tmp_path) == ["t.npy"]


def test_a_reader_keeps_the_old_file_while_it_is_replaced(tmp_path):
    path = write_table(tmp_path / "t.csv", VALUES[:1])
    with open(path) as reader:
        write_table(path, VALUES)
        assert len(reader.readlines()) == 2
    assert len(read_table(path)) == 3


def test_table_checks_itself():
    with pytest.raises(DataError, match="1 column names given for 2 columns"):
        Table(VALUES, ("a",))
    with pytest.raises(DataError, match="twice"):
        Table(VALUES, ("a", "a"))


def test_columns_that_are_mostly_missing_are_named_as_the_ones_to_leave_out(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b,c\n1,,3\n2,,4\n3,5,\n4,6,5\n")
    with pytest.raises(DataError, match=r"leave out 'b', which lacks more than a third, or drop these rows"):
        read_table(file)
    file.write_text("a,b,c\n1,,\n2,,\n3,5,6\n")
    with pytest.raises(DataError, match=r"leave out 'b', 'c', which lack more than a third, or drop"):
        read_table(file)
    file.write_text("a,b\n,\n,\n3,5\n")
    with pytest.raises(DataError, match=r"in data row 1; drop these rows|first in data row 1; drop"):
        read_table(file)
