"""Images of whole numbers, of one size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modeflow.data import (
    ImageSet,
    ImageSplit,
    as_images,
    check_writable,
    image_grid,
    is_image_source,
    load_images,
    pixels_without,
    save_png,
    split_images,
)
from modeflow.data.table import atomic_write
from modeflow.domains.base import Domain, Parts, RowsToScore, Trivial
from modeflow.errors import ConfigError, DataError
from modeflow.metrics import BitsPerDim, summarise_bits
from modeflow.transforms import Identity
from modeflow.transforms.base import Exactness, Transform

__all__ = ["ImageDomain"]

#: Endings that samples are written with: the picture, and the array.
_SUFFIXES = (".png", ".npy")
#: Most images that one picture shows.
_PICTURED = 400
#: Bits a dimension that are no cause for a warning.
_LOST = 0.01


@dataclass(frozen=True)
class ImageDomain(Domain):
    """Images ``(channels, height, width)`` whose pixels are whole numbers 0 to ``levels - 1``.

    As arrays they are ``(N, H, W, C)``; the noise that a density of real numbers needs is the model's own.
    Pixels may be hidden (NaN) where the model takes that; bits per dimension are then those of what is seen,
    divided by all dimensions.
    """

    shape: tuple[int, int, int]
    levels: int = 256

    name: ClassVar[str] = "image"
    word: ClassVar[str] = "image"
    measure: ClassVar[str] = "bits_per_dim"
    units: ClassVar[str] = "bits per dimension, what z costs included"
    shown: ClassVar[str] = "bits_per_dim"
    costs: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {"size": None, "bits": None, "hide": None, "mask": None}
    block_rows: ClassVar[int] = 256
    drawn: ClassVar[int] = 64
    scores_training: ClassVar[bool] = False
    pictured: ClassVar[bool] = True

    @property
    def dims(self) -> int:
        """Channels times height times width."""
        return math.prod(self.shape)

    # -- sources ---------------------------------------------------------------------------------

    @classmethod
    def accepts(cls, source: Any, settings: Mapping[str, Any]) -> bool:
        return is_image_source(source)

    @classmethod
    def load(cls, settings: Mapping[str, Any]) -> ImageSet:
        source = settings["data"]
        if source is None:
            raise ConfigError("no data: give DATA, a folder of images or a name listed by `modeflow data`")
        return load_images(
            source,
            n=settings["rows"],
            seed=settings["seed"],
            size=settings["size"],
            bits=settings["bits"],
        )

    @classmethod
    def split(cls, data: ImageSet, settings: Mapping[str, Any]) -> ImageSplit:
        for name in ("test", "validation"):
            if isinstance(settings[name], str):
                raise ConfigError(
                    f"{name} of images must be a share, such as 0.1, received '{settings[name]}'"
                )
        how = settings["seed"], settings["validation"], settings["test"]
        parts, hidden = split_images(data, *how), cls.hidden(data, settings)
        if len(parts.test) < 2:
            raise DataError("one test image has no standard error: give more images, or a larger test share")
        return parts if hidden is None else parts.without(split_images(hidden, *how))

    @staticmethod
    def hidden(data: ImageSet, settings: Mapping[str, Any]) -> ImageSet | None:
        """Where pixels of the images, and of a published test set, are hidden (not 0) from a model; None for
        nowhere.

        Raises:
            ConfigError, DataError: as `modeflow.data.pixels_without`.
        """
        hide, mask, seed = settings["hide"], settings["mask"], settings["seed"]
        if hide is None and mask is None:
            return None
        images, test = (
            None if each is None else pixels_without(each.shape, hide, mask, seed + i).astype(np.uint8)
            for i, each in enumerate((data.images, data.test))
        )
        assert images is not None
        return replace(data, images=images, test=test)

    @classmethod
    def prepare(cls, estimator: Any, data: ImageSet) -> None:
        estimator.levels = data.levels

    @classmethod
    def some(cls, part: np.ndarray, count: int) -> np.ndarray:
        return part[:count]

    def read(self, source: str, settings: Mapping[str, Any], **how: Any) -> RowsToScore:
        """Images prepared as those of the run: the test set of a published set, else all."""
        given = [name for name, value in how.items() if value]
        if given:
            raise ConfigError(f"{given[0]} is of tables: images have none")
        loaded = load_images(source, size=settings["size"], bits=settings["bits"])
        images = loaded.images if loaded.test is None else loaded.test
        return RowsToScore(images, np.arange(len(images)), len(images), {}, loaded.notes)

    # -- what a model is fitted to ---------------------------------------------------------------

    @classmethod
    def learn(cls, estimator: Any, X: Any) -> tuple[Self, np.ndarray]:
        images = as_images(X, estimator.levels, "X", holes=True)
        _, height, width, channels = images.shape
        return cls((channels, height, width), estimator.levels), images

    def validate(self, estimator: Any, X: Any) -> np.ndarray:
        return self._checked(X, "X")

    def validation(self, X: Any) -> np.ndarray:
        return self._checked(X, "validation")

    def _checked(self, X: Any, what: str) -> np.ndarray:
        images = as_images(X, 256, what, holes=True)
        channels, height, width = self.shape
        if images.shape[1:] != (height, width, channels):
            raise DataError(
                f"{what}: images are {images.shape[1]} x {images.shape[2]} with {images.shape[3]} channels, "
                f"those of the model {height} x {width} with {channels}"
            )
        return as_images(images, self.levels, what, holes=True)

    def to_tensor(self, values: np.ndarray) -> Tensor:
        """``(N, H, W, C)`` to bytes ``(N, C, H, W)``, which the model casts; numbers if some are hidden."""
        return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))

    def from_tensor(self, x: Tensor) -> np.ndarray:
        """``(N, C, H, W)`` of whole numbers to uint8 ``(N, H, W, C)``."""
        return np.ascontiguousarray(x.cpu().numpy().transpose(0, 2, 3, 1)).astype(np.uint8)

    def preprocessing(self) -> Transform:
        return Identity()

    def summarise(
        self,
        log_prob: np.ndarray,
        kind: Exactness,
        cost: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> BitsPerDim:
        spent = np.zeros(len(log_prob)) if cost is None else cost
        return summarise_bits(log_prob, spent, kind, self.dims, weight)

    @staticmethod
    def likelihood(row: Mapping[str, Any]) -> BitsPerDim:
        return BitsPerDim.from_dict(row)

    def scores(self, log_prob: np.ndarray, cost: np.ndarray | None, kind: Exactness) -> dict[str, np.ndarray]:
        found = {
            f"log_probability_{kind.replace(' ', '_')}_nats": log_prob,
            "bits_per_dim": self.told(log_prob),
        }
        return found if cost is None else {**found, "latent_cost_nats": cost}

    def told(self, log_prob: np.ndarray) -> np.ndarray:
        return -log_prob / (self.dims * np.log(2))

    def trivial(self, train: np.ndarray, rows: np.ndarray, weight: np.ndarray | None) -> Trivial:
        seen = (~np.isnan(rows)).reshape(len(rows), -1).sum(1)
        return Trivial(
            -seen * math.log(self.levels),
            f"pixels drawn uniformly from their {self.levels} values",
            self.dims * math.log(2),
            _LOST,
            "bits per dimension: train for longer (max_epochs), with another learning_rate, or on more "
            "images",
        )

    def to_dict(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "levels": self.levels}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        channels, height, width = (int(n) for n in content["shape"])
        return cls((channels, height, width), int(content["levels"]))

    # -- results and samples ---------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        return self.to_dict()

    @staticmethod
    def size_text(result: Mapping[str, Any]) -> str:
        rows, (channels, height, width) = result["rows"], result["shape"]
        hidden = f", {result['hidden']:.1%} of the pixels hidden" if result.get("hidden") else ""
        return (
            f"{rows['train']} training, {rows['validation']} validation, {rows['test']} test images of "
            f"{channels} x {height} x {width}, {result['levels']} levels{hidden}"
        )

    def scale(self, values: np.ndarray) -> np.ndarray:
        return np.array(self.levels - 1.0)

    def measures(self, estimator: Any, data: Any, parts: Parts) -> dict[str, Any]:
        size = sum(p.numel() for p in estimator.latent_.likelihood.parameters())
        hidden = float(np.isnan(parts.test).mean())
        return {"likelihood_parameters": size, **({"hidden": hidden} if hidden else {})}

    def check_target(self, out: str | None, with_state: bool) -> None:
        if not out:
            raise ConfigError("samples are images: say where to, for instance -o samples.png")
        target = Path(out)
        if target.suffix.lower() not in _SUFFIXES:
            raise ConfigError(f"-o must end in .png or .npy (both are written), received '{out}'")
        for suffix in _SUFFIXES:
            check_writable(target.with_suffix(suffix))
        if with_state:
            raise ConfigError(
                "--with-state is of tables: `modeflow assign` writes the codes or states of images"
            )

    def write(self, out: str, samples: Any, z: np.ndarray | None) -> tuple[str, dict[str, Any]]:
        target = Path(out)
        shown = samples[:_PICTURED]
        scale = max(1, 256 // (samples.shape[1] * max(1, round(len(shown) ** 0.5))))
        picture = save_png(target.with_suffix(".png"), image_grid(shown, levels=self.levels, scale=scale))
        array = atomic_write(target.with_suffix(".npy"), lambda file: _save_array(file, samples))
        where = {"picture": str(picture), "array": str(array)}
        return f"{len(samples)} images, as a picture and as {array}", where


def _save_array(file: Path, images: np.ndarray) -> None:
    with file.open("wb") as stream:  # by name, numpy would add an ending of its own
        np.save(stream, images, allow_pickle=False)
