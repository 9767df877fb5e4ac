"""What all benchmarks share: the machine, the results folder, peers behind modeflow's contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.bench.machine import machine, today
from modeflow.data.local import data_roots, find_file
from modeflow.data.table import atomic_write
from modeflow.densities import Density
from modeflow.errors import DataError
from modeflow.training import Training

RESULTS = Path(__file__).parent / "results"


def workers(jobs: int) -> ProcessPoolExecutor:
    """Processes side by side, which end when this one is gone: one that is killed cannot end them."""
    context = get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=_leave_with, initargs=(os.getpid(),))


def _leave_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write(name: str, content: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` with the machine and the date."""
    text = json.dumps({"benchmark": name, "date": today(), "machine": machine(), **content}, indent=1) + "\n"
    RESULTS.mkdir(exist_ok=True)
    return atomic_write(RESULTS / f"{name}.json", lambda file: file.write_text(text, encoding="utf-8"))


def earlier_runs(name: str, **same: Any) -> list[dict[str, Any]]:
    """The runs of ``results/<name>.json``, so that what has a result is not measured again.

    Ends the program unless the file holds the same under these keys: numbers that were measured with other
    settings would pass for new ones.
    """
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    if any(content.get(key) != value for key, value in json.loads(json.dumps(same)).items()):
        raise SystemExit(f"{file} was measured with other settings: remove it")
    return list(content["runs"])


def data_file(name: str, hint: str = "") -> Path:
    """A file of the folders of data.

    Raises:
        DataError: there is none of that name; `hint` says where else it comes from.
    """
    file = find_file(name)
    if file is None:
        raise DataError(f"no file '{name}' in {', '.join(map(str, data_roots()))}; set MODEFLOW_DATA{hint}")
    return file


def fit_diamonds(folder: Path, rows: int, said: Sequence[str]) -> Path:
    """Fit some rows of diamonds by the command that people use; they are ``diamonds.csv`` in the folder.

    Arguments:
        said: settings, ``key=value``.
    """
    import polars as pl

    pl.read_csv(data_file("mixed/diamonds.csv.gz")).sample(rows, seed=0).write_csv(folder / "diamonds.csv")
    options = [word for each in said for word in ("--set", each)]
    program = ["fit", str(folder / "diamonds.csv"), "-o", str(folder / "run"), "--quiet", *options]
    subprocess.run([sys.executable, "-m", "modeflow", *program], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


def in_groups(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator, those of its training in their group: results keep them in one level."""
    names = [field.name for field in fields(Training)]
    training = {name: value for name, value in flat.items() if name in names}
    others = {name: value for name, value in flat.items() if name not in names}
    return {**others, "training": training} if training else others


def n_parameters(model: torch.nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class ZukoNSF(Density):
    """zuko's neural spline flow (autoregressive), fitted by the same trainer on standardised rows."""

    def __init__(self, features: int, transforms: int, hidden: int, bins: int) -> None:
        super().__init__((features,))
        import zuko

        self.flow = zuko.flows.NSF(
            features, 0, transforms=transforms, hidden_features=(hidden, hidden), bins=bins
        )

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.flow().log_prob(x)

    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None) -> Tensor:
        return self.flow().sample((n,))


def sizes_near(target: int, build: Any, widths: Any) -> tuple[int, int]:
    """The width whose model comes closest to `target` parameters, and that number."""
    counts = {w: n_parameters(build(w)) for w in widths}
    best = min(counts, key=lambda w: abs(counts[w] - target))
    return best, counts[best]


def summary(values: list[float]) -> dict[str, float]:
    """Mean and standard error over seeds."""
    a = np.array(values, dtype=float)
    error = float(a.std(ddof=1) / np.sqrt(len(a))) if len(a) > 1 else float("nan")
    return {"mean": float(a.mean()), "standard_error": error}
