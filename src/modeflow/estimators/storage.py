"""Models on disk: one safetensors file, with everything else as JSON in its header. No pickle."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch

from modeflow._version import __version__
from modeflow.data.table import atomic_write, check_writable
from modeflow.errors import ModeflowError, ModelFileError
from modeflow.options import Options

__all__ = [
    "FORMAT_VERSION",
    "Stored",
    "load_estimator",
    "plain_value",
    "read_header",
    "save_estimator",
    "stored_params",
]

#: Raised when a file written today could be misread by yesterday's code.
#: 1 and 2 were those of modeflow 0.1, whose parameters had other names; 3: parameters in groups, the domain;
#: 4: kinds of rows, noise as a layer; 5: another model beside it, which alone is written so.
FORMAT_VERSION, _WITHOUT_OTHER = 5, 4
MODEL_FILE = "model.safetensors"
_LARGEST_HEADER = 100_000_000


def save_estimator(
    path: str | os.PathLike[str], content: Mapping[str, Any], state: Mapping[str, Any]
) -> Path:
    """Write atomically. Equal estimators make equal files: how long things took is not written.

    Raises:
        DataError: if the path cannot be written.
        ModelFileError: if a parameter cannot be stored as JSON.
    """
    from safetensors.torch import save_file

    target = check_writable(path)
    version = FORMAT_VERSION if _has_other(content) else _WITHOUT_OTHER
    header = {"format_version": version, "modeflow_version": __version__, **_timeless(dict(content))}
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"the model cannot be saved: a parameter is not plain data ({error}); pass numbers, text or "
            "lists, and an integer random_state"
        ) from error
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    return atomic_write(target, lambda file: save_file(tensors, file, metadata={"modeflow": text}))


def _has_other(content: Any) -> bool:
    """Whether a density in it has another model beside it."""
    if isinstance(content, Mapping):
        return content.get("beside") is not None or any(map(_has_other, content.values()))
    return isinstance(content, list) and any(map(_has_other, content))


def _timeless(content: Any) -> Any:
    """Without the times in histories and summaries of trainings, which no two runs share."""
    if isinstance(content, Mapping):
        return {k: _timeless(v) for k, v in content.items() if k != "seconds"}
    return [_timeless(v) for v in content] if isinstance(content, list) else content


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of a model file; executes and unpickles nothing.

    Arguments:
        path: a model file, or a run folder that holds one.

    Raises:
        ModelFileError: missing, damaged, foreign, or from a newer version; one line that says which.
    """
    file = model_path(path)
    raw = _raw_header(file)
    text = (raw.get("__metadata__") or {}).get("modeflow")
    if text is None:
        raise ModelFileError(f"'{file}' was not written by modeflow: its header says nothing of a model")
    try:
        header = json.loads(text)
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"'{file}' is damaged: its description cannot be read") from error
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"'{file}' has format {version}, written by modeflow {header.get('modeflow_version', '?')}; this "
            f"is modeflow {__version__}, which reads formats up to {FORMAT_VERSION}: upgrade modeflow"
        )
    if version < _WITHOUT_OTHER:
        raise ModelFileError(
            f"'{file}' was written by modeflow {header.get('modeflow_version', '0.1')}, whose files modeflow "
            f"{__version__} does not read: fit again, or use that version"
        )
    return cast(dict[str, Any], header)


def model_path(path: str | os.PathLike[str]) -> Path:
    """The model file named, or the one in the run folder named."""
    file = Path(path).expanduser()
    if file.is_dir():
        inside = file / MODEL_FILE
        if not inside.is_file():
            unfinished = (file / "checkpoints").is_dir() or (file / "selection").is_dir()
            hint = (
                "its training has not finished: go on with `modeflow fit ... --resume`"
                if unfinished
                else "it is not a run folder of modeflow fit"
            )
            raise ModelFileError(f"'{path}' holds no {MODEL_FILE}: {hint}")
        return inside
    if not file.exists():
        raise ModelFileError(f"there is no model at '{path}': give a run folder or a .safetensors file")
    return file


def _raw_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, read by its definition: 8 bytes of length, then JSON."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            fits = 2 <= length <= min(size - 8, _LARGEST_HEADER)
            text = stream.read(length) if fits else b""
    except OSError as error:
        raise ModelFileError(f"'{file}' cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text)
        spans = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        # Only now: a header's length may begin with the byte that begins a pickle, which read so is huge.
        huge = int.from_bytes(start, "little") > _LARGEST_HEADER
        if (start[:1] == b"\x80" and huge) or start[:4] == b"PK\x03\x04":
            raise ModelFileError(
                f"'{file}' looks like a pickle, which could run code when loaded; it was not opened. "
                "modeflow reads models that it saved itself (.safetensors)"
            ) from error
        raise ModelFileError(f"'{file}' is not a model file, or it is damaged or cut short") from error
    if size != 8 + length + max(spans, default=0):
        raise ModelFileError(f"'{file}' is damaged: it holds {size} bytes, its header promises others")
    return cast(dict[str, Any], header)


def stored_params(estimator: Any) -> dict[str, Any]:
    """The parameters of an estimator as plain data; a generator of random numbers is not kept."""
    params = estimator.get_params(deep=False)
    if isinstance(params.get("random_state"), np.random.RandomState):
        params["random_state"] = None
    return {name: plain_value(value) for name, value in params.items()}


def plain_value(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, and groups of parameters as mappings, so that they are JSON."""
    if isinstance(value, Options):
        return value.to_dict()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list, np.ndarray)):
        return [plain_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain_value(v) for k, v in value.items()}
    return value


class Stored:
    """An estimator that can be saved; its subclasses are found again by their names."""

    _classes: ClassVar[dict[str, type[Stored]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Stored._classes.setdefault(cls.__name__, cls)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load what `save` wrote, or the model of a run folder. Executes no code from the file.

        Raises:
            ModelFileError: missing, damaged, foreign, from a newer version, or of another class.
        """
        loaded = load_estimator(path)
        if not isinstance(loaded, cls):
            name = type(loaded).__name__
            raise ModelFileError(f"'{path}' holds a {name}, not a {cls.__name__}: use {name}.load")
        return loaded

    @classmethod
    def _restore(cls, header: dict[str, Any], state: dict[str, torch.Tensor], path: str) -> Self:
        raise NotImplementedError


def load_estimator(path: str | os.PathLike[str]) -> Any:
    """Load a fitted estimator from a model file or a run folder.

    Raises:
        ModelFileError: missing, damaged, foreign, or from a newer version.
    """
    header = read_header(path)
    kind = Stored._classes.get(str(header.get("class")))
    if kind is None:
        raise ModelFileError(f"'{path}' holds a model of unknown class {header.get('class')!r}")
    return kind._restore(header, read_tensors(model_path(path)), str(path))


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, ModeflowError) as error:
        raise ModelFileError(f"'{file}' is damaged: {error}") from error
