"""NVF with a continuous latent, as an estimator and on the command line."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from modeflow import NVF, load_estimator
from modeflow.cli import main
from modeflow.data import toy
from modeflow.errors import ConfigError

SMALL = {
    "latent": "continuous",
    "latent_options": {"features": 1, "encoder_features": (16,)},
    "flow_options": {"layers": 2, "hidden_features": 16},
    "max_epochs": 3,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def fitted():
    x = toy("swiss-roll").sample(400, 0)
    return NVF(**SMALL).fit(x), x


def test_it_is_an_estimator_with_a_bound(fitted, tmp_path):
    model, x = fitted
    assert model.density_kind_ == "lower bound" and model.n_states_ == 1
    scores = model.score_samples(x)
    # The encoder's products round by the size of the batch: 4e-16 for either spline flow.
    np.testing.assert_allclose(scores[:5], model.score_samples(x[:5]), rtol=1e-12)
    rows, z = model.sample(50, random_state=1)
    assert rows.shape == (50, 2) and z.shape == (50, 1)
    mean, scale = model.encode(x, return_std=True)
    np.testing.assert_array_equal(model.encode(x), mean)
    assert mean.shape == scale.shape == (400, 1) and (scale > 0).all()
    model.save(tmp_path / "model.safetensors")
    again = load_estimator(tmp_path / "model.safetensors")
    assert np.array_equal(again.score_samples(x), scores)
    np.testing.assert_allclose(
        again.encode(x[:5]), mean[:5], rtol=1e-4
    )  # products round by the size of the batch


def test_both_bounds_are_named_with_their_draws(fitted):
    model, x = fitted
    bounds = model.bounds(x)
    assert bounds["draws"] == 16 and bounds["elbo"].kind == bounds["iwae"].kind == "lower bound"
    assert bounds["elbo"].value <= bounds["iwae"].value
    np.testing.assert_allclose(bounds["iwae"].value, model.score(x), rtol=1e-9)
    assert bounds["iwae"].standard_error > 0
    with pytest.raises(ConfigError, match="of a continuous latent"):
        NVF(n_states=1, max_epochs=1, random_state=0, flow_options={"layers": 1}).fit(x).bounds(x)


def test_settings_that_do_not_fit_are_named():
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ConfigError, match="did you mean 'continuous'"):
        NVF(latent="continous").fit(x)
    with pytest.raises(ConfigError, match="features must be an integer"):
        NVF(latent="continuous", latent_options={"features": 0}).fit(x)
    with pytest.raises(ConfigError, match="latent_options: 'epsilon' is not known"):
        NVF(latent="continuous", latent_options={"epsilon": 0.1}).fit(x)
    with pytest.raises(ConfigError, match="latent_options: 'free_bits' is not known"):
        NVF(latent_options={"free_bits": 0.1}).fit(x)
    discrete = NVF(n_states=1, max_epochs=1, random_state=0, flow_options={"layers": 1}).fit(x)
    with pytest.raises(ConfigError, match="predict_proba"):
        discrete.encode(x, return_std=True)


def test_on_the_command_line(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "z.csv"
    given = ["latent=continuous", "latent_options.features=1", "max_epochs=2", "flow_options.layers=1"]
    sets = [part for setting in given for part in ("--set", setting)]
    assert main(["fit", "swiss-roll", "--rows", "400", "-o", str(run), "--quiet", *sets]) == 0
    assert "latent        continuous, dimension 1" in capsys.readouterr().out
    assert main(["assign", str(run), "swiss-roll", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["latent"]) == 1 and told["rows"] == len(pl.read_csv(out))
    assert pl.read_csv(out).columns == ["row", "z0", "z0_sd"]
    assert main(["report", str(run), "--quiet"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "lower bound" in page and "NVF with a continuous latent" in page


def test_the_latent_follows_the_swiss_roll():
    # One fit with one seed; what is asked for, not what was found.
    shape = toy("swiss-roll")
    x, _ = shape.sample_with_labels(1500, 0)
    model = NVF(
        latent="continuous",
        latent_options={"features": 1},
        flow_options={"layers": 4, "hidden_features": 32},
        max_epochs=15,
        batch_size=64,
        random_state=0,
    ).fit(x)
    fresh, angle = shape.sample_with_labels(1000, 1)
    mean = model.encode(fresh)
    assert abs(spearmanr(mean[:, 0], angle).statistic) > 0.9


@pytest.mark.parametrize("name", ["swiss-roll", "gaussians:k=2,d=3"])
def test_the_report_shows_where_the_latent_places_the_rows(name, tmp_path, capsys):
    settings = ["latent=continuous", "latent_options.features=2", "max_epochs=2", "flow_options.layers=2"]
    command = ["fit", name, "--rows", "300", "-o", str(tmp_path / "run"), "--quiet"]
    assert main([*command, *(part for s in settings for part in ("--set", s))]) == 0
    assert main(["report", str(tmp_path / "run"), "--no-baselines", "--quiet"]) == 0
    page = (tmp_path / "run/report.html").read_text()
    words = "Where the latent places the rows" if name == "swiss-roll" else "The rows in the latent space"
    assert words in page and "IWAE with 16 draws; the ELBO is" in page
