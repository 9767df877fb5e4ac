"""What `anomalies` shows of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["picture_of", "show_odd"]


def picture_of(out: str | None) -> Path | None:
    """Where the picture lies: beside the table of p-values; None without one, or where that is stdout.

    Raises:
        DataError: it cannot be written there.
    """
    from modeflow.data import check_writable

    return None if out in (None, "-") else check_writable(Path(str(out)).expanduser().with_suffix(".png"))


def show_odd(picture: Path, estimator: Any, images: np.ndarray) -> None:
    """Write images ``(N, H, W, C)``, the oddest first, and below each what z alone gives back, if any."""
    from modeflow.data import image_grid, save_png

    shown, columns = [images], min(10, len(images))
    if estimator.latent_.describe().kind != "none":
        back = estimator.reconstruct(images)
        rows = range(0, len(images), columns)
        shown = [part[i : i + columns] for i in rows for part in (images, back)]
    scale = max(1, 48 // images.shape[1])
    grid = image_grid(np.concatenate(shown), columns, estimator.domain_.levels, scale=scale)
    save_png(picture, grid)
