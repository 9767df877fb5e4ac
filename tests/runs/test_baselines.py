"""What a run is compared with: the same rows at the same offsets, each number by its own kind."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from modeflow.data import Split, Table
from modeflow.report.gather import gather
from modeflow.report.words import compare
from modeflow.runs import RunConfig, baselines, fit_baselines, fit_run
from modeflow.runs.baselines import GaussianMixtureByBIC

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


def test_baselines_know_nothing_of_the_test_rows(tmp_path, monkeypatch):
    """With test rows in the gap, which training makes unlikely, all are fitted to the same numbers."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-3, 1, (150, 2)), rng.normal(3, 0.5, (150, 2))])
    pl.DataFrame(x, schema=["a", "b"]).write_csv(tmp_path / "t.csv")
    settings = {
        "flow": "nsf-coupling",
        "flow_options": {"layers": 1, "hidden_features": 8},
        "max_epochs": 10,
        "batch_size": 8,
        "learning_rate": 0.005,
        "training": {"ema": None},
    }
    run = fit_run(
        RunConfig.build({"data": str(tmp_path / "t.csv"), "n_states": 2, **settings}), tmp_path / "r"
    )
    split = run.data()[1]
    fitted = []
    for name in ("_plain_flow", "GaussianMixtureByBIC"):
        make = getattr(baselines, name)

        def kept(*args, make=make, **options):
            fitted.append(make(*args, **options))
            return fitted[-1]

        monkeypatch.setattr(baselines, name, kept)
    table = split.test
    for moved in (0.0, 1.0):
        far = Table(0.1 * table.values, table.columns) if moved else table
        (run.path / "baselines.json").unlink(missing_ok=True)
        fit_baselines(run, Split(split.train, split.validation, far))
    mixtures, flows = fitted[::2], fitted[1::2]
    np.testing.assert_array_equal(*(m.model_.model.estimator.means_ for m in mixtures))
    first, second = (flow.model_.state_dict() for flow in flows)
    assert flows[0].training_["best_epoch"] > 0
    assert all(torch.equal(first[key], second[key]) for key in first)
