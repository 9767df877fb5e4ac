"""What a run is compared with: the same rows at the same offsets, each number by its own kind."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from modeflow.experiments import RunConfig, fit_baselines, fit_run
from modeflow.experiments.baselines import GaussianMixtureByBIC
from modeflow.report.gather import gather
from modeflow.report.words import compare

DRAWS = 4


@pytest.fixture(scope="module", params=[1, 100], ids=["whole numbers", "hundredths"])
def run(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("lattice")
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"count": rng.poisson(30, 300) / request.param, "size": rng.normal(size=300)})
    frame.write_csv(folder / "table.csv")
    settings = {"model": "nsf-coupling", "max_epochs": 1, "score_draws": DRAWS, "flow_options": {"layers": 1}}
    return fit_run(RunConfig.build({"data": str(folder / "table.csv"), **settings}), folder / "run")


def test_a_mixture_is_scored_at_the_offsets_of_the_run(run):
    split = run.data()[1]
    (row,) = fit_baselines(run, split)
    assert (row["kind"], row["own_kind"]) == ("lower bound", "exact")
    train = np.concatenate([split.train.values, split.validation.values])
    mixture = GaussianMixtureByBIC(run.estimator.schema_, run.config["seed"], DRAWS).fit(train)
    assert row["value"] == pytest.approx(mixture.score_samples(split.test.values).mean(), rel=1e-12)
    ours = run.result["log_likelihood"]["test"]["value"]
    assert row["difference"] == pytest.approx(ours - row["value"], rel=1e-9)


def test_baselines_of_an_older_version_are_fitted_anew(run):
    split, kept = run.data()[1], run.path / "baselines.json"
    rows = fit_baselines(run, split)
    kept.write_text(json.dumps([{k: v for k, v in row.items() if k != "own_kind"} for row in rows]))
    assert fit_baselines(run, split)[0]["own_kind"] == "exact"


def test_integer_columns_leave_nothing_open(run):
    ours, mixture = gather(run).likelihoods
    assert ours.kind == mixture.kind == "lower bound" and ours.own_kind == "exact"
    clear = compare(ours, type(mixture)(**{**vars(mixture), "difference": -1.0}))
    assert clear.verdict == "worse" and "both dequantised alike" in clear.words
