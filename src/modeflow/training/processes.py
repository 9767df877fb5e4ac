"""Training in several processes at once, by lightning-fabric (imported only where this is asked for)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from modeflow import errors
from modeflow.densities import Density
from modeflow.errors import ConfigError, ModeflowError, TrainingError
from modeflow.training.checkpoint import load_checkpoint
from modeflow.training.devices import FabricWorld, resolve_device
from modeflow.training.history import History
from modeflow.training.job import Job
from modeflow.training.loop import Loop
from modeflow.training.rows import Rows
from modeflow.training.seeding import seeded
from modeflow.training.signals import handled, hold
from modeflow.training.surroundings import shielded

__all__ = ["fit_in_processes"]

#: How each strategy starts its processes.
_START = {"auto": "spawn", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}


class _Task:
    """What the processes are given beside the model. No dataclass: Fabric takes those apart."""

    def __init__(self, rows: Rows, job: Job, scratch: Path) -> None:
        self.rows, self.job, self.scratch = rows, job, scratch


class _Processes(DDPStrategy):
    """Fabric's processes, without its announcements."""

    def setup_environment(self) -> None:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        super().setup_environment()


def fit_in_processes(model: Density, rows: Rows, job: Job) -> History:
    """Every process runs the loop on its share of every batch; the model gets the best weights.

    Arguments:
        model: on the CPU; trained copies live in the processes.
        rows: all of them.
        job: its run folder carries the result back, so it must have one.

    Raises:
        TrainingError, ConfigError, DataError: as of training in one process; also where a process dies.
    """
    assert job.run_dir is not None
    config = job.config
    if _START[config.strategy] == "spawn":
        _check_sendable(job)
    strategy: Any = _Processes(start_method=_START[config.strategy])  # type: ignore[arg-type]
    precision: Any = config.precision if config.precision != "64-true" else "32-true"
    try:
        fabric = Fabric(
            accelerator=resolve_device(config.device, model, config.batch_size).type,
            devices=config.devices,
            strategy=strategy,
            precision=precision,
        )
    except Exception as error:  # Fabric raises its own kinds for devices that are not there
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"devices={config.devices} on device='{config.device}': {reason}") from error
    with tempfile.TemporaryDirectory(prefix="modeflow-") as scratch:
        try:
            history = _launch(fabric, model, rows, job, Path(scratch))
        except ModeflowError:
            best = Path(scratch) / "best.safetensors"
            if best.exists():
                model.load_state_dict(load_file(best))
            model.eval()
            raise
    found = load_checkpoint(job.run_dir)  # tensors sent here would not outlive the process that owns them
    assert found is not None
    model.load_state_dict({k[5:]: v for k, v in found[0].items() if k.startswith("best/")})
    model.eval()
    return history


def _check_sendable(job: Job) -> None:
    for name in ("augment", "evaluate"):
        try:
            ForkingPickler.dumps(getattr(job, name))
        except Exception as error:
            raise ConfigError(
                f"devices={job.config.devices}: {name} must be a function (or an object of a class) at the "
                "top level of a module, so that other processes can receive it"
            ) from error


def _launch(fabric: Any, model: Density, rows: Rows, job: Job, scratch: Path) -> History:
    run: Any = _in_process
    before = set(multiprocessing.active_children())

    def ours() -> list[Any]:
        return [p for p in multiprocessing.active_children() if p not in before]

    asked: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        for process in ours():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)

    try:
        try:
            with handled(pass_on):
                result = fabric.launch(run, model, _Task(rows, job, scratch))
        finally:
            hold(asked[0] if asked else None)
    except (ProcessRaisedException, ProcessExitedException, RuntimeError, EOFError) as error:
        _raise_reported(scratch)
        if asked:
            raise KeyboardInterrupt from error
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        last = said[-1].rstrip(".") if said else type(error).__name__
        hint = (
            "a script must train under `if __name__ == '__main__':`" if _is_start(error) else "try devices=1"
        )
        raise TrainingError(
            f"one of {job.config.devices} training processes ended: {last}; {hint}"
        ) from error
    finally:
        for process in ours():
            process.terminate()
    _raise_reported(scratch)
    history = History(**result)
    history.interrupted |= bool(asked)
    return history


def _is_start(error: Exception) -> bool:
    """Whether a process ended before its work began: mostly a script without a main guard."""
    return isinstance(error, ProcessExitedException) or "__main__" in str(error)


def _in_process(fabric: Any, model: Density, task: _Task) -> dict[str, Any] | None:
    """What every process runs; returns the history, or leaves a note of what went wrong."""
    rows, job = task.rows, task.job
    if fabric.device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // fabric.world_size))
    world = FabricWorld(fabric)
    model.to(fabric.device)
    loop = None
    try:
        with shielded(grad=True), seeded(job.config.seed, foreign=job.draws_elsewhere(model)):
            loop = Loop(
                model, rows.to(fabric.device), job.config, job.run_dir, job.augment, job.evaluate, world
            )
            return vars(job.run(loop, worker=True))
    except ModeflowError as error:
        if loop is not None and world.first:
            best = {k: v.cpu().contiguous().clone() for k, v in loop.state.best.items()}
            save_file(best, str(task.scratch / "best.safetensors"))
        note = task.scratch / f"error-{world.rank:04}.json"
        note.write_text(json.dumps([type(error).__name__, str(error)]), encoding="utf-8")
        return None


def _raise_reported(scratch: Path) -> None:
    """Raise the error that the first process with one has noted."""
    for note in sorted(scratch.glob("error-*.json")):
        kind, message = json.loads(note.read_text(encoding="utf-8"))
        known: Callable[[str], ModeflowError] = getattr(errors, kind, TrainingError)
        raise known(message)
