"""What happened, epoch by epoch: in memory, in `metrics.jsonl`, and on request for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modeflow.errors import ConfigError

__all__ = ["History", "Log"]


@dataclass
class History:
    """The course of a training.

    Attributes:
        epochs: one mapping per evaluation, epoch 0 (before any training) first: ``epoch``, ``step``,
            ``train_loss`` and its terms (nats a row), ``validation`` (mean log-density, nats),
            ``learning_rate``, ``seconds``, and the model's own metrics.
        best_epoch: whose weights the model holds.
        best_validation: mean log-density of the validation rows there; NaN without validation rows.
        seconds: spent training, over all resumptions.
        steps: of the optimiser.
        stopped: ``max_epochs``, ``patience``, ``interrupted`` or ``until_epoch``.
        interrupted: stopped by a signal.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_validation: float = math.nan
    seconds: float = 0.0
    steps: int = 0
    stopped: str = ""
    interrupted: bool = False

    def labelled(self, stage: str) -> History:
        """The same, with the name of the stage in every epoch."""
        return replace(self, epochs=[{"stage": stage, **row} for row in self.epochs])

    def followed_by(self, other: History) -> History:
        """The course of both trainings, one after the other; the model is that of the second."""
        return replace(
            other,
            epochs=self.epochs + other.epochs,
            seconds=self.seconds + other.seconds,
            steps=self.steps + other.steps,
        )

    def summary(self) -> dict[str, Any]:
        """How it ended."""
        names = ("best_epoch", "best_validation", "seconds", "steps", "stopped", "interrupted")
        return {name: getattr(self, name) for name in names}


class Log:
    """Writes one JSON line an epoch, and the same numbers as TensorBoard scalars where asked."""

    def __init__(self, run_dir: Path | None, tensorboard: bool) -> None:
        self._path = None if run_dir is None else run_dir / "metrics.jsonl"
        self._writer: Any = None
        if tensorboard:
            if run_dir is None:
                raise ConfigError("tensorboard=True needs a run folder")
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError("tensorboard=True: run `pip install 'modeflow[tensorboard]'`") from error
            self._writer = SummaryWriter(str(run_dir / "tensorboard"))

    def restart(self, rows: Sequence[dict[str, Any]]) -> None:
        """Make the file hold just these rows: what a killed run wrote past its checkpoint is dropped."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            self._path.write_text(text, encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    self._writer.add_scalar(name, value, row["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """Close the TensorBoard writer, if any."""
        if self._writer is not None:
            self._writer.close()
