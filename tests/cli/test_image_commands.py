"""The commands on images, from fitting to the report."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from modeflow.cli import main

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

SMALL = [
    "--set", "max_epochs=2", "--set", "latent_options={n_codes: 4, encoder_channels: 8}",
    "--set", "likelihood_options.decoder_channels=8", "--set", "flow_options={levels: 1, steps: 2}",
    "--set", "flow_options.hidden_channels=8", "--set", "latent_options.prior_options.width=16",
    "--set", "latent_options.prior_options={layers: 1, heads: 2}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    assert main(["fit", "images/digits", "-o", str(folder), "--rows", "300", "--quiet", *SMALL]) == 0
    return folder


def test_a_run_holds_everything_and_says_what_it_measured(run, capsys):
    result = json.loads((run / "result.json").read_text())
    test = result["bits_per_dim"]["test"]
    assert test["n"] == 30 and test["kind"] == "lower bound" and 0 < test["code_length"] < test["value"]
    assert result["codes"]["per_image"] == 4 and result["shape"] == [1, 8, 8] and result["levels"] == 17
    assert main(["fit", "--config", str(run), "-o", str(run.parent / "again"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["bits_per_dim"] == result["bits_per_dim"]  # the configuration repeats the run
    assert main(["fit", "-o", str(run), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_dim"] == result["bits_per_dim"]


def test_scores_codes_and_samples(run, tmp_path, capsys):
    assert main(["score", str(run), "images/digits", "-o", str(tmp_path / "s.csv"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    scores = pl.read_csv(tmp_path / "s.csv")
    assert scores.columns[1] == "log_probability_lower_bound_nats" and len(scores) == 1797
    assert abs(scores["bits_per_dim"].mean() - said["bits_per_dim"]["value"]) < 1e-6
    assert main(["assign", str(run), "images/digits", "-o", str(tmp_path / "a.csv"), "--quiet"]) == 0
    codes = pl.read_csv(tmp_path / "a.csv")
    assert codes.columns == ["image", "code0", "code1", "code2", "code3"] and codes["code1"].max() < 4
    capsys.readouterr()
    command = [
        "sample",
        str(run),
        "-n",
        "10",
        "-o",
        str(tmp_path / "x.png"),
        "--temperature",
        "0.7",
        "--json",
    ]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["temperature"] == 0.7
    array = np.load(tmp_path / "x.npy")
    assert array.shape == (10, 8, 8, 1) and array.dtype == np.uint8
    assert Image.open(tmp_path / "x.png").mode == "L"


def test_the_report_is_one_page_with_pictures(run, capsys):
    assert main(["report", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["samples"]["features"] == "modeflow-small-28" and said["samples"]["n"] == 30
    page = (run / "report.html").read_text()
    for words in (
        "NVF with a sequential latent",
        "not FID",
        "what z alone gives back",
        "nearest training image",
    ):
        assert words in page
    assert (
        page.count("data:image/png") >= 6
        and "<script" not in page
        and "http://" not in page
        and "https://" not in page
    )


def test_a_folder_of_pictures_and_other_models(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(
            tmp_path / f"pictures/{i}.png"
        )
    out = tmp_path / "run"
    widths = ["latent_options.encoder_channels=8", "likelihood_options.decoder_channels=8"]
    settings = ["--set", "max_epochs=1", *(part for width in widths for part in ("--set", width))]
    command = [
        "fit",
        str(tmp_path / "pictures"),
        "-o",
        str(out),
        "--model",
        "vae",
        "--set",
        "size=8",
        *settings,
    ]
    assert main([*command, "--set", "bits=5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shape"] == [3, 8, 8] and said["levels"] == 32
    assert main(["sample", str(out), "-n", "4", "-o", str(tmp_path / "y.npy"), "--quiet"]) == 0
    assert Image.open(tmp_path / "y.png").mode == "RGB"
    assert main(["assign", str(out), str(tmp_path / "pictures"), "--quiet"]) == 0
    assert main(["report", str(out), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "images/digits", "-o", "{new}", "--model", "maf"], "'maf' is none of images"),
        (["fit", "images/digits", "-o", "{new}", "--columns", "a"], "columns is of tables"),
        (["fit", "images/digits", "-o", "{new}", "--set", "n_codes=3"], "it is latent_options.n_codes now"),
        (
            ["fit", "images/digits", "-o", "{new}", "--set", "latent_options.n_code=3"],
            "did you mean 'n_codes'",
        ),
        (["fit", "images/digit", "-o", "{new}"], "did you mean 'digits'"),
        (["fit", "images/digits", "-o", "{new}", "--test", "t.csv"], "must be a share"),
        (["fit", "images/digits", "-o", "{new}", "--set", "bits=5"], "17 levels"),
        (["fit", "images/digits", "-o", "{new}", "--set", "size=9"], "as they are"),
        (["sample", "{run}"], "-o samples.png"),
        (["sample", "{run}", "-o", "x.csv"], "must end in .png or .npy"),
        (["sample", "{run}", "-o", "{new}.png", "--state", "1"], "there is no state 1"),
        (["sample", "{run}", "-o", "{new}.png", "--temperature", "-1"], "temperature must be 0 or more"),
        (["sample", "{run}", "-o", "{new}.png", "--with-state"], "--with-state is of tables"),
        (["score", "{run}", "demo"], "no image set is called 'demo'"),
        (["data", "download", "images/digits"], "cannot be downloaded"),
    ],
)
def test_mistakes_get_one_line(run, tmp_path, capsys, command, message):
    filled = [part.format(run=run, new=tmp_path / "new") for part in command]
    assert main(filled) != 0
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_demo_of_images(tmp_path, capsys, monkeypatch):
    from modeflow.cli.commands import _demo_images

    monkeypatch.setitem(_demo_images._FIT, "max_epochs", 1)
    for name, value in {"steps": 1, "hidden_channels": 8}.items():
        monkeypatch.setitem(_demo_images._FLOW, name, value)
    folder = tmp_path / "demo"
    assert main(["demo", "images", "-o", str(folder), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert len(numbers["bits_per_dim"]) == 4
    for name in ("report.html", "samples.png", "test_scores.csv", "numbers.json"):
        assert (folder / name).is_file()
    assert "the same flow without a latent" in (folder / "report.html").read_text()
    assert main(["demo", "images", "-o", str(folder), "--quiet"]) == 0  # replaces itself
