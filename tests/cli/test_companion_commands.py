"""Companion systems on the command line: fitted, stored, loaded, scored, drawn from and read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modeflow.cli import main
from modeflow.runs import load_run

SMALL = [
    "--set", "max_epochs=1", "--set", "likelihood_options.decoder_features=[8]", "--test", "0.2",
    "--set", "latent_options.encoder_features=[8]",
]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    numbers, binary = tmp_path / "numbers.csv", tmp_path / "binary.csv"
    np.savetxt(numbers, rng.normal(size=(150, 3)), delimiter=",", header="a,b,c", comments="")
    np.savetxt(binary, rng.integers(0, 2, (150, 3)), fmt="%d", delimiter=",", header="a,b,c", comments="")
    holes = tmp_path / "holes.csv"
    lines = numbers.read_text().splitlines()
    lines[1:40] = ["," + line.split(",", 1)[1] for line in lines[1:40]]
    holes.write_text("\n".join(lines) + "\n")
    return {"numbers": numbers, "binary": binary, "holes": holes}


CASES = {
    "flow-vae": (
        "numbers",
        ["--set", "latent_options.posterior=planar", "--set", "latent_options.prior=flow"],
    ),
    "s-vae": ("numbers", []),
    "lidvae": ("numbers", []),
    "latent-flow": (
        "holes",
        ["--set", "latent_options.langevin_steps=2", "--set", "latent_options.draws=2"],
    ),
    "lae": ("numbers", []),
    "bridge-vq-vae": (
        "numbers",
        ["--set", "latent_options.codes=2", "--set", "latent_options.prior_options={steps: 3, draws: 2}"],
    ),
    "vae": ("binary", ["--set", "likelihood=bernoulli", "--set", "latent_options.prior=vamp"]),
    "vlae": ("binary", ["--set", "likelihood=bernoulli"]),
    "discrete-vae": ("numbers", ["--set", "n_states=3"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_system_by_its_name(name, files, tmp_path, capsys):
    data, more = CASES[name]
    csv, run = str(files[data]), str(tmp_path / "run")
    assert main(["fit", csv, "-o", run, "--model", name, "--quiet", *SMALL, *more]) == 0
    shown = capsys.readouterr().out
    assert ("exact" if name == "discrete-vae" else "lower bound") in shown
    loaded = load_run(run)
    latent = loaded.estimator.latent_.describe().kind
    if latent == "continuous":
        found = loaded.result["continuous"]
        assert "mutual information" in shown and found["dimensions"] == (3 if name == "s-vae" else 2)
    assert loaded.config["model"] == name and loaded.estimator.flow_ == "none"
    for command in (["score", run, csv], ["sample", run, "-n", "4"], ["assign", run, csv]):
        out = tmp_path / f"{command[0]}.csv"
        assert main([*command, "-o", str(out), "--quiet"]) == 0
        rows = out.read_text().strip().splitlines()
        assert len(rows) == (5 if command[0] == "sample" else 151)
    if data == "holes":
        out = tmp_path / "filled.csv"
        assert main(["impute", run, csv, "-o", str(out), "--quiet"]) == 0
        filled = np.loadtxt(out, delimiter=",", skiprows=1)
        assert filled.shape == (150, 3) and np.isfinite(filled).all()
    if data == "binary":
        drawn = (tmp_path / "sample.csv").read_text().splitlines()[1:]
        assert set(",".join(drawn).split(",")) <= {"0", "1"}


def test_what_a_name_says_holds_where_nothing_else_is_said(files, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("model: s-vae\nmax_epochs: 1\nlatent_options: {draws: 2}\n")
    run = tmp_path / "run"
    assert main(["fit", str(files["numbers"]), "-o", str(run), "--config", str(config), "--quiet"]) == 0
    options = load_run(run).config["latent_options"]
    assert (options["posterior"], options["features"], options["draws"]) == ("vmf", 3, 2)
    capsys.readouterr()
    for more, message in [
        (["--set", "flow=maf"], "has no flow: leave out flow"),
        (["--set", "likelihood=brenier", "--set", "latent_options.features=4"], "at most 3"),
        (["--set", "likelihood=bernoulli"], "columns of two values alone, and column 1 is none"),
        (["--set", "latent_options.posterior=iaff"], "did you mean 'iaf'"),
    ]:
        code = main(["fit", str(files["numbers"]), "-o", str(tmp_path / "x"), "--model", "vae", *more])
        assert code == 2 and message in capsys.readouterr().err


def test_they_are_listed_with_paper_cost_and_kind(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    found = {(row["name"], row["event"]) for row in rows}
    assert {("s-vae", "vector"), ("s-vae", "image"), ("lidvae", "vector"), ("nvf", "image")} <= found
    assert all(row["paper"] and row["density"] and row["cost"]["log_prob"] for row in rows)


def test_a_report_of_images_whose_prior_has_no_temperature(tmp_path, capsys):
    """Codes of a diffusion bridge are drawn as they are; it is pixels alone that are cooled."""
    images, run = tmp_path / "x.npy", str(tmp_path / "run")
    np.save(images, np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8))
    small = ["max_epochs=1", "bits=2", "halvings=1", "likelihood_options.decoder_channels=4"]
    small += ["latent_options={prior_options: {steps: 2, draws: 2}, encoder_channels: 4, n_codes: 4}"]
    settings = [word for each in small for word in ("--set", each)]
    assert main(["fit", str(images), "-o", run, "--model", "bridge-vq-vae", "--quiet", *settings]) == 0
    capsys.readouterr()
    assert main(["report", run, "-o", str(tmp_path / "report.html"), "--quiet"]) == 0
    assert main(["sample", run, "-o", str(tmp_path / "x.png"), "--prior-temperature", "0.5"]) == 2
    assert "no use for a temperature" in capsys.readouterr().err
