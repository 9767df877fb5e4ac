"""The command line as a person uses it: fit, score, sample, assign, report, and the lists."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeflow import load_estimator
from modeflow.cli import main
from modeflow.cli.commands.fit import summary, time_line
from modeflow.runs import RunConfig
from modeflow.runs.config import RUN_DEFAULTS

SMALL = [
    "--set", "max_epochs=2", "--set", "flow_options.layers=1", "--set", "flow_options.hidden_features=8",
    "--set", "latent_options.encoder_features=[8]",
]  # fmt: skip


def table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    return pl.DataFrame(
        {
            "speed": 10 * side + rng.normal(0, 1, n),
            "mass": rng.normal(5, 1, n),
            "count": side * 7 + rng.poisson(2, n),
        }
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    table().write_csv(folder / "table.csv")
    assert (
        main(
            [
                "fit",
                str(folder / "table.csv"),
                "-o",
                str(folder / "run"),
                "--quiet",
                "--set",
                "n_states=2",
                *SMALL,
            ]
        )
        == 0
    )
    return folder


def call(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_fit_writes_a_run_folder(here):
    names = {p.name for p in (here / "run").iterdir()}
    assert {"config.yaml", "model.safetensors", "metrics.jsonl", "checkpoints", "result.json"} <= names
    result = json.loads((here / "run" / "result.json").read_text())
    assert result["rows"] == {"train": 160, "validation": 20, "test": 20}
    assert result["density"] == "lower bound"
    assert result["log_likelihood"]["test"]["n"] == 20
    assert load_estimator(here / "run").schema_.columns == ("speed", "mass", "count")


def test_the_run_folder_repeats_the_run(here, capsys):
    code, out, _ = call(capsys, "fit", "--config", here / "run", "-o", here / "again", "--json")
    assert code == 0
    first = json.loads((here / "run" / "result.json").read_text())
    assert json.loads(out)["log_likelihood"] == first["log_likelihood"]
    a, b = (load_file(here / d / "model.safetensors") for d in ("run", "again"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    x = table(30, 5)
    np.testing.assert_array_equal(
        load_estimator(here / "run").score_samples(x), load_estimator(here / "again").score_samples(x)
    )


def test_score_names_what_the_number_is(here, capsys):
    table(50, 1).write_csv(here / "new.csv")
    code, out, err = call(capsys, "score", here / "run", here / "new.csv", "-o", here / "scores.csv")
    assert code == 0
    assert "nats (lower bound, n=50)" in out
    assert "wrote" in err
    written = pl.read_csv(here / "scores.csv")
    assert written.columns == ["row", "log_density_lower_bound_nats"]
    expected = load_estimator(here / "run").score_samples(table(50, 1))
    np.testing.assert_allclose(written["log_density_lower_bound_nats"], expected, rtol=1e-6)
    code, out, err = call(capsys, "score", here / "run", here / "new.csv", "--json")
    assert json.loads(out)["log_likelihood"]["value"] == pytest.approx(expected.mean())
    assert err == ""


def test_columns_in_another_order_are_found(here, capsys):
    table(50, 1).select("count", "speed", "mass").write_csv(here / "shuffled.csv")
    values = []
    for name in ("new.csv", "shuffled.csv"):
        table(50, 1).write_csv(here / "new.csv")
        values.append(json.loads(call(capsys, "score", here / "run", here / name, "--json")[1]))
    assert values[0]["log_likelihood"] == values[1]["log_likelihood"]


def test_sample_to_file_and_to_stdout(here, capsys):
    code, _, _ = call(
        capsys, "sample", here / "run", "-n", 40, "-o", here / "s.parquet", "--with-state", "--seed", 3
    )
    assert code == 0
    written = pl.read_parquet(here / "s.parquet")
    assert written.columns == ["speed", "mass", "count", "state"]
    assert written["count"].dtype.is_integer()
    code, out, _ = call(capsys, "sample", here / "run", "-n", 3, "--state", 1)
    lines = out.splitlines()
    assert lines[0] == "speed,mass,count"
    assert len(lines) == 4
    code, out, _ = call(capsys, "sample", here / "run", "-n", 3, "--json")
    assert len(json.loads(out)["rows"]) == 3
    row = json.loads(call(capsys, "sample", here / "run", "-n", 1, "--with-state", "--json")[1])["rows"][0]
    assert [type(v) for v in row] == [float, float, int, int]
    # What is sampled can be scored.
    call(capsys, "sample", here / "run", "-n", 20, "-o", here / "s.csv")
    assert call(capsys, "score", here / "run", here / "s.csv")[0] == 0


def test_assign(here, capsys):
    code, out, _ = call(capsys, "assign", here / "run", here / "table.csv", "-o", here / "modes.csv")
    assert code == 0
    written = pl.read_csv(here / "modes.csv")
    assert written.columns == ["row", "state", "probability", "p0", "p1"]
    np.testing.assert_allclose(written["p0"] + written["p1"], 1, atol=1e-6)
    assert "mean probability" in out


def test_report(here, capsys):
    code, out, _ = call(capsys, "report", here / "run", "--quiet")
    assert code == 0
    page = (here / "run" / "report.html").read_text()
    assert "Gaussian mixture" in page
    assert "speed" in page
    assert "<script" not in page
    assert "plain flow" in out
    stamp = (here / "run" / "baselines.json").stat().st_mtime_ns
    assert call(capsys, "report", here / "run", "--json")[0] == 0
    assert (here / "run" / "baselines.json").stat().st_mtime_ns == stamp


def test_a_plain_flow_by_name(here, capsys):
    code, out, _ = call(
        capsys, "fit", here / "table.csv", "-o", here / "plain", "--model", "RealNVP", "--json",
        "--set", "max_epochs=1", "--set", "flow_options.layers=2",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["n_states"] == 1
    assert type(load_estimator(here / "plain")).__name__ == "FlowDensity"
    assert call(capsys, "report", here / "plain", "--quiet")[0] == 0
    assert call(capsys, "assign", here / "plain", here / "table.csv")[0] == 0


def test_settings_from_file_and_command_line(here, capsys):
    (here / "c.yaml").write_text(
        "max_epochs: 9\nn_states: 2\nlearning_rate: 1e-3\nflow_options: {layers: 1}\n"
    )
    code, _, _ = call(
        capsys, "fit", here / "table.csv", "--config", here / "c.yaml", "--set", "max_epochs=1", "-o",
        here / "conf", "--seed", 4, "--columns", "speed,mass", "--quiet",
    )  # fmt: skip
    assert code == 0
    stored = yaml.safe_load((here / "conf" / "config.yaml").read_text())
    assert stored["max_epochs"] == 1
    assert stored["learning_rate"] == 1e-3
    assert stored["seed"] == 4
    assert stored["columns"] == ["speed", "mass"]
    assert stored["flow_options"] == {"layers": 1}
    # The run knows its columns; the table may have more.
    assert call(capsys, "score", here / "conf", here / "table.csv")[0] == 0


def test_what_was_compared_is_named(here):
    """Two flows, and three numbers of states of the one that was best; each by trials of one length."""
    trials = [
        {
            "flow": flow, "n_states": k, "length": length, "chosen": (k, length) == (3, 3),
            "validation": -1.0, "difference": difference, "difference_error": 0.05,
        }
        for flow, k, length, difference in (
            ("a", 2, 1, 0.1), ("b", 2, 1, 0.0), ("a", 2, 2, -0.5), ("b", 2, 2, 0.0),
            ("b", 3, 1, 0.0), ("b", 1, 1, -2.0), ("b", 2, 3, -0.1), ("b", 3, 3, 0.0),
        )
    ]  # fmt: skip
    result = json.loads((here / "run" / "result.json").read_text()) | {"selection": trials, "n_states": 3}
    lines = "\n".join(summary(result))
    assert "flow          b (chosen; nats a row of others beside it: a: −0.500 ± 0.050)" in lines
    assert (
        "latent        2 states (chosen; nats a row of others beside it: 2: +0.000 ± 0.050, 1: −2.000"
        in lines
    )


def test_split_by_file(here, capsys):
    table(60, 7).write_csv(here / "test.csv")
    table(40, 8).write_csv(here / "valid.csv")
    code, out, _ = call(
        capsys, "fit", here / "table.csv", "-o", here / "files", "--test", here / "test.csv", "--validation",
        here / "valid.csv", "--set", "n_states=2", *SMALL, "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["rows"] == {"train": 200, "validation": 40, "test": 60}
    code, out, _ = call(
        capsys, "fit", here / "table.csv", "-o", here / "files2", "--test", here / "test.csv", "--set",
        "n_states=2", *SMALL, "--json",
    )  # fmt: skip
    assert json.loads(out)["rows"] == {"train": 180, "validation": 20, "test": 60}


def test_a_toy_is_measured_against_the_truth(here, capsys):
    code, out, _ = call(
        capsys, "fit", "ring:k=4", "--rows", 600, "-o", here / "toy", "--set", "n_states=4", *SMALL, "--json"
    )
    assert code == 0
    truth = json.loads(out)["truth"]
    assert truth["modes"] == 4
    assert truth["true_bridge_mass"] == pytest.approx(3.35e-4, rel=0.01)
    assert abs(truth["gap"]) < 1


def test_lists(capsys):
    code, out, _ = call(capsys, "models")
    assert code == 0
    assert "nsf-autoregressive" in out
    listed = json.loads(call(capsys, "models", "--json")[1])["models"]
    assert {"name", "paper", "event", "density", "cost"} <= set(listed[0])
    code, out, _ = call(capsys, "data")
    assert code == 0
    for name in ("ring", "moons", "power", "bsds300"):
        assert name in out
    assert any(d["name"] == "miniboone" for d in json.loads(call(capsys, "data", "--json")[1])["data"])


def test_the_version_names_the_kernels():
    code = "import sys; from modeflow.cli import main; sys.exit(main(['--version']))"
    for setting, expected in (("0", "none"), ("1", "")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MODEFLOW_NATIVE": setting},
        )
        assert re.fullmatch(rf"modeflow \S+ \(native kernels: {expected}\w*\)\n", done.stdout)


def test_help_has_examples_and_is_quick():
    began = time.perf_counter()
    text = subprocess.run(
        [sys.executable, "-m", "modeflow", "fit", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert time.perf_counter() - began < 120  # a guard against hanging, not a measurement
    assert "modeflow fit table.csv" in text
    # Every setting of a run is there with its default, and with a text where it is one of a group.
    for data in ("moons", "images/digits"):
        settings = dict(RunConfig.build({"data": data}).settings)
        if "detector" in settings:
            settings["detector"] = True  # left out of tests (conftest.py), not of what a user is told
        for name, value in settings.items():
            if name.endswith("_options") or name == "training":
                for option, default in (value or {}).items():
                    assert re.search(rf"\n  {name}\.{option}=\S+\n      \w+", text), (name, option, default)
            elif name not in RUN_DEFAULTS:
                shown = [yaml.safe_load(v) for v in re.findall(rf"\b{name}=(\S+)", text)]
                assert value in shown, name
    assert "training.ema=0.995" in text and "schedule=cosine" in text
    code = "import sys, modeflow.cli.parser as p; p.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _check_said_to_be_interrupted(run, table, capsys):
    """Every command that uses the run says so, and how to go on."""
    pl.DataFrame(np.random.default_rng(0).normal(size=(9, 2)), schema=["x", "y"]).write_csv(table)
    columns = load_estimator(run).schema_.columns
    pl.read_csv(table).rename(dict(zip(["x", "y"], columns, strict=True))).write_csv(table)
    how = f"go on with `modeflow fit -o {run} --resume`"
    for command in (["score", run, table], ["sample", run, "-n", 2], ["assign", run, table]):
        code, _, err = call(capsys, *command, "--quiet")
        assert code == 0
        assert err.count("interrupted") == 1 and how in err
    assert json.loads(call(capsys, "score", run, table, "--json")[1])["interrupted"]
    assert call(capsys, "report", run, "--no-baselines")[0] == 0
    assert "was interrupted" in (run / "report.html").read_text()


def test_a_killed_fit_resumes(here, tmp_path, capsys):
    command = [
        sys.executable, "-m", "modeflow", "fit", "ring:k=4", "--rows", "1200", "--set", "n_states=4",
        "--set", "max_epochs=12", "--set", "batch_size=64", "--set", "flow_options.layers=2",
        "--set", "flow=nsf-coupling",
    ]  # fmt: skip
    process = subprocess.Popen([*command, "-o", str(tmp_path / "run")], stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=60)
    assert code == 130
    assert (tmp_path / "run" / "model.safetensors").exists()
    _check_said_to_be_interrupted(tmp_path / "run", tmp_path / "t.csv", capsys)
    assert main(["fit", "-o", str(tmp_path / "run"), "--resume", "--quiet"]) == 0
    assert main(["fit", *command[4:], "-o", str(tmp_path / "whole"), "--quiet"]) == 0
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(
        load_estimator(tmp_path / "run").score_samples(x), load_estimator(tmp_path / "whole").score_samples(x)
    )
    assert "interrupted" not in call(capsys, "score", tmp_path / "run", tmp_path / "t.csv")[2]
    # Training that lasted longer than this call is counted with what came before.
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    result["seconds"], result["training"]["seconds"] = 3.0, 9.0
    assert (
        time_line(result)
        == "time          3.0 s; training 9.0 s in all, with what came before it was resumed"
    )


def test_samples_are_written_as_the_columns_were(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "mass_g": 10 ** rng.normal(33, 0.3, 200),
            "price": np.round(rng.lognormal(2, 0.4, 200), 1),
            "count": rng.poisson(3, 200),
        }
    )
    frame.write_csv(tmp_path / "t.csv")
    assert call(capsys, "fit", tmp_path / "t.csv", "-o", tmp_path / "run", "--quiet", *SMALL)[0] == 0
    for option in ((), ("-o", tmp_path / "s.csv")):
        code, out, _ = call(capsys, "sample", tmp_path / "run", "-n", 50, *option)
        assert code == 0
        lines = ((tmp_path / "s.csv").read_text() if option else out).split()[1:]
        mass, price, count = zip(*(line.split(",") for line in lines), strict=True)
        assert 1e31 < np.median(np.array(mass, float)) < 1e35
        assert all(len(p.partition(".")[2]) == 1 and float(p) >= 0 for p in price)
        assert all(c.isdigit() for c in count)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_no_unit_is_too_small_or_too_large_for_any_command(unit, tmp_path, capsys):
    """Fit, baselines and the page: the numbers are those of the plain unit, shifted by its logarithm."""
    x = table().select("speed", "mass").to_numpy()
    mixtures = []
    for name, scale in (("plain", 1.0), ("scaled", unit)):
        pl.DataFrame(x * [scale, 1], schema=["a", "b"]).write_csv(tmp_path / f"{name}.csv")
        command = ["fit", tmp_path / f"{name}.csv", "-o", tmp_path / name, "--set", "n_states=2", *SMALL]
        code, _, err = call(capsys, *command)
        assert code == 0 and "RuntimeWarning" not in err and "nan" not in err
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            assert call(capsys, "report", tmp_path / name)[0] == 0
        rows = json.loads((tmp_path / name / "baselines.json").read_text())
        mixtures.append(rows[0]["value"] + np.log(scale))
    assert mixtures[1] == pytest.approx(mixtures[0], abs=1e-6)
