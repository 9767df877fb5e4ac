"""Large files in parts and many files at once: what is written does not depend on how it was read."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from modeflow.cli import main
from modeflow.cli.commands import _many, sample
from modeflow.data import parts
from modeflow.data.columns.writing import TableWriter
from modeflow.metrics import pooled, summarise

SMALL = ["--quiet", "--set", "max_epochs=1", "--set", "n_states=2", "--set", "flow=nsf-coupling",
         "--set", "flow_options.layers=1", "--set", "flow_options.hidden_features=8"]  # fmt: skip


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"a": rng.normal(size=n), "n": rng.integers(0, 9, size=n), "b": rng.normal(size=n)})


def alike(a, b):
    """The same but for the order of sums: matrix products of other numbers of rows differ in last digits."""
    if isinstance(a, dict):
        for key in a.keys() | b.keys():
            assert alike(a[key], b[key]), key
        return True
    if isinstance(a, list):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return (
        np.isclose(a, b, rtol=1e-12, atol=1e-12) if isinstance(a, float) and isinstance(b, float) else a == b
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    rows(120).write_csv(folder / "t.csv")
    assert main(["fit", str(folder / "t.csv"), "-o", str(folder / "run"), *SMALL]) == 0
    return str(folder / "run")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of some rows."""

    def now():
        monkeypatch.setattr(parts, "_BYTES", 900)
        monkeypatch.setattr(parts, "_ROWS", 300)
        monkeypatch.setattr(sample, "_AT_ONCE", 300)

    return now


def call(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def made(folder, kind):
    """A table of 1,000 rows of which two are bad, in a file of a kind."""
    table = rows(1000, 3).with_columns(
        a=pl.when(pl.int_range(1000).is_in([7, 811])).then(None).otherwise("a")
    )
    file = folder / f"t{kind}"
    if kind == ".parquet":
        table.write_parquet(file)
    else:
        text = table.write_csv(separator=";" if kind == ".txt" else ",", include_header=kind != ".dat")
        text = text.replace("\n", "\r\n") if kind == ".txt" else text
        file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    return file


@pytest.mark.parametrize("kind", [".csv.gz", ".txt", ".dat", ".parquet"])
def test_scores_are_those_of_the_whole_file(run, tmp_path, capsys, small_parts, kind):
    file = made(tmp_path, kind)
    if kind == ".dat":  # without names
        bare = rows(120).to_numpy()
        np.savetxt(tmp_path / "bare.csv", bare, delimiter=",")
        run = str(tmp_path / "run")
        assert main(["fit", str(tmp_path / "bare.csv"), "-o", run, *SMALL]) == 0
    _, whole, _ = call(capsys, "score", run, file, "-o", tmp_path / "a.csv", "--json")
    small_parts()
    assert sum(1 for _ in parts.parts_of(file)) > 3
    _, cut, _ = call(capsys, "score", run, file, "-o", tmp_path / "b.csv", "--json")
    a, b = (pl.read_csv(tmp_path / name, null_values="NaN") for name in ("a.csv", "b.csv"))
    assert a.columns == b.columns and a.height == b.height == 1000
    np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=1e-12)
    whole, cut = json.loads(whole), json.loads(cut)
    assert cut["log_likelihood"]["n"] == 998
    assert [each["row"] for each in cut["rows_without_score"]] == [8, 812]
    assert alike({**whole, "out": 0}, {**cut, "out": 0})


def test_text_is_cut_between_rows(tmp_path, monkeypatch):
    cells = [f'"line\nend {i}",{i}' for i in range(300)]
    file = tmp_path / "quoted.csv"
    file.write_text("name,i\n" + "\n".join(cells))
    monkeypatch.setattr(parts, "_BYTES", 701)
    from modeflow.data.columns import read_mixed

    found = []
    for part in parts.parts_of(file):
        with parts.reading_part(part):
            found.append(read_mixed(file, header=part.header)[0])
    whole = read_mixed(file)[0]
    assert len(found) > 4 and pl.concat(found).equals(whole)


def test_a_ragged_line_is_named(run, tmp_path, capsys, small_parts):
    lines = rows(500).write_csv().splitlines()
    lines[402] += ",1"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    small_parts()
    code, _, err = call(capsys, "score", run, tmp_path / "t.csv", "-o", tmp_path / "s.csv")
    assert code == 2 and "line 403" in err and not (tmp_path / "s.csv").exists()


