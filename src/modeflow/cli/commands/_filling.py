"""What `inpaint` and `recover` share: the picture of what fills hidden pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands._output import refuse_data
from modeflow.errors import ConfigError

__all__ = ["check_picture", "write_filled"]

#: Images in a picture, and of the grid how many stand beside each other.
_SHOWN, _ACROSS = 24, 4


def check_picture(out: str, data: str | None = None) -> Path:
    """Refuse, before anything is done, where the picture cannot be written, or is DATA."""
    from modeflow.data import check_writable

    target = Path(out).expanduser()
    if target.suffix.lower() not in (".png", ".npy"):
        raise ConfigError(f"-o must end in .png or .npy (both are written), received '{out}'")
    for suffix in (".png", ".npy"):
        refuse_data([str(target.with_suffix(suffix))], [data])
        check_writable(target.with_suffix(suffix))
    return target


def write_filled(
    target: Path, images: np.ndarray, hidden: np.ndarray, filled: np.ndarray, levels: int
) -> tuple[dict[str, Any], list[str]]:
    """Write the filled images, and the picture; what there is to say of them.

    The error is of hidden pixels, beside that of the plainest fill (`_plain`).
    """
    from modeflow.data import image_grid, save_png
    from modeflow.data.table import atomic_write

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # by name, numpy would add an ending of its own
            np.save(stream, filled, allow_pickle=False)

    array = atomic_write(target.with_suffix(".npy"), save)
    given = np.where(hidden, (levels - 1) // 2, images).astype(np.uint8)
    beside = np.stack([given, filled, images], 1)[:_SHOWN].reshape(-1, *images.shape[1:])
    scale = max(1, 48 // images.shape[1])
    columns = 3 * min(_ACROSS, len(images))
    grid = image_grid(beside, columns=columns, levels=levels, scale=scale)
    picture = save_png(target.with_suffix(".png"), grid)
    some = hidden.reshape(len(hidden), -1).any(1)
    guesses = (filled.astype(float), _plain(images, hidden))
    errors = [_errors(guess, images, hidden)[some] for guess in guesses]
    (ours, spread), (other, _) = [(float(e.mean()), float(e.std() / len(e) ** 0.5)) for e in errors]
    share = float(hidden.mean())
    result = {
        "images": len(images), "hidden": share, "picture": str(picture), "array": str(array),
        "absolute_error": {"value": ours, "standard_error": spread, "of_means": other},
    }  # fmt: skip
    lines = [
        f"{len(images)} images, {share:.1%} of the pixels hidden",
        f"absolute error of hidden pixels {ours:.3f} ± {spread:.3f} of {levels} levels "
        f"(means of what is seen: {other:.3f})",
    ]
    return result, lines


def _plain(images: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The mean of a pixel over the images in which it is seen; where it is in none, of what is seen of the
    image."""
    seen = np.where(hidden, 0.0, images)
    count = (~hidden).sum(0)
    of_image = seen.sum((1, 2, 3), keepdims=True) / np.maximum((~hidden).sum((1, 2, 3), keepdims=True), 1)
    return np.where(count > 0, seen.sum(0) / np.maximum(count, 1), of_image)


def _errors(guess: np.ndarray, images: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Of every image the mean absolute error over its hidden pixels."""
    wrong = np.where(hidden, np.abs(guess - images), 0.0).reshape(len(images), -1).sum(1)
    return np.asarray(wrong / np.maximum(hidden.reshape(len(images), -1).sum(1), 1))
