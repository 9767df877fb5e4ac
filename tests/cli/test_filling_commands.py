"""`modeflow inpaint` and `modeflow recover`: images and tables with holes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from modeflow.cli import main
from modeflow.runs import load_run

SMALL = [
    "--set", "max_epochs=1", "--set", "likelihood_options.decoder_channels=4", "--set", "bits=2",
    "--set", "latent_options={langevin_steps: 2, features: 2, draws: 2}", "--set", "halvings=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "x.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8))
    return file


def test_hidden_pixels_of_images_are_filled(pictures, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "filled.png"
    fit = ["fit", str(pictures), "-o", str(run), "--model", "latent-flow", "--quiet", *SMALL]
    assert main(fit) == 0
    mask = np.zeros((4, 4))
    mask[:2] = 1
    np.save(tmp_path / "mask.npy", mask)
    capsys.readouterr()
    command = ["inpaint", str(run), str(pictures), "-o", str(out), "--json"]
    assert main([*command, "--mask", str(tmp_path / "mask.npy")]) == 0
    said = json.loads(capsys.readouterr().out)
    filled, true = np.load(tmp_path / "filled.npy"), np.load(pictures)[..., None] >> 6
    assert np.array_equal(filled[:, 2:], true[:, 2:]) and filled.dtype == np.uint8 and filled.max() < 4
    assert said["images"] == 40 and said["hidden"] == 0.5
    error = np.abs(filled[:, :2].astype(float) - true[:, :2]).mean()
    assert abs(said["absolute_error"]["value"] - error) < 1e-9
    rows = true[:, 2:].astype(float).mean((1, 2, 3), keepdims=True)  # these pixels are seen in no image
    assert abs(said["absolute_error"]["of_means"] - np.abs(rows - true[:, :2]).mean()) < 1e-9
    # Twelve images across, four of each kind, of 48 pixels, and two rows of them for every eight.
    assert Image.open(out).size == (12 * 50 - 2, 6 * 50 - 2)
    first = filled.copy()
    assert main([*command, "--hide", "top", "--rows", "7"]) == 0  # the same pixels
    said = json.loads(capsys.readouterr().out)
    again = np.load(tmp_path / "filled.npy")
    assert said["images"] == len(again) == 7 and np.array_equal(again[:, 2:], first[:7, 2:])
    for more, message in [
        ([], "say which pixels are hidden"),
        (["--hide", "midle"], "is no rule"),
        (["--mask", str(pictures)], "all pixels of image"),
        (["--hide", "top", "--rows", "0"], "--rows must be"),
    ]:
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
    odd_images_have_p_values_and_are_shown(run, pictures, tmp_path / "odd.csv", capsys)


def odd_images_have_p_values_and_are_shown(run, pictures, out, capsys):
    command = ["anomalies", str(run), str(pictures), "-o", str(out), "--alpha", "0.5", "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    header, *lines = out.read_text().split()
    assert header == "row,log_density_lower_bound,p_value" and len(lines) == 40
    scores, p = np.array([line.split(",")[1:] for line in lines], dtype=float).T
    held = load_run(run).held_scores()
    assert len(held) == 4 and np.allclose(p, ((held <= scores[:, None] + 1e-4).sum(1) + 1) / 5)
    assert said["odd"] == (p <= 0.5).sum() > 0
    assert (
        said["oddest_rows"][0]["row"] == np.lexsort((scores, p))[0] + 1
        and "why" not in said["oddest_rows"][0]
    )
    n = min(said["odd"], 10)  # below each what z gives back
    assert Image.open(out.with_suffix(".png")).size == (n * 50 - 2, 2 * 50 - 2)
    assert main(["anomalies", str(run), str(pictures), "--alpha", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "test images" in told and "given the other columns" not in told


def test_images_are_recovered_from_their_visible_pixels_alone(pictures, tmp_path, capsys):
    """Other values under the holes leave the model and what fills them as they are."""
    true = np.load(pictures)
    hidden = np.random.default_rng(0).random((40, 4, 4)) < 0.4
    np.save(tmp_path / "mask.npy", hidden)
    np.save(tmp_path / "y.npy", np.where(hidden, 255 - true, true))
    found = []
    for i, file in enumerate((pictures, tmp_path / "y.npy")):
        out = tmp_path / f"out{i}"
        command = ["recover", str(file), "-o", str(out), "--mask", str(tmp_path / "mask.npy"), "--json"]
        assert main([*command, *SMALL]) == 0
        fit = json.loads(capsys.readouterr().out)
        said = fit["recovered"]
        assert said["images"] == 40 and fit["rows"] == {"train": 32, "validation": 4, "test": 4}
        levels = np.load(file) >> 6
        means = np.nanmean(np.where(hidden, np.nan, levels), 0)  # of every pixel where it is seen
        each = [np.abs(means - image)[holes].mean() for image, holes in zip(levels, hidden, strict=True)]
        assert abs(said["absolute_error"]["of_means"] - np.mean(each)) < 1e-9
        assert (out / "recovered.png").is_file() and load_run(out).config["mask"] == str(
            tmp_path / "mask.npy"
        )
        found.append(np.load(out / "recovered.npy")[..., 0])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0][~hidden], true[~hidden] >> 6)
    assert main([*command, *SMALL]) == 2 and "already holds a run" in capsys.readouterr().err
    # What is hidden is no part of what is measured, of the test images either; the report is of whole ones.
    result, (_, parts) = load_run(out).result, load_run(out).data()
    assert result["hidden"] == np.isnan(parts.test).mean() > 0.2 and np.isfinite(
        result["bits_per_dim"]["test"]["value"]
    )
    assert np.isfinite(result["measures"][0]["value"])
    assert main(["report", str(out), "-o", str(tmp_path / "report.html"), "--quiet"]) == 0


def test_which_pixels_are_hidden_is_a_setting_of_a_fit(pictures, tmp_path, capsys):
    fit = ["fit", str(pictures), "-o", str(tmp_path / "run"), "--quiet", *SMALL, "--model", "latent-flow"]
    for more, message in [
        (["--set", "hide=lefft"], "did you mean 'left'"),
        (["--set", "hide=left", "--set", "mask=no.npy"], "by one"),
        (["--set", "mask=no.npy"], "cannot be read"),
        (["--set", "hide=left", "--model", "vae"], "which this model does not leave out"),
    ]:
        assert main([*fit, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1


def test_a_table_is_recovered_from_its_cells(tmp_path, capsys):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(150, 3)), 3)
    lines = [
        ",".join("" if rng.random() < 0.2 and j else str(v) for j, v in enumerate(row)) for row in values
    ]
    table, run = tmp_path / "holes.csv", tmp_path / "run"
    table.write_text("a,b,c\n" + "\n".join(lines) + "\n")
    small = ["--set", "max_epochs=1", "--set", "likelihood_options.decoder_features=[8]"]
    small += ["--set", "latent_options.langevin_steps=2", "--set", "latent_options.draws=2"]
    assert main(["recover", str(table), "-o", str(run), "--json", *small]) == 0
    said = json.loads(capsys.readouterr().out)
    filled = np.loadtxt(run / "recovered.csv", delimiter=",", skiprows=1)
    given = np.genfromtxt(table, delimiter=",", skip_header=1)
    assert filled.shape == (150, 3) and np.isfinite(filled).all()
    assert np.allclose(filled[~np.isnan(given)], given[~np.isnan(given)])
    assert said["recovered"]["filled"] == {"b": np.isnan(given[:, 1]).sum(), "c": np.isnan(given[:, 2]).sum()}
    assert load_run(run).config["model"] == "latent-flow"
    for command, message in [
        (["recover", str(table), "-o", str(tmp_path / "x"), "--hide", "left"], "are of images"),
        (["recover", "-", "-o", str(tmp_path / "x")], "DATA must be a file"),
        (
            ["inpaint", str(run), str(table), "-o", str(tmp_path / "x.png"), "--hide", "left"],
            "modeflow impute",
        ),
    ]:
        assert main(command) == 2 and message in capsys.readouterr().err
