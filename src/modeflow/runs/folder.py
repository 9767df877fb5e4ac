"""A run folder: made by `fit_run`, read by `load_run`.

``config.yaml`` (everything needed to repeat the run), ``model.safetensors``, ``metrics.jsonl``,
``checkpoints/``, ``result.json`` (what was measured), ``test_scores.npy`` (log-densities of the test rows,
among which other rows are ranked), ``detector.safetensors`` (of odd rows of numbers, see
`modeflow.runs.detector`), ``report.html`` (made by `modeflow report`).
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data.table import atomic_write
from modeflow.domains.base import Parts
from modeflow.errors import ConfigError, ModelFileError
from modeflow.estimators import DensityEstimator, NVFOutlier, load_estimator
from modeflow.runs.config import RunConfig, read_config
from modeflow.runs.detector import load_detector
from modeflow.runs.streamed import is_streamed, stream

__all__ = ["Run", "config_of", "load_run", "write_held_scores", "write_json"]

_HELD = "test_scores.npy"


@dataclass
class Run:
    """A fitted run: its folder, settings, estimator and what was measured."""

    path: Path
    config: RunConfig
    estimator: DensityEstimator
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

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        config, again = self.path / "config.yaml", str(self.path) + "-again"
        return f"modeflow fit --config {shlex.quote(str(config))} -o {shlex.quote(again)}"

    def held_scores(self) -> np.ndarray:
        """Log-densities of the test rows, to which nothing was fitted and by which nothing was chosen, nats.

        Raises:
            ModelFileError: a run that has none, or a file that is damaged.
        """
        file = self.path / _HELD
        if not file.exists():
            raise ModelFileError(
                f"'{self.path}' has no scores of rows that were held out ({_HELD}), among which others are "
                f"ranked: fit again, with rows for it (`modeflow fit DATA -o RUN --test 0.1`)"
            )
        try:
            held = np.load(file, allow_pickle=False).astype(np.float64)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"'{file}' is damaged: fit again") from error
        held = held[~np.isnan(held)]
        if held.ndim != 1 or not len(held):
            raise ModelFileError(f"'{file}' holds no scores: fit again")
        return np.asarray(held)

    @cached_property
    def detector(self) -> NVFOutlier | None:
        """The detector of odd rows of the run, calibrated on its test rows; None where it has none.

        Raises:
            ModelFileError: a file that is damaged.
        """
        return load_detector(self.path)

    def data(self) -> tuple[Any, Parts]:
        """The data of the run, and its parts as they were then.

        Raises:
            DataError: if the data is not where it was.
        """
        domain = self.config.domain
        if is_streamed(self.config.settings):
            with tempfile.TemporaryDirectory(prefix="modeflow-") as scratch:
                found = stream(domain, self.config.settings, Path(scratch))
                return found.data, found.parts
        data = domain.load(self.config.settings)
        return data, domain.split(data, self.config.settings)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load a run folder.

    Raises:
        ModelFileError: not a run folder, unfinished, damaged, or of another version.
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


def write_held_scores(folder: Path, scores: np.ndarray) -> None:
    """Write the scores of the test rows atomically."""

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # by its name numpy would add an ending
            np.save(stream, np.asarray(scores, dtype=np.float64), allow_pickle=False)

    atomic_write(folder / _HELD, save)


def config_of(path: Path) -> RunConfig:
    """The configuration of a run folder, finished or not."""
    try:
        return RunConfig.build(read_config(path))
    except ConfigError as error:
        raise ModelFileError(f"'{path}' holds no run to resume: {error}") from error