def test_anomalies_are_those_of_the_whole_file(run, tmp_path, capsys, small_parts):
    file, out = made(tmp_path, ".parquet"), tmp_path / "w.parquet"

    def found(way):
        code, told, _ = call(capsys, "anomalies", run, file, "-o", out, "--json", *way)
        return code, json.loads(told), pl.read_parquet(out).rows()

    ways = (["--alpha", "0.1"], ["--top", "7"])
    whole = [found(way) for way in ways]
    small_parts()
    for way, (code, told, lines) in zip(ways, whole, strict=True):
        cut = found(way)
        assert code == cut[0] == 0 and len(lines) == len(cut[2])
        for row, other in zip(lines, cut[2], strict=True):
            numbers = [(x, y) for x, y in zip(row, other, strict=True) if isinstance(x, float)]
            # A column's part is a difference of two densities.
            assert all(np.isclose(x, y, rtol=1e-9, atol=1e-9) for x, y in numbers)
        assert told["odd"] == cut[1]["odd"]
        assert [r["row"] for r in told["oddest_rows"]] == [r["row"] for r in cut[1]["oddest_rows"]]


def test_samples_in_parts(run, tmp_path, capsys, small_parts):
    small_parts()
    for name in ("a.csv", "b.csv"):
        code, out, _ = call(
            capsys, "sample", run, "-n", 1000, "-o", tmp_path / name, "--with-state", "--json"
        )
    table = pl.read_csv(tmp_path / "a.csv")
    assert code == 0 and table.height == 1000 and table["n"].dtype == pl.Int64
    assert table["a"].n_unique() == 1000, "parts must not draw the same"
    assert json.loads(out)["states"] == np.bincount(table["state"], minlength=2).tolist()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("n", [200, 700])  # one part, and three
def test_rows_given_a_cell_are_called_what_they_are_however_many(run, tmp_path, capsys, small_parts, n):
    small_parts()
    code, out, err = call(capsys, "sample", run, "-n", n, "--given", "a=0.5", "-o", tmp_path / "a.csv")
    table = pl.read_csv(tmp_path / "a.csv")
    assert code == 0 and table.height == n and (table["a"] == 0.5).all()
    assert out == "drawn from an estimate of the conditional\n"
    code, out, err = call(capsys, "sample", run, "-n", n, "--given", "a=0.5", "-o", "-")
    assert out.count("\n") == n + 1 and err.endswith("drawn from an estimate of the conditional\n")


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(3):
        rows(50 + i, i).write_csv(folder / f"p{i}.csv")
    rows(9).rename({"a": "other"}).write_parquet(folder / "q.parquet")
    (folder / "readme.md").write_text("no table")
    return folder


def test_many_files_each_by_itself(run, many, tmp_path, capsys):
    out = tmp_path / "out"
    code, told, err = call(capsys, "score", run, many / "*", "-o", out, "--json")
    result = json.loads(told)
    assert code == 1 and "skipped" in err and "other" in err
    assert [each["data"] for each in result["files_failed"]] == [str(many / "q.parquet")]
    assert sorted(p.name for p in out.iterdir()) == [".modeflow.json", "p0.csv", "p1.csv", "p2.csv"]
    assert result["rows"] == result["log_likelihood"]["n"] == 153
    alone = call(capsys, "score", run, many / "p1.csv", "-o", tmp_path / "one.csv")
    assert alone[0] == 0 and (tmp_path / "one.csv").read_bytes() == (out / "p1.csv").read_bytes()
    (out / "p1.csv").unlink()
    (out / "p0.csv").write_text("kept")
    code, told, _ = call(capsys, "score", run, many, "-o", out, "--json")
    assert (code, json.loads(told)["files_already_there"]) == (1, 2)
    assert (out / "p0.csv").read_text() == "kept" and (out / "p1.csv").exists()
    later = time.time() + 100
    os.utime(many / "p0.csv", (later, later))  # its rows are others now
    assert json.loads(call(capsys, "score", run, many, "-o", out, "--json")[1])["files_already_there"] == 2
    assert (out / "p0.csv").read_text() != "kept"
    (out / "p1.csv").write_text("old")
    call(capsys, "score", run, many, "-o", out, "--overwrite")
    assert (out / "p1.csv").read_text() != "old"
    assert call(capsys, "score", run, tmp_path / "*.nothing")[0] == 2
    assert call(capsys, "score", run, many, "-o", tmp_path / "one.csv")[0] == 2


