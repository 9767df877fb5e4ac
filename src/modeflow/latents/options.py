"""What the options of all latents have in common: they fill in schedules, and make a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents.base import LatentModel
from modeflow.options import Options

__all__ = ["ImageLatent", "ImageShape", "Images", "LatentOptions", "TableLatent", "check_widths"]

#: Channels, height and width.
ImageShape = tuple[int, int, int]


class LatentOptions(Options):
    """Options of a latent."""

    @property
    def takes_missing(self) -> bool:
        """Whether a likelihood without a flow may be given rows with missing cells."""
        return False

    def for_steps(self, steps: int) -> Self:
        """The same, with schedules that were left open (None) filled in for so many optimiser steps."""
        return self


class TableLatent(LatentOptions):
    """Options of a latent of tables."""

    #: Whether it takes rows of codes, angles and missing cells (`Feature`), not of reals alone.
    mixed: ClassVar[bool] = False

    def model(self, features: Any, n_states: int, likelihood: Callable[[int], Density]) -> LatentModel:
        """The model of rows ``(N, features)``.

        Arguments:
            features: of a row; one that is `mixed` also takes a list of what each is.
            n_states: K, of a latent that has states.
            likelihood: p(x|z) by the width of its context (of a `mixed` one: of the reals); made first.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Images:
    """What a latent is told of images: shape, levels of a pixel, and how often a map of them is halved."""

    shape: ImageShape
    levels: int
    halvings: int

    def grid(self, channels: int) -> ImageShape:
        """The shape of a map of so many channels.

        Raises:
            ConfigError: if height or width cannot be halved so often.
        """
        _, height, width = self.shape
        size = 2**self.halvings
        if height % size or width % size:
            raise ConfigError(f"an image of {height} x {width} cannot be halved {self.halvings} times")
        return channels, height // size, width // size


class ImageLatent(LatentOptions):
    """Options of a latent of images."""

    #: Images evaluated at once where no gradient is needed.
    chunk_rows: ClassVar[int] = 256

    def model(self, images: Images, likelihood: Callable[[int, ImageShape | None], Density]) -> LatentModel:
        """The model of images.

        Arguments:
            images: what they are like.
            likelihood: p(x|z) by the width of its context, and its shape where it is a map; made first.
        """
        raise NotImplementedError


def check_widths(name: str, value: Any) -> None:
    """Raise `ConfigError` unless the value lists the widths of hidden layers."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not all(
        isinstance(w, Integral) and not isinstance(w, bool) and int(w) > 0 for w in value
    ):
        raise ConfigError(f"{name} must list the hidden widths, received {value!r}")
