"""Arrays in files: .npy, .npz and .h5, read without unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data._numbers import rounded_message
from modeflow.data._part import current_part
from modeflow.errors import DataError, nearest

# Names under which an archive's table is looked for, in this order.
_USUAL_KEYS = ("data", "X", "x", "train")


def read_array(
    file: Path, kind: str, array: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str | None]:
    """Read one table from .npy, .npz or .h5 without ever unpickling.

    Returns:
        float64 array (N, D); its column names, or None where the file has none; and a sentence where
        float64 does not hold its numbers exactly.

    Raises:
        DataError: damaged file, pickled objects, no such array, or values that are no table of numbers.
    """
    names: Any = None
    if kind == ".npy":
        raw = _numpy_load(file)
        label = f"'{file}'"
    elif kind == ".npz":
        with _numpy_load(file) as archive:
            shapes = {key: _npz_shape(archive, key, file) for key in archive.files}
            key = _choose(shapes, array, file)
            raw, label = _npz_member(archive, key, file), f"'{file}' array '{key}'"
            if "columns" in shapes and key != "columns":
                names = _npz_member(archive, "columns", file)
    else:
        raw, names, label = _read_h5(file, array)
    values, doubt = _as_matrix(raw, label)
    if names is None or np.shape(names) != (values.shape[1],):
        return values, None, doubt
    return values, tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names), doubt


def _numpy_load(file: Path) -> Any:
    part = current_part(file)
    try:
        if part is not None and part.rows is not None:
            return np.array(np.load(file, mmap_mode="r", allow_pickle=False)[slice(*part.rows)])
        found = np.load(file, allow_pickle=False)
    except Exception as error:
        raise DataError(_numpy_complaint(file, error)) from error
    # numpy looks at what a file begins with, and not at its name.
    if isinstance(found, np.ndarray) == (file.suffix.lower() == ".npz"):
        raise DataError(
            f"'{file}' holds what its name does not say: .npy is one array, .npz an archive of them"
        )
    return found


def _npz_member(archive: Any, key: str, file: Path) -> np.ndarray:
    try:
        return np.asarray(archive[key])
    except Exception as error:
        raise DataError(f"array '{key}' of {_numpy_complaint(file, error)}") from error


def _npz_shape(archive: Any, key: str, file: Path) -> tuple[int, ...] | None:
    """Shape of one array, or None where it cannot be read (pickled objects, for example).

    Reads the whole array: archives that hold one table beside much else are rare.
    """
    try:
        return tuple(archive[key].shape)
    except ValueError:
        return None
    except Exception as error:
        raise DataError(_numpy_complaint(file, error)) from error


def _numpy_complaint(file: Path, error: Exception) -> str:
    if isinstance(error, ValueError) and "allow_pickle" in str(error):
        # numpy says this both of object arrays and of files that are no numpy files at all.
        return f"'{file}' is no numpy file or holds pickled objects; save numbers with numpy.save"
    return f"'{file}' is damaged or not a numpy file ({first_line(error)})"


def _choose(shapes: dict[str, tuple[int, ...] | None], array: str | None, file: Path) -> str:
    listed = ", ".join(f"{k} {s if s is not None else 'objects'}" for k, s in shapes.items())
    if not shapes:
        raise DataError(f"'{file}' holds no arrays")
    if array is not None:
        if array not in shapes:
            hint = nearest(array, shapes)
            raise DataError(f"'{file}' has no array '{array}'{hint}; it holds {listed}")
        return array
    for key in _USUAL_KEYS:
        shape = shapes.get(key)
        if shape is not None and len(shape) in (1, 2):
            return key
    tables = [k for k, shape in shapes.items() if shape is not None and len(shape) == 2]
    if len(tables) == 1:
        return tables[0]
    if len(shapes) == 1:
        return next(iter(shapes))
    raise DataError(f"'{file}' holds {listed}; say which with array=...")


def _read_h5(file: Path, array: str | None) -> tuple[np.ndarray, Any, str]:
    import h5py

    try:
        with h5py.File(file, "r") as handle:
            shapes: dict[str, tuple[int, ...] | None] = {}

            def visit(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    shapes[name] = item.shape

            handle.visititems(visit)
            key = _choose(shapes, array, file)
            names = handle[key].attrs.get("columns")
            return np.asarray(handle[key][()]), names, f"'{file}' array '{key}'"
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"'{file}' cannot be read as hdf5 ({first_line(error)})") from error


def _as_matrix(raw: np.ndarray, label: str) -> tuple[np.ndarray, str | None]:
    if raw.dtype.kind in "mM":
        raise DataError(f"{label} holds '{raw.dtype}' values; turn times into numbers, such as days")
    if raw.dtype.names:
        raise DataError(f"{label} has named fields; save its numbers as one array (rows, columns)")
    if raw.dtype.kind not in "biuf":
        raise DataError(f"{label} holds '{raw.dtype}' values, not numbers; save a numeric array")
    if raw.ndim == 1:
        raw = raw[:, None]
    if raw.ndim != 2:
        raise DataError(f"{label} has shape {raw.shape}; a table needs (rows, columns)")
    values = raw.astype(np.float64)
    doubt = None
    if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8:
        big = np.abs(values) >= 2.0**53
        if big.any():
            whole, stored = values[big], raw[big]
            wrong = sum(int(a) != int(b) for a, b in zip(whole[:1000], stored[:1000], strict=True))
            if wrong:
                columns = np.flatnonzero(big.any(axis=0))[:6].tolist()
                doubt = f"{label}, column {', '.join(map(str, columns))}: " + rounded_message(
                    wrong, min(len(whole), 1000)
                )
    return values, doubt


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
