"""Checkpoints: one safetensors file, replaced atomically, holding all that an exact resumption needs."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeflow.errors import DataError, TrainingError
from modeflow.nets.randomness import get_states, set_states

__all__ = ["fingerprint", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 4
#: The oldest format that holds all that is needed.
_OLDEST_VERSION = 3


def checkpoint_path(run_dir: Path) -> Path:
    """Where the checkpoint of a run folder lies."""
    return run_dir / "checkpoints" / "last.safetensors"


def fingerprint(*tensors: Tensor | None) -> str:
    """A short hash that differs for other rows: of shapes, a sum of all bits, and an even selection.

    The sum is of integers, hence exact: the same on every device and for any number of threads.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        if len(flat):
            words = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)
            digest.update(str(int(words.sum(dtype=torch.int64))).encode())
        picked = flat[:: max(1, len(flat) // 65536)].cpu().contiguous()
        digest.update(picked.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over names and contents: a flipped bit in a number is otherwise not noticed."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(content, value)
    return value


def save_checkpoint(run_dir: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write to a temporary file, flush it to the disk, and put it in the place of the last one.

    Raises:
        DataError: if the folder cannot be written.
    """
    from safetensors.torch import save

    target = checkpoint_path(run_dir)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format_version": FORMAT_VERSION, "checksum": _checksum(plain), **meta})
    content = save(plain, metadata={"checkpoint": text})
    # One fixed name: what a kill leaves behind is overwritten by the next checkpoint.
    temporary = target.with_name(".last.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"the checkpoint '{target}' cannot be written: {error.strerror or error}") from error


def load_checkpoint(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and description of the last checkpoint; None where there is none.

    Raises:
        TrainingError: damaged, or written by another version.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint_path(run_dir)
    if not path.exists():
        return None
    damaged = f"the checkpoint '{path}' is damaged: delete it to start again from the beginning"
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["checkpoint"])
            version = int(meta["format_version"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(damaged) from error
    if version > FORMAT_VERSION:
        raise TrainingError(f"the checkpoint '{path}' is from a newer version of modeflow: upgrade")
    if version < _OLDEST_VERSION:
        raise TrainingError(
            f"the checkpoint '{path}' is from an older version of modeflow: go on with that version, or "
            "delete it to start again from the beginning"
        )
    if _checksum(tensors) != meta.get("checksum"):
        raise TrainingError(damaged)
    return tensors, meta


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that training on `device` draws from."""
    return {f"rng/{name}": state for name, state in get_states(device).items()}


def set_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators into a stored state."""
    set_states({name.removeprefix("rng/"): state.cpu() for name, state in states.items()}, device)
