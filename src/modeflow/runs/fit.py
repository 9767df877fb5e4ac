"""Fitting what a configuration says, into a run folder."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import check_writable
from modeflow.errors import ConfigError, DataError
from modeflow.estimators import DensityEstimator
from modeflow.progress import showing
from modeflow.runs.config import RunConfig
from modeflow.runs.detector import fit_detector
from modeflow.runs.folder import Run, write_held_scores, write_json
from modeflow.runs.lock import LOCK, locked
from modeflow.runs.measure import measure
from modeflow.runs.streamed import FOLDER, Streamed, discard, is_streamed, stream
from modeflow.training import signals_held

__all__ = ["fit_run"]


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
    source = config.settings["data"]
    if source is not None and folder.is_dir() and folder.resolve() == Path(source).expanduser().resolve():
        raise DataError(f"'{folder}' is the folder of the data: give another one for the run")
    _check_folder(folder, resume)
    with signals_held():
        with _new_run(config, folder, resume):
            estimator, result, held = _fit(config, folder, resume, quiet, announce)
            estimator.save(folder / "model.safetensors")
            write_held_scores(folder, held)
            write_json(folder / "result.json", result)
        for note in result["warnings"]:
            warnings.warn(note, UserWarning, stacklevel=2)
    return Run(folder, config, estimator, result)


def _fit(
    config: RunConfig, folder: Path, resume: bool, quiet: bool, announce: Callable[[str], None] | None
) -> tuple[DensityEstimator, dict[str, Any], np.ndarray]:
    domain = config.domain
    rows: Streamed | None = None
    if is_streamed(config.settings):
        with showing(not quiet):
            rows = stream(domain, config.settings, folder / FOLDER)
        data, parts = rows.data, rows.parts
    else:
        data = domain.load(config.settings)
        parts = domain.split(data, config.settings)
    notes = domain.notes(data, parts)
    if announce is not None:
        for note in notes:
            announce(note)
    estimator = config.estimator(verbose=not quiet)
    domain.prepare(estimator, data)
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, held = domain.rows(parts.train), domain.rows(parts.validation)
        more = {} if rows is None or rows.fits_memory else {"stored": rows.stored}
        estimator.fit(train, validation=held, run_dir=folder, resume=resume, **more)
    measured, held = measure(estimator, data, parts)
    result = {
        **measured,
        "seconds": round(time.perf_counter() - began, 3),  # measuring included: it is waited for as well
        "training": estimator.training_,
        "selection": estimator.selection_,
        "notes": notes,
        "warnings": [str(w.message) for w in caught if issubclass(w.category, UserWarning)],
    }
    if config.settings.get("detector") and not estimator.training_.get("interrupted"):
        fitted = fit_detector(estimator, parts, folder, config.settings["seed"], quiet)
        result |= {} if fitted is None else {"detector": fitted}
    if rows is not None:
        result["files_failed"] = dict(rows.failed)
        if not estimator.training_.get("interrupted"):
            discard(folder / FOLDER)
    return estimator, result, held


@contextmanager
def _new_run(config: RunConfig, folder: Path, resume: bool) -> Iterator[None]:
    """Make the folder of a run for this process alone, and take it away again where nothing was trained in
    it."""
    new_folder, refused = not folder.exists(), False
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _check_folder(folder, resume)  # once more: another process may have been faster
        new_run = not (folder / "config.yaml").exists()
        if new_run:
            config.write(folder / "config.yaml")
        try:
            yield
        except (ConfigError, DataError):
            # Refused before a step was made: no run, so that the corrected command finds the folder free.
            if new_run and not (folder / "checkpoints").exists() and not (folder / "selection").exists():
                discard(folder / FOLDER)
                (folder / "config.yaml").unlink()
                refused = new_folder
            raise
        finally:
            if refused:
                _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    """But for the lock, which is this process's own."""
    if [path.name for path in folder.iterdir()] in ([], [LOCK]):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _check_folder(folder: Path, resume: bool) -> None:
    check_writable(folder / "model.safetensors" if folder.is_dir() else folder)
    if folder.is_file():
        raise DataError(f"'{folder}' is a file: -o names a folder")
    known = [name for name in ("config.yaml", "model.safetensors") if (folder / name).exists()]
    if known and not resume:
        raise DataError(
            f"'{folder}' already holds a run ({known[0]}): go on with --resume, or give another folder"
        )
