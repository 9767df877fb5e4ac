"""Which pixels of images are hidden: by a rule, or by a mask in a file."""

from __future__ import annotations

import os

import numpy as np

from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["HIDDEN", "hidden_pixels", "pixels_without", "read_mask"]

#: Rules by name; beside them ``random:SHARE``.
HIDDEN = ("left", "right", "top", "bottom", "centre")


def hidden_pixels(shape: tuple[int, ...], hide: str, seed: int = 0) -> np.ndarray:
    """Which pixels are hidden, boolean, of images ``(N, H, W, C)``; all channels of a pixel together.

    Arguments:
        shape: ``(N, H, W, C)``.
        hide: the ``left``, ``right``, ``top`` or ``bottom`` half, the ``centre`` (half the height and width),
            or ``random:0.5``, every pixel of every image by itself with this probability.
        seed: of what is random.

    Raises:
        ConfigError: for another rule.
    """
    n, height, width, channels = shape
    hidden = np.zeros((n, height, width, 1), dtype=bool)
    name, _, share = hide.partition(":")
    rows, columns = slice(None), slice(None)
    if name == "random":
        try:
            p = float(share)
        except ValueError:
            p = 0.0
        if not 0 < p < 1:
            raise ConfigError(f"random needs a share between 0 and 1, such as random:0.5, received '{hide}'")
        hidden = np.random.default_rng(seed).random((n, height, width, 1)) < p
        return np.repeat(hidden, channels, 3)
    if hide == "left":
        columns = slice(0, width // 2)
    elif hide == "right":
        columns = slice(width - width // 2, None)
    elif hide == "top":
        rows = slice(0, height // 2)
    elif hide == "bottom":
        rows = slice(height - height // 2, None)
    elif hide == "centre":
        rows = slice(height // 4, height // 4 + height // 2)
        columns = slice(width // 4, width // 4 + width // 2)
    else:
        raise ConfigError(
            f"'{hide}' is no rule for hidden pixels{nearest(hide, HIDDEN)}: one of {', '.join(HIDDEN)}, or "
            "random:0.5"
        )
    hidden[:, rows, columns] = True
    return np.repeat(hidden, channels, 3)


def read_mask(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """A mask from a .npy file, true (or not zero) where pixels are hidden, of images ``(N, H, W, C)``.

    Arguments:
        path: of an array ``(H, W)``, ``(N, H, W)`` or ``(N, H, W, C)``. shape: ``(N, H, W, C)``.

    Raises:
        DataError: no such array, or of another shape.
    """
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"mask '{os.fspath(path)}' cannot be read as a .npy array: {error}") from error
    given = mask.shape
    mask = mask[None, ..., None] if mask.ndim == 2 else mask[..., None] if mask.ndim == 3 else mask
    if mask.dtype.kind not in "buif" or (mask.dtype.kind == "f" and not np.isfinite(mask).all()):
        raise DataError(f"mask '{os.fspath(path)}' must hold numbers, not zero where pixels are hidden")
    try:
        return np.broadcast_to(mask != 0, shape).copy()
    except ValueError:
        raise DataError(
            f"mask '{os.fspath(path)}' has shape {given}: images of {shape[:3]} need (height, width), "
            "(N, height, width) or (N, height, width, channels)"
        ) from None


def pixels_without(
    shape: tuple[int, ...], hide: str | None, mask: str | os.PathLike[str] | None, seed: int = 0
) -> np.ndarray:
    """Which pixels are hidden, by the rule or the file that is given, ``(N, H, W, C)``.

    Arguments:
        shape, hide, seed: as in `hidden_pixels`. mask: as in `read_mask`.

    Raises:
        ConfigError: for none of the two, or both. DataError: no pixel is hidden.
    """
    if (hide is None) == (mask is None):
        raise ConfigError("say which pixels are hidden, by one: hide left (or random:0.5), or mask FILE.npy")
    hidden = hidden_pixels(shape, hide, seed) if hide is not None else read_mask(mask or "", shape)
    if not hidden.any():
        raise DataError("no pixel is hidden: there is nothing to fill")
    return hidden
