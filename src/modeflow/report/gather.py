"""From a run folder to what its report shows."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modeflow.data import Dataset, Split, Table
from modeflow.estimators import DensityEstimator
from modeflow.experiments import Run, fit_baselines
from modeflow.experiments.runs import frame
from modeflow.report.contents import (
    ColumnRow,
    DataSummary,
    DensityGrid,
    LikelihoodRow,
    ModelSummary,
    ReportData,
    StateRow,
    WorstRow,
)

__all__ = ["density_grid", "gather"]

#: Rows drawn and shown; enough for a picture, few enough for a page.
SHOWN = 4000
_WORST = 12
_GRID = 240
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
    sample, sample_states = estimator.sample(SHOWN, random_state=run.config["seed"] + 1)
    rng = np.random.default_rng(0)
    shown = split.train.take(np.sort(rng.permutation(len(split.train))[:SHOWN]))
    return ReportData(
        title=f"{_title(run)} fitted to {dataset.name}",
        model=_model(run),
        data_summary=_data(dataset, split),
        likelihoods=_likelihoods(run, split, baselines, quiet, announce),
        history=[_curves(row) for row in estimator.history_],
        states=_states(estimator, split.train),
        data=shown.values,
        data_states=estimator.predict(frame(shown)),
        samples=sample,
        sample_states=sample_states,
        columns=list(split.train.columns),
        density=density_grid(estimator, split.train.values),
        worst_rows=_worst(estimator, split.test),
        warnings=list(run.result.get("warnings", [])),
    )


def _curves(row: dict[str, Any]) -> dict[str, Any]:
    """An epoch as the page draws it: likelihoods of both parts (higher is better) in one panel."""
    renamed = {"validation": "log_likelihood_validation"}
    drawn = {renamed.get(k, k): v for k, v in row.items() if k not in ("nll", "train_loss")}
    if "nll" in row:
        drawn["log_likelihood_training"] = -row["nll"]
    return drawn


def _title(run: Run) -> str:
    states = run.estimator.n_states_
    if run.config["model"] != "nvf":
        return f"Plain flow {run.config['model']}"
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


def _data(dataset: Dataset, split: Split) -> DataSummary:
    values = split.train.values
    columns = [
        ColumnRow(name, _kind(x), float(x.mean()), float(x.std()), float(x.min()), float(x.max()))
        for name, x in zip(split.train.columns, values.T, strict=True)
    ]
    return DataSummary(dataset.name, *split.sizes, columns=columns, notes=list(dataset.notes))


def _kind(values: np.ndarray) -> str:
    return "integer" if np.all(values == np.round(values)) else "continuous"


def _likelihoods(
    run: Run, split: Split, baselines: bool, quiet: bool, announce: Callable[[str], None] | None
) -> list[LikelihoodRow]:
    result = run.result
    test = result["log_likelihood"]["test"]
    kind: Any = run.estimator.density_kind_
    rows = [
        LikelihoodRow(
            _title(run),
            _number(test["value"]),
            test["standard_error"],
            kind,
            test["n"],
            result.get("n_parameters"),
            role="model",
        )
    ]
    rows += [
        LikelihoodRow(
            row["name"],
            row["value"],
            row["standard_error"],
            kind,
            row["n"],
            row["n_parameters"],
            row["note"],
            difference=row["difference"],
            difference_standard_error=row["difference_standard_error"],
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


def _states(estimator: DensityEstimator, train: Table) -> list[StateRow]:
    if estimator.n_states_ < 2:
        return []
    rng = np.random.default_rng(0)
    part = train if len(train) <= _COUNTED else train.take(rng.permutation(len(train))[:_COUNTED])
    proba = estimator.predict_proba(frame(part))
    state = proba.argmax(1)
    return [
        StateRow(
            k,
            float(estimator.weights_[k]),
            float(proba[:, k].mean()),
            int((state == k).sum()),
            part.values[state == k].mean(0).tolist() if (state == k).any() else None,
        )
        for k in range(estimator.n_states_)
    ]


def density_grid(estimator: DensityEstimator, values: np.ndarray, size: int = _GRID) -> DensityGrid | None:
    """Log-density over the range of the data, for one or two continuous columns; else None."""
    d = values.shape[1]
    if d > 2 or estimator.schema_.integer_columns:
        return None
    axes = []
    for x in values.T:
        low, high = np.quantile(x, [0.001, 0.999])
        margin = 0.15 * (high - low)
        axes.append(np.linspace(low - margin, high + margin, size))
    names: Sequence[str] = estimator.schema_.columns
    if d == 1:
        table = Table(axes[0][:, None], tuple(names))
        return DensityGrid(axes[0], None, estimator.score_samples(frame(table)))
    x, y = np.meshgrid(*axes)
    table = Table(np.column_stack([x.ravel(), y.ravel()]), tuple(names))
    return DensityGrid(axes[0], axes[1], estimator.score_samples(frame(table)).reshape(x.shape))


def _worst(estimator: DensityEstimator, test: Table) -> list[WorstRow]:
    scores = estimator.score_samples(frame(test))
    rows = np.argsort(scores)[:_WORST]
    states = estimator.predict(frame(test.take(rows))) if estimator.n_states_ > 1 else [None] * len(rows)
    return [
        WorstRow(int(i) + 1, float(scores[i]), None if z is None else int(z), test.values[i].tolist())
        for i, z in zip(rows, states, strict=True)
    ]