def test_outputs_of_something_else_are_not_taken_for_its_own(run, many, tmp_path, capsys):
    """Known by their names alone, states and draws of another seed passed for what was asked."""
    import shutil

    def there(command, run, *more):
        code, told, err = call(capsys, command, run, many, "-o", out, "--json", *more)
        return json.loads(told)["files_already_there"] if code == 1 else (code, err)

    (many / "q.parquet").unlink()  # (a file that fails every time)
    (many / "bad.csv").write_text("z\n1\n")
    out = tmp_path / "out"
    assert there("impute", run) == 0 and there("impute", run, "--jobs", 2) == 3
    before = (out / "p0.csv").read_bytes()
    for command, more, says in (
        ("score", (), "of 'modeflow impute'"),
        ("impute", ("--seed", 5), "made with seed None"),
    ):
        code, err = there(command, run, *more)
        assert code == 2 and says in err and "--overwrite" in err and err.count("\n") == 1
    assert (out / "p0.csv").read_bytes() == before
    assert there("score", run, "--overwrite") == 0 and there("score", run) == 3
    other = str(tmp_path / "other")
    shutil.copytree(run, other)
    assert there("score", other) == 3  # the same model

    def fitted_again(*more):
        shutil.rmtree(other)
        assert main(["fit", str(many / "p0.csv"), "-o", other, *SMALL, *more]) == 0
        os.utime(Path(other) / "model.safetensors", (1, 1))  # older than the outputs, but another

    fitted_again()
    code, err = there("score", other)
    assert code == 2 and f"of {Path(run).resolve()}" in err
    assert there("score", other, "--overwrite") == 0 and there("score", other) == 3
    fitted_again("--seed", "3")
    assert there("score", other) == 0 and there("score", other) == 3  # of the same run, fitted again
    (out / ".modeflow.json").unlink()  # of an earlier version: by time
    assert there("score", other) == 3
    (out / ".modeflow.json").write_text("{")
    assert there("score", other) == 3


def test_files_at_addresses_are_those_of_a_folder(run, many, tmp_path, capsys):
    """By fsspec: `file://` goes the way of s3."""
    pattern, out = f"file://{many}/*", tmp_path / "far"
    code, told, _ = call(capsys, "score", run, pattern, "-o", out, "--json")
    far = json.loads(told)
    near = json.loads(call(capsys, "score", run, many, "-o", tmp_path / "near", "--json")[1])
    assert code == 1 and far["log_likelihood"] == near["log_likelihood"]
    assert [each["data"] for each in far["files"]] == [f"file://{each['data']}" for each in near["files"]]
    assert len(far["files_failed"]) == len(near["files_failed"]) == 1
    for file in (tmp_path / "near").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    again = json.loads(call(capsys, "score", run, pattern, "-o", out, "--json", "--jobs", 2)[1])
    assert again["files_already_there"] == len(far["files"])
    (out / "p1.csv").unlink()
    assert call(capsys, "score", run, pattern, "-o", out, "--json", "--jobs", 2)[0] == 1
    assert (out / "p1.csv").read_bytes() == (tmp_path / "near" / "p1.csv").read_bytes()
    assert "would be lost" in call(capsys, "score", run, pattern, "-o", many)[2]
    one = call(capsys, "score", run, f"file://{many}/p1.csv", "--json")
    assert one[0] == 0 and json.loads(one[1])["rows"] == 51


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("file:///nowhere/*.csv", "names no table"),
        ("file:///nowhere/t.csv", "names no table"),
        ("nosuch://bucket/t.csv", "Protocol not known"),
        ("dropbox://bucket/*.csv", "copy the files"),
    ],
)
def test_addresses_without_tables_end_in_a_line(run, address, told, capsys):
    code, _, error = call(capsys, "score", run, address)
    assert code == 2 and told in error and error.count("\n") == 1


