"""Bad input: one clear line on stderr, exit status 2, and nothing lost."""

from __future__ import annotations

import os
import pickle

import numpy as np
import polars as pl
import pytest
import yaml

from modeflow.cli import main

SMALL = ["--set", "max_epochs=1", "--set", "flow_options.layers=1", "--set", "n_states=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    pl.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)}).write_csv(folder / "good.csv")
    assert main(["fit", str(folder / "good.csv"), "-o", str(folder / "run"), "--quiet", *SMALL]) == 0
    return folder


def refused(capsys, *args):
    """The one line that a refused command prints."""
    capsys.readouterr()
    try:
        code = main([str(a) for a in args])
    except SystemExit as error:  # argparse
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("modeflow: error: ")
    return lines[0]


def csv(folder, text):
    file = folder / "t.csv"
    file.write_text(text)
    return file


ROWS = "".join(f"{i * 0.37 % 1:.3f},{i * 0.61 % 1:.3f}\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n" + ROWS + "x,1\n", ["'a'", "row 31", "'x'"]),
        ("a,b\n" + ROWS + "inf,1\n", ["'a'", "row 31", "infinite"]),
        ("a,b\n" + "".join(f"7,{i}.5\n" for i in range(30)), ["constant", "'a'"]),
        ("a,b\n" + "1.5,2.5\n" * 40, ["distinct rows"]),
        ("a,b\n" + ROWS[:60], ["too few", "rows"]),
        ("a,b\n", ["rows"]),
        ("", ["empty"]),
    ],
)
def test_bad_tables(tmp_path, capsys, text, says):
    line = refused(capsys, "fit", csv(tmp_path, text), "-o", tmp_path / "run", *SMALL)
    for word in says:
        assert word in line
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_missing_and_wrong_files(tmp_path, capsys):
    assert "none.csv" in refused(capsys, "fit", tmp_path / "none.csv", "-o", tmp_path / "r")
    (tmp_path / "table.xlsx").touch()
    assert ".csv" in refused(capsys, "fit", tmp_path / "table.xlsx", "-o", tmp_path / "r")
    (tmp_path / "t.npy").write_bytes(b"not an array")
    refused(capsys, "fit", tmp_path / "t.npy", "-o", tmp_path / "r")
    assert "did you mean 'ring'" in refused(capsys, "fit", "rnig", "-o", tmp_path / "r")
    assert "no data" in refused(capsys, "fit", "-o", tmp_path / "r")
    assert "there is no run at" in refused(capsys, "fit", "-o", tmp_path / "r", "--resume")
    assert "--rows" in refused(capsys, "fit", "iris", "--rows", 0, "-o", tmp_path / "r")
    assert "--rows" in refused(capsys, "fit", "iris", "--rows", 999, "-o", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_wrong_columns_at_score_time(run, tmp_path, capsys):
    line = refused(capsys, "score", run / "run", csv(tmp_path, "a,c\n1,2\n"))
    assert "missing 'b'" in line
    assert "unexpected 'c'" in line
    assert "missing 'b'" in refused(capsys, "score", run / "run", csv(tmp_path, "a\n1\n"))
    # Another table altogether: its columns of text are the lesser fault.
    line = refused(capsys, "score", run / "run", csv(tmp_path, "c,d\n1,x\n2,y\n3,z\n"))
    assert "missing 'a', 'b'; unexpected 'c', 'd'" in line
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    assert "x2" in refused(capsys, "score", run / "run", tmp_path / "x.npy")


def test_an_unwritable_output_is_said_before_anything_is_done(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    line = refused(capsys, "fit", run / "good.csv", "-o", tmp_path / "file", *SMALL)
    assert "file" in line
    line = refused(capsys, "fit", run / "good.csv", "-o", tmp_path / "file" / "run", *SMALL)
    assert "file" in line
    refused(capsys, "sample", run / "run", "-o", tmp_path / "file" / "s.csv")
    refused(capsys, "score", run / "run", run / "good.csv", "-o", tmp_path / "scores.xyz")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_run_is_not_overwritten(run, capsys):
    before = (run / "run" / "model.safetensors").read_bytes()
    assert "--resume" in refused(capsys, "fit", run / "good.csv", "-o", run / "run", *SMALL)
    assert (run / "run" / "model.safetensors").read_bytes() == before
    line = refused(capsys, "fit", "-o", run / "run", "--resume", "--set", "max_epochs=7")
    assert "'max_epochs' differs" in line


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--set", "n_states=0"], "n_states must be an integer of 1 or more"),
        (["--set", "max_epoch=5"], "did you mean 'max_epochs'"),
        (["--set", "flow_options.layer=5"], "did you mean 'layers'"),
        (["--set", "training.emma=0.9"], "training: 'emma' is not known; did you mean 'ema'"),
        (["--set", "ema=0.9"], "'ema' is not a setting of model 'nvf': it is training.ema now"),
        (["--set", "objective_options.epsilon=0.1"], "it is latent_options.epsilon now"),
        (["--set", "seed.more=1"], "'seed' has no settings within"),
        (["--set", "training=3"], "training must be Training or a mapping"),
        (["--set", "max_epochs"], "key=value"),
        (["--set", "max_epochs=many"], "max_epochs must be an integer"),
        (["--set", "learning_rate=[1"], "cannot be read"),
        (["--set", "flow=nfs-coupling"], "did you mean 'nsf-coupling'"),
        (["--model", "nvff"], "did you mean 'nvf'"),
        (["--seed", "x"], "invalid int value"),
        (["--device", "cuda"], "no CUDA device"),
        (["--device", "toaster"], "device must be auto, cpu or cuda"),
        (["--test", "1.5"], "fraction between 0 and 1"),
        (["--test", "none.csv"], "none.csv"),
        (["--columns", "a,zz"], "zz"),
        (["--rows", "1000"], "has 60 rows"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_bad_settings(run, tmp_path, capsys, extra, says):
    if "cuda" in extra:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
    assert says in refused(capsys, "fit", run / "good.csv", "-o", tmp_path / "r", *extra)


def test_bad_config_files(run, tmp_path, capsys):
    file = tmp_path / "c.yaml"
    for text, says in (
        ("a: [1", "not valid YAML"),
        ("- 1\n", "key: value"),
        ("n_sates: 3\n", "did you mean 'n_states'"),
    ):
        file.write_text(text)
        assert says in refused(capsys, "fit", run / "good.csv", "-o", tmp_path / "r", "--config", file)


@pytest.mark.parametrize("command", ["score", "sample", "assign", "report"])
def test_no_such_run(tmp_path, capsys, command):
    data = [tmp_path] if command in ("score", "assign") else []
    assert "there is no run" in refused(capsys, command, tmp_path / "none", *data)
    assert "config.yaml" in refused(capsys, command, tmp_path, *data)
    (tmp_path / "config.yaml").write_text("data: ring\n")
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    assert "--resume" in refused(capsys, command, tmp_path, *data)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_damaged_malicious_and_newer_runs(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "boom"))
    copy = tmp_path / "run"
    copy.mkdir()
    config = (run / "run" / "config.yaml").read_text()
    model = (run / "run" / "model.safetensors").read_bytes()
    (copy / "config.yaml").write_text(config)
    (copy / "model.safetensors").write_bytes(model[:-10])
    assert "damaged" in refused(capsys, "sample", copy)
    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert "pickle" in refused(capsys, "sample", copy)
    assert not (tmp_path / "boom").exists()
    (copy / "model.safetensors").write_bytes(model)
    stored = yaml.safe_load(config)
    stored["format_version"] = 99
    (copy / "config.yaml").write_text(yaml.safe_dump(stored))
    assert "upgrade modeflow" in refused(capsys, "sample", copy)
    stored["format_version"] = 1
    (copy / "config.yaml").write_text(yaml.safe_dump(stored))
    assert "fit again" in refused(capsys, "sample", copy)
    (copy / "config.yaml").write_text("!!python/object/apply:os.mkdir [boom]\n")
    assert "not valid YAML" in refused(capsys, "sample", copy)


def test_requests_out_of_range(run, capsys):
    assert "-n must be 1 or more" in refused(capsys, "sample", run / "run", "-n", 0)
    assert "state must lie in 0..1" in refused(capsys, "sample", run / "run", "--state", 5)


def test_unknown_commands(capsys):
    assert "did you mean 'sample'" in refused(capsys, "sampel")
    assert "COMMAND" in refused(capsys)
    assert "did you mean 'power'" in refused(capsys, "data", "download", "powr")


def test_a_bad_data_folder_does_not_stand_in_the_way_of_a_file(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path / "nowhere"))
    assert main(["score", str(run / "run"), str(run / "good.csv"), "--json"]) == 0
    assert main(["fit", "ring", "--rows", "100", "-o", str(tmp_path / "ring"), "--quiet", *SMALL]) == 0
    assert "nowhere" in refused(capsys, "fit", "protein", "-o", tmp_path / "r")


def test_a_refused_fit_leaves_no_run_behind(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "\n".join(f"{i / 7},1" for i in range(60)) + "\n")
    out = tmp_path / "run"
    assert main(["fit", str(table), "-o", str(out)]) != 0
    assert "constant" in capsys.readouterr().err and not out.exists()
    assert main(["fit", str(table), "-o", str(out), "--columns", "a", "--set", "max_epochs=1"]) == 0
