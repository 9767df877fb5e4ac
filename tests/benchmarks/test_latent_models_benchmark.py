"""The benchmark of latent-variable models: its bounds, runs that are kept, and what it says of claims."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
PARTS = (
    "common",
    "latent_contestants",
    "latent_measures",
    "latent_models",
    "latent_models_page",
    "latent_runs",
    "latent_small",
    "latent_small_page",
    "markdown_parts",
)


@pytest.fixture
def latent(monkeypatch, tmp_path):
    """The program, writing into a folder of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import latent_models

    monkeypatch.setattr("common.RESULTS", tmp_path)
    monkeypatch.setattr(latent_models, "RESULTS", tmp_path)
    yield latent_models
    for name in PARTS:
        sys.modules.pop(name, None)


def linear_model(**options):
    """z of three numbers and x of five, with a decoder without bends: p(x) is known."""
    from modeflow.models import VAE

    torch.manual_seed(0)
    model = VAE(5, 3, encoder_features=(8,), decoder_features=(8,), scale=0.5, **options).double()
    model.likelihood.net.activation = lambda h: h
    return model


def test_the_bound_is_the_density_where_q_is_the_posterior(latent):
    from latent_measures import iwae, scored, weights

    model, x = linear_model(posterior="laplace"), torch.randn(80, 5, dtype=torch.float64)
    zero = torch.zeros(1, 3, dtype=torch.float64)
    with torch.no_grad():
        mean = model.likelihood.predictor(zero)[0]
        w = model.likelihood.predictor(torch.eye(3, dtype=torch.float64)) - mean  # its rows
        exact = torch.distributions.MultivariateNormal(mean, w.T @ w + 0.25 * torch.eye(5)).log_prob(x)
        log_weights, likelihood = weights(model, x, 7)
        found = scored(model, x, 7)
    assert log_weights.shape == likelihood.shape == (80, 7)
    assert torch.allclose(log_weights, exact.unsqueeze(1).expand(-1, 7), atol=1e-8)
    assert torch.allclose(iwae(log_weights), exact, atol=1e-8)
    assert found["test"]["value"] == pytest.approx(float(exact.mean()), abs=1e-8)
    assert -found["distortion"] - found["rate"] == pytest.approx(found["elbo"]["value"], abs=1e-8)


def test_another_q_gives_a_bound_that_more_draws_raise(latent):
    from latent_measures import iwae, weights

    model, x = linear_model(), torch.randn(80, 5, dtype=torch.float64)
    with torch.no_grad():
        log_weights, _ = weights(model, x, 60)
        few, many, own = log_weights.mean(), iwae(log_weights).mean(), model.iwae(x, 60).mean()
    assert few < many < 0 and abs(float(own - many)) < 0.5 * float(many - few)


@pytest.mark.parametrize("posterior", ["gaussian", "full-gaussian", "laplace", "iaf", "vmf"])
def test_rows_of_a_posterior_are_taken_whole(latent, posterior):
    from latent_measures import taken
    from modeflow.models import VAE

    torch.manual_seed(0)
    model = VAE(5, 3, posterior=posterior, encoder_features=(8,), decoder_features=(8,))
    x = torch.randn(6, 5)
    q = model.approximate_posterior(x)
    index = torch.tensor([4, 4, 0])
    some = taken(q, index)
    z, log_q = some.rsample_and_log_prob()
    other = model.approximate_posterior(x[index])
    assert torch.allclose(log_q, other.log_prob(z), atol=2e-4)


def test_a_number_that_only_its_draws_move_is_not_active(latent):
    from latent_measures import ACTIVE, spread_of_means

    model = linear_model()
    # q(z|x) is N(0, 1) for any x, but for the first number, whose mean follows x.
    final = model.encoder.net.final
    with torch.no_grad():
        final.weight.zero_()
        final.bias.zero_()
        final.weight[0] = 0.3
        spread = spread_of_means(model, torch.randn(2000, 5, dtype=torch.float64))
    assert spread[0] > ACTIVE and spread[1:].abs().max() < ACTIVE / 2


def test_a_training_ends_with_its_time_and_keeps_the_best(latent):
    from latent_contestants import CONTESTANTS
    from latent_measures import validated
    from latent_runs import trained
    from modeflow.training import TrainConfig

    contestant = CONTESTANTS["pinwheel-vae"]
    settings = latent.Settings(train=400, validation=100, test=50, seconds=1.0, epochs=10**6)
    data = latent.pinwheel(settings)
    assert torch.allclose(data.train.std(0), torch.ones(2))
    torch.manual_seed(0)
    model = contestant.build()
    config = TrainConfig(max_epochs=10**6, device="cpu", **{**latent.TRAINING, "patience": None})
    history = trained(model, contestant, data, config, settings.seconds)
    assert history.stopped == "interrupted" and history.steps > 10
    again = float(validated(model, data.validation).mean())
    assert again == pytest.approx(history.best_validation, abs=1e-4)