def killed_once(task):
    """A worker that is killed at its first file."""
    mark = f"{task.out}.mark"
    if task.file.endswith("p1.csv") and not os.path.exists(mark):
        with open(mark, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return _many._do(task)


def test_a_killed_worker_changes_nothing(run, many, tmp_path):
    options = vars(argparse.Namespace(run_folder=run, device=None, json=False, quiet=True, columns=None,
                                      header=None, skip_text=False))  # fmt: skip
    tasks = [
        _many._Task("score", options, str(many / f"p{i}.csv"), str(tmp_path / f"p{i}.csv")) for i in range(2)
    ]
    found = dict(_many._by_processes(tasks, 1, killed_once))
    assert (tmp_path / "p1.csv.mark").exists(), "nothing was killed"
    for task in tasks:
        there = pl.read_csv(task.out)
        alone = _many._do(_many._Task("score", options, task.file, str(tmp_path / "alone.csv")))
        np.testing.assert_allclose(there, pl.read_csv(tmp_path / "alone.csv"), rtol=1e-12)
        assert found[task.file].rows == alone.rows


def waiting(task):
    """A worker that says who it is, and waits."""
    Path(task.out).write_text(str(os.getpid()))
    time.sleep(600)


def commanding(task):
    list(_many._by_processes([task], 1, waiting))


def state_of(number):
    """What a process does; "Z" or nothing where it has ended."""
    return subprocess.run(["ps", "-o", "stat=", "-p", number], capture_output=True, text=True).stdout[:1]


def test_workers_end_with_a_command_that_is_killed(tmp_path):
    told = tmp_path / "who"
    task = _many._Task("score", {}, "file", str(told))
    command = multiprocessing.get_context("spawn").Process(target=commanding, args=(task,))
    command.start()
    while not (told.exists() and told.read_text()):
        assert command.exitcode is None
        time.sleep(0.05)
    worker = told.read_text()
    assert state_of(worker) not in ("", "Z")
    command.kill()
    for _ in range(600):
        if state_of(worker) in ("", "Z"):
            break
        time.sleep(0.05)
    else:
        os.kill(int(worker), signal.SIGKILL)
        pytest.fail("a worker waits for a command that was killed")


def test_nothing_is_left_of_a_table_that_was_not_finished(tmp_path):
    with pytest.raises(RuntimeError), TableWriter(tmp_path / "t.parquet") as out:
        out.add(np.ones((3, 2)), ["a", "b"])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with TableWriter(tmp_path / "t.parquet") as out:
        for i in range(3):
            out.add(np.full((3, 2), float(i)), ["a", "b"], ["a"])
    table = pl.read_parquet(tmp_path / "t.parquet")
    assert table["a"].to_list() == [0] * 3 + [1] * 3 + [2] * 3 and table["a"].dtype == pl.Int64


def test_a_mean_from_the_means_of_parts():
    values = np.random.default_rng(0).normal(1e3, 2.0, size=1001)
    whole = summarise(values, "lower bound")
    cut = pooled(
        [summarise(values[a:b], "exact" if a else "lower bound") for a, b in ((0, 1), (1, 600), (600, 1001))]
    )
    assert (cut.kind, cut.n) == (whole.kind, whole.n)
    np.testing.assert_allclose(
        [cut.value, cut.standard_error], [whole.value, whole.standard_error], rtol=1e-12
    )
    assert pooled([summarise(np.array([1.0, -np.inf]), "exact"), whole]).non_finite == 1


class InPlaceOfRay:
    """What is asked of Ray, done in this process; its workers have begun elsewhere."""

    exceptions = types.SimpleNamespace(
        RayError=type("RayError", (Exception,), {}), RayTaskError=type("RayTaskError", (Exception,), {})
    )

    def __init__(self, elsewhere):
        self.elsewhere, self.begun = elsewhere, []

    def is_initialized(self):
        return False

    def init(self, **how):
        self.begun.append(how)

    def remote(self, **_):
        def of(work):
            def asked(*args):
                with contextlib.chdir(self.elsewhere):
                    done = work(*args)
                return lambda: done

            return types.SimpleNamespace(remote=asked)

        return of

    def wait(self, flying, num_returns):
        return flying[:num_returns], flying[num_returns:]

    def get(self, promise):
        return promise()

    def shutdown(self):
        self.begun.append(None)


def test_workers_of_a_cluster_find_relative_paths(run, many, tmp_path, capsys, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ray = InPlaceOfRay(elsewhere)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with contextlib.chdir(many.parent):
        code, _, _ = call(capsys, "score", os.path.relpath(run), "many/p*", "-o", "out", "--engine", "ray")
    assert code == 0 and len(list((tmp_path / "out").iterdir())) == 4 and not any(elsewhere.iterdir())
    # On this machine one of its own, not what somebody began before.
    monkeypatch.delenv("RAY_ADDRESS")
    call(capsys, "score", run, many / "p*", "-o", tmp_path / "again", "--engine", "ray", "--jobs", "2")
    assert ray.begun[0].get("address") is None and ray.begun[1] is None
    assert ray.begun[2]["address"] == "local" and ray.begun[2]["num_cpus"] == 2


def test_a_cluster_that_is_not_there(run, many, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", InPlaceOfRay(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        code, _, err = call(capsys, "score", run, many, "-o", tmp_path / "out", "--engine", "ray")
    assert code == 2 and "RAY_ADDRESS=127.0.0.1" in err and err.count("\n") == 1
