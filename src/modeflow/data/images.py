"""Images: from folders and arrays to whole numbers ``(N, H, W, C)`` and back.

Pixels stay the whole numbers they were stored as. A density of real numbers needs noise on them
(dequantisation); that is the model's business, and part of its likelihood.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.data.table import atomic_write, check_writable
from modeflow.errors import ConfigError, DataError
from modeflow.progress import track

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageSet",
    "ImageSplit",
    "as_images",
    "image_grid",
    "read_image_folder",
    "save_png",
    "split_images",
]

#: File endings that count as images in a folder.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of whole numbers, with their labels where there are any.

    Attributes:
        name: of the set, or its path.
        images: ``(N, H, W, C)``, uint8, values 0 to ``levels - 1``; the training images where a test set is
            published.
        labels: ``(N,)`` or None. test, test_labels: the published test set, or None.
        levels: number of values of a pixel, 256 for eight bits.
        classes: names of the labels, or empty.
        notes: what was done to the images, and what to know before comparing with a paper.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    levels: int = 256
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", as_images(self.images, self.levels, self.name))
        if self.test is not None:
            object.__setattr__(self, "test", as_images(self.test, self.levels, self.name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    def with_bits(self, bits: int) -> ImageSet:
        """The same images with the `bits` highest bits of every pixel, ``2 ** bits`` levels.

        Raises:
            ConfigError: if `bits` is not a whole number of 1 to 8, or the images have not 256 levels.
        """
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
            raise ConfigError(f"bits must be a whole number of 1 to 8, received {bits!r}")
        if bits == 8:
            return self
        if self.levels != 256:
            raise ConfigError(f"'{self.name}' has {self.levels} levels a pixel: bits is for images of 256")
        test = None if self.test is None else self.test >> (8 - bits)
        notes = (*self.notes, f"{bits} bits of 8 a pixel")
        return replace(self, images=self.images >> (8 - bits), test=test, levels=2**bits, notes=notes)

    def subset(self, n: int | None, seed: int = 0) -> ImageSet:
        """`n` random (training) images; a published test set stays whole."""
        if n is None or n == len(self.images):
            return self
        if not 1 <= n <= len(self.images):
            raise DataError(f"'{self.name}' has {len(self.images)} images, {n} were asked for")
        rows = np.sort(np.random.default_rng(seed).choice(len(self.images), n, replace=False))
        labels = None if self.labels is None else self.labels[rows]
        notes = (*self.notes, f"random {n} of {len(self.images)} images (seed {seed})")
        return replace(self, images=self.images[rows], labels=labels, notes=notes)


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Training, validation and test images with their labels (None where there are none)."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] = (None, None, None)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Images in each part."""
        return len(self.train), len(self.validation), len(self.test)

    def without(self, hidden: ImageSplit) -> ImageSplit:
        """The same with pixels hidden (NaN) where those of `hidden`, of the same parts, are not 0."""
        train, validation, test = (
            np.where(holes != 0, np.float32(np.nan), images.astype(np.float32))
            for images, holes in (
                (self.train, hidden.train), (self.validation, hidden.validation), (self.test, hidden.test),
            )
        )  # fmt: skip
        return ImageSplit(train, validation, test, self.labels)