def test_runs_are_kept_and_gone_on_with(latent, monkeypatch, capsys):
    command = [
        "latent_models.py",
        "--models",
        "pinwheel-vae",
        "--limit",
        "120",
        "--epochs",
        "2",
        "--seeds",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", command)
    latent.main()
    content = json.loads((latent.RESULTS / "latent_models_trial.json").read_text())
    (run,) = content["runs"]
    assert "machine" in content and run["epochs"] == 2 and run["test"]["kind"] == "lower bound"
    assert len(run["groups"]) == 40 and np.mean(run["groups"]) == pytest.approx(
        run["test"]["value"], abs=1e-3
    )
    monkeypatch.setattr(latent.Crew, "run", lambda self, wanted: print("wanted", wanted))
    latent.main()
    assert "wanted []" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--processor"])
    with pytest.raises(SystemExit, match="measured with other settings"):
        latent.main()


def test_a_fit_that_fails_is_said(latent, tmp_path, monkeypatch):
    def broken():
        raise ValueError("no such thing")

    from latent_contestants import CONTESTANTS

    monkeypatch.setitem(CONTESTANTS, "vae", replace(CONTESTANTS["pinwheel-vae"], build=broken))
    file = tmp_path / "one.json"
    latent.job("vae", 0, latent.Settings(train=50, validation=40, test=40), "cpu", str(file))
    found = json.loads(file.read_text())
    assert found == {"model": "vae", "seed": 0, "error": "ValueError: no such thing"}


def made(name, seed, value, **more):
    """A result."""
    shape = np.random.default_rng(0).normal(0, 3, 40)  # the images' own: the same for every model
    own = np.random.default_rng([seed, len(name)]).normal(0, 0.1, 40)
    groups = value + (shape - shape.mean()) + (own - own.mean())
    return {
        "model": name, "seed": seed, "trained_on": "x86_64", "parameters": 10, "epochs": 4, "best_epoch": 4,
        "seconds_an_epoch": 1.0, "test": {"value": value, "standard_error": 0.5, "kind": "lower bound"},
        "groups": groups.tolist(), "elbo": {"value": value - 2}, "rate": 20.0, "active": 9, "dimensions": 32,
        "wrong_pixels": {"value": 12.0}, "frechet": 3.0, "curve": [[1, 200, -150], [4, 120, value]], **more,
    }  # fmt: skip


def test_claims_are_decided_by_pairs_and_seeds(latent):
    import latent_models_page as page

    runs = [made("vae", 0, -95.0), made("vae", 1, -95.2)]
    runs += [made("vlae", 0, -94.0), made("vlae", 1, -94.3)]
    runs += [made("flow-vae-iaf", 0, -94.9), made("flow-vae-iaf", 1, -95.4)]
    runs += [made("vae-flow-prior", 0, -97.0), made("vae-flow-prior", 1, -97.1)]
    runs += [
        made(name, s, 1.0, active=n) for name, n in (("lidvae", 32), ("vae-gaussian", 20)) for s in (0, 1)
    ]
    runs.append({"model": "s-vae-2", "seed": 0, "error": "ValueError: broken"})
    settings = latent.kept(latent.Settings())
    place = {"processor": "a", "cores": 2, "versions": {"torch": "2"}}
    content = {"settings": settings, "runs": runs, "date": "today", "machine": place}
    said = {row[0]: row[-1] for row in page.claims(content)}
    assert said["VLAE above VAE"] == "holds"
    assert said["IAF posterior above a diagonal one"] == "undecided"
    assert said["flow prior above a Gaussian one"] == "does not hold"
    assert said["LIDVAE uses more numbers of z than a VAE of the same noise"] == "holds"
    assert "S-VAE above VAE at d = 2" not in said
    text = "\n".join(page.lines(content))
    assert "−94.15" in text and "ValueError: broken" in text and "after 4 epochs" in text
    # Differences of the same images: far below the error of either mean.
    assert page.Found(content).difference("vlae", "vae")[2] < 0.15 < page.Found(content).bound("vae")[1]


def test_the_small_size_is_fitted_for_so_long_as_a_processor_works_on_it(latent):
    from latent_small import Settings, bits, fit, grey, levels
    from latent_small_page import small

    settings = Settings(processor_seconds=0.3, draws=4)
    parts, _ = levels(settings)
    assert [len(part) for part in parts] == [1200, 277, 320]
    binary, (numbers, constant) = bits(settings), grey(settings)
    assert [len(p) for p in (binary.train, binary.validation, binary.test)] == [9600, 554, 1280]
    assert set(binary.train.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(numbers.train.mean(0), torch.zeros(64), atol=1e-5)
    # The map undone, by its slope at every pixel: a change of variables of the mean.
    assert np.isfinite(constant) and constant < 0
    run = {"model": "aef", "seed": 0, **fit("aef", 0, replace(settings, processor_seconds=0.2))}
    assert run["stopped"] == "interrupted" and run["steps"] > 0 and run["test"]["kind"] == "lower bound"
    assert 0.2 <= run["processor_seconds"] < 2
    runs = [{**run, "model": name, "seed": seed} for name in ("vae", "aef") for seed in (0, 1)]
    content = {"settings": asdict(settings), "runs": runs, "date": "today"}
    content["machine"] = {"versions": {}, "processor": "one", "cores": 1}
    page = "\n".join(small(content))
    assert "AEF above the VAE" in page
