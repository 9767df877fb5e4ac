"""A run folder: made by `fit_run`, read by `load_run`.

``config.yaml`` (everything needed to repeat the run), ``model.safetensors``, ``metrics.jsonl``,
``checkpoints/``, ``result.json`` (what was measured), ``report.html`` (made by `modeflow report`).
"""

from __future__ import annotations

import json
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import Dataset, Split, Table, check_writable, read_table, resolve, split_table
from modeflow.data._source import is_text_file
from modeflow.data.table import atomic_write
from modeflow.data.toy_islands import Shapes
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators import DensityEstimator, load_estimator
from modeflow.experiments.config import RunConfig, read_config
from modeflow.experiments.image_runs import fit_images
from modeflow.metrics import (
    adjusted_rand,
    bridge_mass,
    islands_reached,
    modes_found,
    summarise,
    true_bridge_mass,
)
from modeflow.training import signals_held

__all__ = ["Run", "fit_run", "frame", "load_run", "load_table", "solver_note", "split_data"]

_BRIDGE_SAMPLES = 100_000
#: Test rows on which the steps of a solver are halved.
_SOLVED = 1000
#: Training rows whose likelihood is measured, at least.
_LEAST_SCORED = 1000


@dataclass
class Run:
    """A fitted run: its folder, settings, estimator and what was measured.

    `estimator` is a `DensityEstimator`, or an `ImageDensity` where ``config.images``.
    """

    path: Path
    config: RunConfig
    estimator: Any
    result: dict[str, Any]

    @property
    def interrupted(self) -> bool:
        """Whether the training was ended by a signal, so that the model is only the best until then."""
        return bool(self.result.get("training", {}).get("interrupted", False))

    @property
    def interruption(self) -> str:
        """What there is to say of an interrupted run, and how to go on."""
        return (
            f"the training of this run was interrupted, and its model is the best until then: go on with "
            f"`modeflow fit -o {shlex.quote(str(self.path))} --resume`"
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader of the run must know: that it was interrupted, and what its fit warned of."""
        return [self.interruption] * self.interrupted + list(self.result.get("warnings", []))

    def data(self) -> tuple[Dataset, Split]:
        """The data of the run, split as it was then.

        Raises:
            DataError: if the data is not where it was.
        """
        dataset = load_dataset_of(self.config)
        return dataset, split_data(dataset, self.config)


def frame(table: Table) -> Any:
    """The table as a data frame, so that the estimator learns its column names."""
    import polars as pl

    return pl.DataFrame({c: table.values[:, i] for i, c in enumerate(table.columns)})


def load_dataset_of(config: RunConfig) -> Dataset:
    """The data set that a configuration names."""
    if config["data"] is None:
        raise ConfigError("no data: give DATA, a file or a name listed by `modeflow data`")
    columns = config["columns"]
    if isinstance(columns, str):
        columns = [c.strip() for c in columns.split(",")]
    return resolve(
        config["data"],
        columns=columns,
        array=config["array"],
        n=config["rows"],
        seed=config["seed"],
        **_reading_of(config["data"], config),
    )


def split_data(dataset: Dataset, config: RunConfig) -> Split:
    """Training, validation and test rows: by file, as published, or at random by the seed.

    Raises:
        ConfigError, DataError: fractions out of range, or files that do not fit.
    """
    test, validation = config["test"], config["validation"]
    if not isinstance(test, str) and not isinstance(validation, str):
        if dataset.split is not None:
            return dataset.split
        return split_table(dataset.table, config["seed"], validation, test)
    columns = dataset.table.columns
    rest = dataset.table
    parts: dict[str, Table] = {}
    for name, given in (("test", test), ("validation", validation)):
        if isinstance(given, str):
            parts[name] = read_table(given, columns, **_reading_of(given, config))
    for offset, (name, given) in enumerate((("test", test), ("validation", validation))):
        if name not in parts:  # the other part is cut from the rows of DATA
            if not 0 < given < 1:
                raise ConfigError(f"{name}={given} must be a fraction between 0 and 1, or a file")
            order = np.random.default_rng([config["seed"], offset]).permutation(len(rest))
            count = max(1, round(given * len(rest)))
            parts[name], rest = rest.take(order[:count]), rest.take(np.sort(order[count:]))
    return Split(rest, parts["validation"], parts["test"])


def _reading_of(file: str, config: RunConfig) -> dict[str, Any]:
    """How a file of the run is read; only text has a header to be told about."""
    reading = dict(config.reading)
    if not is_text_file(file):
        reading["header"] = None
    return reading


def load_table(source: str, estimator: DensityEstimator, columns: Sequence[str] | None = None) -> Table:
    """Rows to be scored by a fitted estimator.

    Raises:
        DataError: other columns than the model has (they are named).
    """
    table = resolve(source, columns=columns).table
    values = estimator.schema_.validate(table.values, table.columns)
    return Table(values, estimator.schema_.columns, table.source, table.notes)


def fit_run(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Run:
    """Fit what the configuration says and write a run folder.

    Arguments:
        config: settings; see `RunConfig`.
        out: the folder; must not hold another run unless `resume`.
        resume: go on where an interrupted run of the same folder stopped.
        quiet: no progress bar.
        announce: called with each guess that was made about the files, before anything is trained.

    Raises:
        ConfigError, DataError, TrainingError: as `DensityEstimator.fit`; nothing is trained before the
            folder is known to be writable.
        KeyboardInterrupt: after Ctrl-C, when the folder holds the best model so far and what was measured
            of it; `resume` goes on.
    """
    folder = Path(out).expanduser()
    _check_folder(folder, resume)
    fit = fit_images if config.images else partial(_fit_table, announce=announce)
    with signals_held():
        with _new_run(config, folder):
            estimator, result = fit(config, folder, resume=resume, quiet=quiet)
        for note in result["warnings"]:
            warnings.warn(note, UserWarning, stacklevel=2)
        estimator.save(folder / "model.safetensors")
        write_json(folder / "result.json", result)
    return Run(folder, config, estimator, result)


@contextmanager
def _new_run(config: RunConfig, folder: Path) -> Iterator[None]:
    """Make the folder of a run, and take it away again where nothing was trained in it."""
    new_folder, new_run = not folder.exists(), not (folder / "config.yaml").exists()
    folder.mkdir(parents=True, exist_ok=True)
    if new_run:
        config.write(folder / "config.yaml")
    try:
        yield
    except (ConfigError, DataError):
        # Refused before a step was made: no run, so that the corrected command finds the folder free.
        if new_run and not (folder / "checkpoints").exists() and not (folder / "selection").exists():
            (folder / "config.yaml").unlink()
            if new_folder and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _fit_table(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    announce: Callable[[str], None] | None = None,
) -> tuple[DensityEstimator, dict[str, Any]]:
    dataset = load_dataset_of(config)
    split = split_data(dataset, config)
    notes = dict.fromkeys(note for part in (dataset.table, *split) for note in part.notes)
    if announce is not None:
        for note in notes:
            announce(note)
    estimator = config.estimator(verbose=not quiet)
    if not isinstance(estimator, DensityEstimator):
        raise ConfigError(f"model '{config['model']}' is one of images")
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(frame(split.train), validation=frame(split.validation), run_dir=folder, resume=resume)
    measured = _measure(estimator, dataset, split)
    return estimator, {
        **measured,
        "seconds": round(time.perf_counter() - began, 3),  # measuring included: it is waited for as well
        "training": estimator.training_,
        "selection": estimator.selection_,
        "notes": list(notes),
        "warnings": [str(w.message) for w in caught if issubclass(w.category, UserWarning)],
    }


def _check_folder(folder: Path, resume: bool) -> None:
    check_writable(folder / "model.safetensors" if folder.is_dir() else folder)
    if folder.is_file():
        raise DataError(f"'{folder}' is a file: -o names a folder")
    known = [name for name in ("config.yaml", "model.safetensors") if (folder / name).exists()]
    if known and not resume:
        raise DataError(
            f"'{folder}' already holds a run ({known[0]}): go on with --resume, or give another folder"
        )


def _measure(estimator: DensityEstimator, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Likelihood of all three parts; for a toy, the gap to the truth and the phantom bridges.

    Of the training rows as many are scored as there are test rows (`_LEAST_SCORED` at least), evenly drawn:
    the mean is as exact as the one that it is compared to, and takes no longer. ``n`` says how many. Whoever
    interrupted the training waits for the process to end: then so few are scored of all parts.
    """
    kind: Any = estimator.density_kind_
    hurried = bool(estimator.training_.get("interrupted"))
    parts = {"train": _some(split.train, len(split.test)), "validation": split.validation, "test": split.test}
    if hurried:
        parts = {name: _some(part, 0) for name, part in parts.items()}
    likelihood = {
        name: summarise(estimator.score_samples(frame(part)), kind).to_dict() for name, part in parts.items()
    }
    result: dict[str, Any] = {
        "data": dataset.name,
        "columns": list(split.train.columns),
        "rows": dict(zip(parts, split.sizes, strict=True)),
        "density": kind,
        "units": "nats per row, in the units of the data",
        "log_likelihood": likelihood,
        "n_states": estimator.n_states_,
        "weights": [round(float(w), 6) for w in estimator.weights_],
        "n_parameters": sum(p.numel() for p in estimator.model_.parameters()),
    }
    if hurried:
        return result
    part = split.test.take(np.arange(min(len(split.test), _SOLVED)))
    differences = estimator.solver_differences(frame(part))
    if differences is not None:
        result["solver"] = {
            "mean": float(differences.mean()),
            "largest": float(np.abs(differences).max()),
            "rows": len(part),
        }
    if estimator.latent_features_:
        result["latent_features"] = estimator.latent_features_
        if not estimator.schema_.lattice_columns:
            bounds = estimator.bounds(frame(split.test))
            result["bounds"] = {k: v if k == "draws" else v.to_dict() for k, v in bounds.items()}
    toy = dataset.toy
    if toy is not None and toy.has_density:
        result["truth"] = _truth(estimator, toy, split.test)
    return result


def solver_note(measured: dict[str, Any] | None) -> str:
    """How much the steps of a solver decide, in words; empty where none takes part."""
    if not measured:
        return ""
    rows = f"{measured['rows']:,} test rows"
    return (
        f"halving the solver's steps changes the mean by {measured['mean']:+.1e} nats, a row by "
        f"{measured['largest']:.1e} at most ({rows})"
    )


def _some(train: Table, least: int) -> Table:
    count = max(_LEAST_SCORED, least)
    if len(train) <= count:
        return train
    return train.take(np.sort(np.random.default_rng(0).permutation(len(train))[:count]))


def _truth(estimator: DensityEstimator, toy: Any, test: Table) -> dict[str, Any]:
    true = toy.log_prob(test.values)
    gap = true - estimator.score_samples(frame(test))
    truth = {
        "log_likelihood": float(true.mean()),
        "gap": float(gap.mean()),
        "gap_standard_error": float(gap.std(ddof=1) / np.sqrt(len(gap))),
    }
    if isinstance(toy, Shapes):
        samples, _ = estimator.sample(_BRIDGE_SAMPLES)
        states = estimator.predict(frame(test)) if estimator.n_states_ > 1 else np.zeros(len(test))
        truth |= islands_reached(toy, np.asarray(samples))
        truth["agreement"] = adjusted_rand(toy.log_joint(test.values).argmax(1), states)
    if toy.modes is not None and toy.scale is not None:
        samples = np.asarray(estimator.sample(_BRIDGE_SAMPLES)[0])
        truth |= {
            "bridge_mass": bridge_mass(samples, toy.modes, toy.scale),
            "true_bridge_mass": true_bridge_mass(toy),
            "modes_found": modes_found(samples, toy.modes, toy.scale),
            "modes": len(toy.modes),
        }
    return truth


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load a run folder.

    Raises:
        ModelFileError: not a run folder, unfinished, damaged, or from a newer version.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise ModelFileError(f"there is no run at '{path}': make one with `modeflow fit DATA -o {path}`")
    if not folder.is_dir():
        raise ModelFileError(f"'{path}' is a file: give the run folder that `modeflow fit` wrote")
    if not (folder / "config.yaml").exists():
        raise ModelFileError(f"'{path}' is not a run folder of modeflow fit: it holds no config.yaml")
    config = RunConfig.build(read_config(folder))
    estimator = load_estimator(folder)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        result = {}
    except (OSError, ValueError) as error:
        raise ModelFileError(f"'{folder / 'result.json'}' is damaged") from error
    return Run(folder, config, estimator, result)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))


def config_of(path: Path) -> RunConfig:
    """The configuration of a run folder, finished or not."""
    try:
        return RunConfig.build(read_config(path))
    except ConfigError as error:
        raise ModelFileError(f"'{path}' holds no run to resume: {error}") from error
