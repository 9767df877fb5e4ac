"""Options of a latent of codes, of tables and of images."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from modeflow.densities.base import Density
from modeflow.densities.bridge_codes import BridgeCodes
from modeflow.densities.sequences import GPT2Prior, IndependentCodes, MaskedCodes, SequencePrior
from modeflow.errors import ConfigError, nearest
from modeflow.latents.codes.model import SequentialLatentModel
from modeflow.latents.codes.quantizer import VectorQuantizer
from modeflow.latents.codes.two_levels import TwoLevelEncoder, TwoLevelModel, TwoLevelQuantizer
from modeflow.latents.options import ImageLatent, Images, ImageShape, LatentOptions, TableLatent, check_widths
from modeflow.latents.schedules import Schedule, whole_steps
from modeflow.nets.encoder import ConvEncoder, ConvVectorEncoder
from modeflow.nets.mlp import MLP
from modeflow.options import check_choice, check_sizes

__all__ = ["CodesOptions", "TableCodes"]

#: Share of the first stage's steps in which the codes move.
_CODEBOOK = 0.4
#: What a prior of codes is given beside its options.
_GIVEN = ("self", "n_codes", "length", "quantizer")
#: Priors of codes by name.
_PRIORS: Mapping[str, type[SequencePrior]] = {
    "gpt2": GPT2Prior,
    "masked": MaskedCodes,
    "independent": IndependentCodes,
    "diffusion-bridge": BridgeCodes,
}
#: Stages that can follow one another.
_ORDERS = (("joint",), ("flow", "prior"), ("flow", "prior", "joint"))


@dataclass(kw_only=True)
class _Codes(LatentOptions):
    """What codes of tables and of images share.

    Arguments:
        n_codes: V, how many codes there are.
        code_features: dimension of a code.
        prior: of the codes, "gpt2" (a Transformer), "masked" (a small masked network), "independent", or
            "diffusion-bridge" (over what codes are embedded as, all at once).
        prior_options: of the Transformer, see `modeflow.densities.GPT2Prior`, of the masked network, see
            `modeflow.densities.MaskedCodes`, or of the bridge, see `modeflow.densities.BridgeCodes`.
        sequences: strings over which the bound sums.
        stages: what is fitted, in order, each for `max_epochs`: "joint", or as in the paper
            ["flow", "prior"], first all but the prior, then it alone; or ["flow", "prior", "joint"].
        code_warmup: share of the optimiser steps over which the pressure of the code length on the encoder
            rises; too little and, with few images, all codes become one.
        code_warmup_steps: optimiser steps of that rise; None for the share `code_warmup` of all.
        codebook_steps: optimiser steps after which the codes stand still; None for two fifths of all.
    """

    n_codes: int = 64
    code_features: int = 8
    prior: str = "gpt2"
    prior_options: Mapping[str, Any] | None = None
    sequences: int = 1
    stages: str | Sequence[str] = "joint"
    code_warmup: float = 0.4
    code_warmup_steps: int | None = None
    codebook_steps: int | None = None

    def __post_init__(self) -> None:
        check_sizes(n_codes=self.n_codes, code_features=self.code_features, sequences=self.sequences)
        check_choice("prior", self.prior, _PRIORS)
        self._check_prior_options()
        self._check_stages()
        if not 0 <= self.code_warmup <= 1:
            raise ConfigError(f"code_warmup must lie in [0, 1], received {self.code_warmup!r}")
        for name in ("code_warmup_steps", "codebook_steps"):
            if getattr(self, name) is not None:
                whole_steps(name, getattr(self, name))

    def _check_prior_options(self) -> None:
        given = {} if self.prior_options is None else self.prior_options
        if not isinstance(given, Mapping):
            raise ConfigError(f"prior_options must be a mapping of options, received {given!r}")
        known = [n for n in inspect.signature(_PRIORS[self.prior].__init__).parameters if n not in _GIVEN]
        if given and not known:
            raise ConfigError(f"prior '{self.prior}' has no use for prior_options: leave them out")
        for name in given:
            if name not in known:
                hint, has = nearest(name, known), ", ".join(known)
                raise ConfigError(f"prior_options: {name!r} is not known{hint} (options: {has})")

    def _check_stages(self) -> None:
        for stage in self.in_order:
            if stage not in _ORDERS[-1]:
                raise ConfigError(f"stages may name {', '.join(_ORDERS[-1])}; received {stage!r}")
        if self.in_order not in _ORDERS:
            raise ConfigError("stages must be ['joint'], ['flow', 'prior'] or ['flow', 'prior', 'joint']")

    @property
    def in_order(self) -> tuple[str, ...]:
        """`stages`, one or several."""
        return (self.stages,) if isinstance(self.stages, str) else tuple(self.stages)

    def for_steps(self, steps: int) -> Self:
        lengths: dict[str, Any] = {
            "code_warmup_steps": round(self.code_warmup * steps),
            "codebook_steps": round(_CODEBOOK * steps),
        }
        return replace(self, **{k: v for k, v in lengths.items() if getattr(self, k) is None})

    def _model(
        self,
        length: int,
        density: Density,
        encoder: nn.Module,
        chunk_rows: int,
        quantizer: TwoLevelQuantizer | None = None,
    ) -> SequentialLatentModel:
        one = VectorQuantizer(self.n_codes, self.code_features) if quantizer is None else quantizer
        known: dict[str, Any] = {"quantizer": one} if _PRIORS[self.prior].of_codebook else {}
        prior = _PRIORS[self.prior](self.n_codes, length, **known, **dict(self.prior_options or {}))
        kind = SequentialLatentModel if quantizer is None else TwoLevelModel
        return kind(
            prior,
            density,
            encoder,
            one,
            self.sequences,
            Schedule(0, self.code_warmup_steps or 0, self.codebook_steps),
            self.in_order,
            chunk_rows,
        )


@dataclass(kw_only=True)
class CodesOptions(_Codes, ImageLatent):
    """A sequential latent of images: a map, or a string, of codes.

    Arguments:
        codes_per_image: so many codes, each of the whole image; None for a map of codes, one for each place.
        above: 0, or how often a second map of codes, above that one, is halved once more (VQ-VAE-2).
        encoder_channels: width of the encoder.
    """

    codes_per_image: int | None = None
    above: int = 0
    encoder_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(
            codes_per_image=1 if self.codes_per_image is None else self.codes_per_image,
            encoder_channels=self.encoder_channels,
        )
        whole_steps("above", self.above)
        if self.above and self.codes_per_image is not None:
            raise ConfigError("above is of a map of codes: leave out codes_per_image")
        if self.above and _PRIORS[self.prior].of_codebook:
            raise ConfigError(f"prior='{self.prior}' is of one map of codes: leave out above")

    def model(
        self, images: Images, likelihood: Callable[[int, ImageShape | None], Density]
    ) -> SequentialLatentModel:
        grid = images.grid(self.code_features)
        if self.above:
            return self._two_levels(images, likelihood, grid)
        of_map = self.codes_per_image is None
        length = grid[1] * grid[2] if of_map else int(self.codes_per_image or 1)
        density = likelihood(length * self.code_features, grid if of_map else None)
        sizes = (self.encoder_channels, images.halvings, images.levels)
        encoder: nn.Module
        if of_map:
            encoder = ConvEncoder(images.shape[0], self.code_features, *sizes)
        else:
            net = ConvVectorEncoder(images.shape, length * self.code_features, *sizes)
            encoder = nn.Sequential(net, nn.Unflatten(1, (length, self.code_features)))
        return self._model(length, density, encoder, self.chunk_rows)

    def _two_levels(
        self, images: Images, likelihood: Callable[[int, ImageShape | None], Density], grid: ImageShape
    ) -> SequentialLatentModel:
        size = 2**self.above
        if grid[1] % size or grid[2] % size:
            raise ConfigError(f"a map of {grid[1]} x {grid[2]} codes cannot be halved {self.above} times")
        quantizer = TwoLevelQuantizer(self.n_codes, self.code_features, grid, self.above)
        density = likelihood(2 * math.prod(grid), (2 * grid[0], *grid[1:]))
        sizes = (self.encoder_channels, images.halvings, images.levels, self.above)
        encoder = TwoLevelEncoder(images.shape, quantizer, *sizes)
        return self._model(sum(quantizer.lengths), density, encoder, self.chunk_rows, quantizer)


@dataclass(kw_only=True)
class TableCodes(_Codes, TableLatent):
    """A sequential latent of tables: a string of codes a row.

    Arguments:
        codes: L, how many codes a row has.
        encoder_features: hidden widths of the encoder.
    """

    n_codes: int = 16
    code_features: int = 4
    prior: str = "masked"
    codes: int = 4
    encoder_features: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(codes=self.codes)
        check_widths("encoder_features", self.encoder_features)

    def model(
        self, features: int, n_states: int, likelihood: Callable[[int], Density]
    ) -> SequentialLatentModel:
        length, size = int(self.codes), int(self.codes) * int(self.code_features)
        density = likelihood(size)
        net = MLP(features, size, tuple(self.encoder_features))
        encoder = nn.Sequential(net, nn.Unflatten(1, (length, int(self.code_features))))
        return self._model(length, density, encoder, 4096)