def split_images(data: ImageSet, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> ImageSplit:
    """Split at random; a published test set is kept, and validation images are taken from the others.

    Arguments:
        data: the images. seed: of the permutation.
        validation, test: fractions in (0, 1); `test` is not used where a test set is published.

    Raises:
        ConfigError: fractions out of range.
        DataError: a part would be empty.
    """
    for name, fraction in (("validation", validation), ("test", test)):
        if not (isinstance(fraction, (int, float)) and 0 < fraction < 1):
            raise ConfigError(f"{name}={fraction} must be a fraction between 0 and 1")
    n = len(data.images)
    order = np.random.default_rng(seed).permutation(n)
    n_test = 0 if data.test is not None else round(test * n)
    n_validation = round(validation * n)
    if n_validation < 1 or n - n_validation - n_test < 1 or (data.test is None and n_test < 1):
        raise DataError(f"{n} images are too few to split: a part would be empty; add images")
    held, rest = order[:n_test], order[n_test:]
    validation_rows, train_rows = np.sort(rest[:n_validation]), np.sort(rest[n_validation:])
    labels = data.labels

    def pick(rows: np.ndarray) -> np.ndarray | None:
        return None if labels is None else labels[rows]

    tested = data.test if data.test is not None else data.images[np.sort(held)]
    test_labels = data.test_labels if data.test is not None else pick(np.sort(held))
    return ImageSplit(
        data.images[train_rows],
        data.images[validation_rows],
        tested,
        (pick(train_rows), pick(validation_rows), test_labels),
    )


def as_images(values: Any, levels: int = 256, source: str = "images", holes: bool = False) -> np.ndarray:
    """Check images; return them as uint8 ``(N, H, W, C)``, or as float32 where pixels are hidden (NaN).

    Arguments:
        values: whole numbers 0 to ``levels - 1``, ``(N, H, W)`` or ``(N, H, W, C)`` with 1 to 4 channels.
        levels: number of values of a pixel, at most 256.
        source: for messages. holes: whether pixels may be hidden.

    Raises:
        DataError: another shape, no images, an image of hidden pixels alone, or pixels that are no whole
            numbers of the range.
    """
    if not 2 <= levels <= 256:
        raise ConfigError(f"levels must be 2 to 256, received {levels}")
    images = np.asarray(values)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not len(images) or min(images.shape) < 1:
        raise DataError(
            f"'{source}': images need shape (N, height, width) or (N, height, width, channels) with N of 1 "
            f"or more, received {np.shape(values)}"
        )
    if images.shape[-1] > 4:
        hint = "; move the channels to the end" if images.shape[1] <= 4 else ""
        raise DataError(f"'{source}': {images.shape[-1]} channels in images of {images.shape[1:]}{hint}")
    if images.dtype == np.bool_:
        images = images.astype(np.uint8)
    if images.dtype.kind not in "uif":
        raise DataError(f"'{source}': pixels must be numbers, received {images.dtype}")
    missing = np.isnan(images) if holes and images.dtype.kind == "f" else np.zeros(1, bool)
    if missing.any():
        if (empty := missing.reshape(len(images), -1).all(1)).any():
            raise DataError(f"'{source}': all pixels of image {int(empty.argmax()) + 1} are hidden")
        seen = as_images(np.where(missing, 0.0, images), levels, source)
        return np.where(missing, np.float32(np.nan), seen.astype(np.float32))
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DataError(f"'{source}': there are pixels that are no finite numbers")
    if images.dtype.kind == "f" and not (images == np.floor(images)).all():
        raise DataError(
            f"'{source}': pixels must be whole numbers 0 to {levels - 1} as they were stored, received "
            f"fractions (smallest value {images.min():.3g}, largest {images.max():.3g}); the model "
            "scales them and adds the noise that its likelihood accounts for"
        )
    low, high = images.min(), images.max()
    if low < 0 or high >= levels:
        raise DataError(
            f"'{source}': pixels go from {low:g} to {high:g}; with {levels} levels they are 0 to {levels - 1}"
        )
    return np.ascontiguousarray(images.astype(np.uint8, copy=False))


# -- folders -----------------------------------------------------------------------------------


def read_image_folder(path: str | os.PathLike[str], size: int | None = None) -> ImageSet:
    """Read all images below a folder; the folders directly inside it are the classes, where there are any.

    Arguments:
        path: the folder.
        size: cut the largest square from the middle of every image and resize it to this; None where all
            have the same size.

    Returns:
        eight-bit images: of one channel if all are grey, else of three.

    Raises:
        DataError: no such folder, no images in it, one that cannot be read, or images of different sizes.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder '{path}'")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"'{path}' holds no images ({', '.join(IMAGE_SUFFIXES)})")
    names = [p.relative_to(folder).parts[0] if p.parent != folder else "" for p in files]
    classes = tuple(sorted(set(names) - {""})) if "" not in names else ()
    images = _read_files(files, size)
    labels = np.array([classes.index(n) for n in names]) if len(classes) > 1 else None
    notes = (f"largest square from the middle, resized to {size} x {size}",) if size else ()
    return ImageSet(str(path), images, labels, classes=classes if len(classes) > 1 else (), notes=notes)


def _read_files(files: Sequence[Path], size: int | None) -> np.ndarray:
    parts: list[np.ndarray] = []
    first: tuple[int, int] | None = None
    grey = True
    for file in track(files, "read images"):
        with open_image(file) as image:
            grey = grey and image.mode in ("1", "L", "I", "I;16")
            pixels = np.asarray(prepared(image, size))
        first = first or pixels.shape[:2]
        if pixels.shape[:2] != first:
            raise DataError(
                f"'{file}' has {pixels.shape[1]} x {pixels.shape[0]} pixels, '{files[0]}' {first[1]} x "
                f"{first[0]}: images of one model have one size; give size (for instance --set size=32)"
            )
        parts.append(pixels)
    images = np.stack(parts)
    return images[..., :1] if grey else images


def open_image(file: Path) -> Image.Image:
    """Open with Pillow, or say why not."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file)
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"'{file}' cannot be read as an image ({error}); remove or replace it") from error
    return image


def prepared(image: Image.Image, size: int | None) -> Image.Image:
    """Eight-bit RGB; if `size`, the largest square from the middle, resized."""
    from PIL import Image

    rgb = image.convert("RGB")
    if size is None:
        return rgb
    if size < 1:
        raise ConfigError(f"size must be 1 or more, received {size}")
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return rgb.resize((size, size), Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC, box)


# -- pictures ----------------------------------------------------------------------------------


def image_grid(
    images: np.ndarray, columns: int | None = None, levels: int = 256, gap: int = 2, scale: int = 1
) -> np.ndarray:
    """Images side by side, uint8 ``(H, W)`` or ``(H, W, 3)``, on white.

    Arguments:
        images: ``(N, H, W, C)`` of whole numbers. columns: of the grid; near square if None.
        levels: number of values of a pixel. gap: white pixels between images. scale: pixels for each pixel.
    """
    n, height, width, channels = images.shape
    columns = columns or max(1, int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    bright = np.round(images.astype(np.float64) * (255 / (levels - 1))).astype(np.uint8)
    bright = bright.repeat(scale, 1).repeat(scale, 2)
    if channels not in (1, 3):
        bright = bright[..., :1]
    height, width = height * scale, width * scale
    grid = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, bright.shape[-1]), 255, np.uint8
    )
    for i, image in enumerate(bright):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid[..., 0] if grid.shape[-1] == 1 else grid


def save_png(path: str | os.PathLike[str], picture: np.ndarray) -> Path:
    """Write one picture, uint8 ``(H, W)`` or ``(H, W, 3)``, as PNG, atomically.

    Raises:
        DataError: the path cannot be written.
    """
    from PIL import Image

    target = check_writable(path)
    return atomic_write(
        target,
        lambda file: Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG", optimize=True),
    )
