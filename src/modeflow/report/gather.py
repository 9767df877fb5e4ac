"""From a run folder to what its report shows."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from modeflow.data import Split, Table
from modeflow.estimators import DensityEstimator
from modeflow.experiments import Run, fit_baselines, solver_note
from modeflow.experiments.runs import frame
from modeflow.report.contents import (
    DataSummary,
    DensityGrid,
    LikelihoodRow,
    ModelSummary,
    ReportData,
    StateRow,
    Truth,
)
from modeflow.report.tabulate import describe_columns, find_worst, tabulate_states

__all__ = ["density_grid", "gather"]

#: Rows drawn and shown; enough for a picture, few enough for a page.
SHOWN = 4000
_WORST = 12
# Rows whose states are counted; a share to three digits needs no more.
_COUNTED = 50_000


def gather(
    run: Run,
    *,
    baselines: bool = True,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> ReportData:
    """Collect everything the report of a run shows.

    Arguments:
        run: from `load_run` or `fit_run`.
        baselines: fit (once) and show a Gaussian mixture and a plain flow on the same split.
        quiet: no progress bar.
        announce: called with a line before each long step.

    Raises:
        DataError: if the data of the run is not where it was.
    """
    dataset, split = run.data()
    estimator = run.estimator
    estimator.verbose = not quiet
    sample, sample_states = estimator.sample(SHOWN, random_state=run.config["seed"] + 1)
    rng = np.random.default_rng(0)
    shown = split.train.take(np.sort(rng.permutation(len(split.train))[:SHOWN]))
    scores = estimator.score_samples(frame(split.test))
    states = estimator.predict(frame(split.test)) if estimator.n_states_ > 1 else None
    numbers = None if split.indices is None else split.indices[2]
    columns = describe_columns(split.train.values, split.train.columns)
    return ReportData(
        title=f"{_title(run)} fitted to {dataset.name}",
        model=_model(run),
        data_summary=DataSummary(dataset.name, *split.sizes, columns=columns, notes=list(dataset.notes)),
        likelihoods=_likelihoods(run, split, baselines, quiet, announce),
        history=[_curves(row) for row in estimator.history_],
        states=_states(estimator, split.train, states, scores),
        data=shown.values,
        data_states=estimator.predict(frame(shown)),
        samples=np.asarray(sample),
        sample_states=sample_states,
        columns=list(split.train.columns),
        latent=estimator.encode(frame(shown))[0] if estimator.latent_features_ else None,
        density=density_grid(estimator, split.train.values),
        worst_rows=find_worst(split.test.values, scores, states, _WORST, numbers),
        worst_rows_of="the test part of the data" if numbers is None else dataset.name,
        warnings=run.warnings,
        truth=_truth(run.result.get("truth")),
        seed=run.config["seed"],
        seconds=run.result.get("seconds"),
    )


def _curves(row: dict[str, Any]) -> dict[str, Any]:
    """An epoch as the page draws it: likelihoods of both parts (higher is better) in one panel."""
    drawn = {k: v for k, v in row.items() if k not in ("nll", "train_loss")}
    if "nll" in row:
        drawn["training"] = -row["nll"]
    return drawn


def _title(run: Run) -> str:
    states = run.estimator.n_states_
    if run.config["model"] != "nvf":
        return f"Plain flow {run.config['model']}"
    if run.estimator.latent_features_:
        return "NVF with a continuous latent"
    return f"NVF with {states} state{'s' if states > 1 else ''}"


def _model(run: Run) -> ModelSummary:
    name = "NVF" if run.config["model"] == "nvf" else run.config["model"]
    settings = {k: v for k, v in run.config.settings.items() if v is not None}
    config = shlex.quote(str(run.path / "config.yaml"))
    return ModelSummary(
        name=name,
        parameters=settings,
        n_parameters=run.result.get("n_parameters"),
        command=f"modeflow fit --config {config} -o {shlex.quote(str(run.path) + '-again')}",
    )


def _bounds_note(bounds: dict[str, Any] | None) -> str:
    """Which bound a continuous latent's number is, and what the looser one would be."""
    if not bounds:
        return ""
    elbo = bounds["elbo"]
    error = "" if elbo["standard_error"] is None else f" ± {elbo['standard_error']:.3f}"
    return f"IWAE with {bounds['draws']} draws; the ELBO is {_number(elbo['value']):.3f}{error}"


def _note(result: dict[str, Any]) -> str:
    """What decides the model's number beside its weights: the bound, the steps of a solver."""
    notes = [_bounds_note(result.get("bounds")), solver_note(result.get("solver"))]
    return "; ".join(note for note in notes if note)


def _likelihoods(
    run: Run, split: Split, baselines: bool, quiet: bool, announce: Callable[[str], None] | None
) -> list[LikelihoodRow]:
    result = run.result
    test = result["log_likelihood"]["test"]
    kind = run.estimator.density_kind_
    rows = [
        LikelihoodRow(
            _title(run),
            _number(test["value"]),
            test["standard_error"],
            kind,
            test["n"],
            result.get("n_parameters"),
            note=_note(result),
            role="model",
            own_kind=run.estimator.model_.exactness,
        )
    ]
    rows += [
        LikelihoodRow(
            row["name"],
            row["value"],
            row["standard_error"],
            row["kind"],
            row["n"],
            row["n_parameters"],
            row["note"],
            difference=row["difference"],
            difference_standard_error=row["difference_standard_error"],
            own_kind=row["own_kind"],
        )
        for row in (fit_baselines(run, split, quiet, announce) if baselines else [])
    ]
    truth = result.get("truth")
    if truth:
        rows.append(
            LikelihoodRow(
                "true density",
                truth["log_likelihood"],
                None,
                "exact",
                test["n"],
                note="the same test rows under the density they were drawn from",
                role="known",
                difference=-truth["gap"],
                difference_standard_error=truth["gap_standard_error"],
            )
        )
    return rows


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _truth(measured: dict[str, Any] | None) -> Truth | None:
    if not measured:
        return None
    names = ("bridge_mass", "true_bridge_mass", "modes", "modes_found")
    return Truth(-measured["log_likelihood"], **{n: measured.get(n) for n in names})


def _states(
    estimator: DensityEstimator, train: Table, test_states: np.ndarray | None, scores: np.ndarray
) -> list[StateRow]:
    if estimator.n_states_ < 2:
        return []
    rng = np.random.default_rng(0)
    part = train if len(train) <= _COUNTED else train.take(rng.permutation(len(train))[:_COUNTED])
    proba = estimator.predict_proba(frame(part))
    return tabulate_states(
        part.values, proba, estimator.weights_, test_states=test_states, test_log_density=scores
    )


def density_grid(estimator: DensityEstimator, values: np.ndarray, size: int = 240) -> DensityGrid | None:
    """Log-density over the range of the data, for one or two continuous columns; else None."""
    if values.shape[1] > 2 or estimator.schema_.lattice_columns:
        return None
    names = tuple(estimator.schema_.columns)
    return DensityGrid.around(lambda x: estimator.score_samples(frame(Table(x, names))), values, size)
