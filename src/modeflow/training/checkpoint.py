"""Checkpoints: one safetensors file, replaced atomically, holding all that an exact resumption needs."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeflow.errors import DataError, TrainingError

__all__ = ["fingerprint", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 1


def checkpoint_path(run_dir: Path) -> Path:
    """Where the checkpoint of a run folder lies."""
    return run_dir / "checkpoints" / "last.safetensors"


def fingerprint(*tensors: Tensor | None) -> str:
    """A short hash that differs for other rows: of shapes, sums and an even selection of the values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        flat = tensor.detach().reshape(-1)
        picked = flat[:: max(1, len(flat) // 65536)].cpu().contiguous()
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} {float(flat.double().sum()).hex()}".encode())
        digest.update(picked.numpy().tobytes())
    return digest.hexdigest()[:16]


def save_checkpoint(run_dir: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write to a temporary file, flush it to the disk, and put it in the place of the last one.

    Raises:
        DataError: if the folder cannot be written.
    """
    from safetensors.torch import save

    target = checkpoint_path(run_dir)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format_version": FORMAT_VERSION, **meta})
    content = save(plain, metadata={"checkpoint": text})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".last-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"the checkpoint '{target}' cannot be written: {error.strerror or error}") from error


def load_checkpoint(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and description of the last checkpoint; None where there is none.

    Raises:
        TrainingError: damaged, or written by a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint_path(run_dir)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint '{path}' is damaged: delete it to start again from the beginning"
        ) from error
    if meta["format_version"] > FORMAT_VERSION:
        raise TrainingError(f"the checkpoint '{path}' is from a newer version of modeflow: upgrade")
    return tensors, meta


def rng_tensors() -> dict[str, Tensor]:
    """The state of torch's global generators."""
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng(states: Mapping[str, Tensor]) -> None:
    """Put torch's global generators into a stored state."""
    torch.set_rng_state(states["rng/cpu"])
    if "rng/cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["rng/cuda"])
