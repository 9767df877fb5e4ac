"""Options of a continuous latent, of tables and of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents.continuous.model import ContinuousLatentModel
from modeflow.latents.continuous.objective import ContinuousELBO, MCMCLikelihood
from modeflow.latents.continuous.start import GeodesicStart
from modeflow.latents.langevin import ChainPosterior, Langevin, LangevinPosterior
from modeflow.latents.options import ImageLatent, Images, ImageShape, LatentOptions, TableLatent, check_widths
from modeflow.latents.posteriors import POSTERIORS, build_posterior
from modeflow.latents.priors import PRIORS, build_prior
from modeflow.nets.encoder import ConvVectorEncoder
from modeflow.options import check_choice, check_sizes

__all__ = ["ContinuousOptions", "ImageContinuous"]

#: Longest warm-up, in steps: early stopping may come soon after.
_LONGEST_WARMUP = 2_000


@dataclass(kw_only=True)
class _Continuous(LatentOptions):
    """What a continuous latent of tables and one of images share.

    Arguments:
        features: dimension L of z.
        posterior: q(z|x), "gaussian", "full-gaussian", "laplace", one by a flow ("iaf", "maf", "nsf",
            "planar", "radial"), one on the unit sphere ("vmf", "power-spherical"), or one by chains
            ("langevin", "encoded-langevin", "amortised-langevin"); see `modeflow.latents.posteriors`.
        prior: p(z), "normal", "mixture", "flow", "diffusion-bridge" or "sphere", see
            `modeflow.latents.priors`; None for "sphere" with a posterior on it, "normal" with any other.
        kl_warmup_steps: optimiser steps over which the weight of the KL term rises to one; None for a quarter
            of all in tables, at most 2,000, and for a tenth in images.
        free_bits: nats of every dimension of z that cost nothing; a flow that can do without z needs them.
        draws: of z, over which the bound averages.
        langevin_steps: of Langevin dynamics; with a posterior by chains, of those (None for 20, 10 of
            "encoded-langevin", 2 of "amortised-langevin"); with another in space, by which z is refined where
            it is read (None for none).
        langevin_step_size: η of z' = z + η ∇ log p(x, z) + √(2η) ξ; None for 0.01, and 0.001 of
            "amortised-langevin"; these and "encoded-langevin" adapt it where `langevin_adjusted`.
        langevin_adjusted: whether each step is accepted or refused by Metropolis; None for no, and yes of
            "encoded-langevin" and "amortised-langevin".
    """

    features: int
    posterior: str = "gaussian"
    prior: str | None = None
    kl_warmup_steps: int | None = None
    free_bits: float = 0.0
    draws: int = 16
    langevin_steps: int | None = None
    langevin_step_size: float | None = None
    langevin_adjusted: bool | None = None

    def __post_init__(self) -> None:
        check_sizes(features=self.features, draws=self.draws)
        check_choice("posterior", self.posterior, POSTERIORS)
        chosen = POSTERIORS[self.posterior]
        if self.prior is not None:
            check_choice("prior", self.prior, PRIORS)
        if (chosen.support == "sphere") != (self.prior_name == "sphere"):
            where = "on the sphere" if chosen.support == "sphere" else "in space"
            raise ConfigError(
                f"posterior='{self.posterior}' has z {where}: it does not go with prior='{self.prior_name}'"
            )
        if self.prior_name == "sphere" and self.features < 2:
            raise ConfigError("a sphere needs features=2 (a circle) or more")
        self._check_langevin()
        if self.build_objective().free_bits and not self._closed:
            raise ConfigError(
                "free_bits are of a Gaussian posterior and prior='normal', or both on the sphere, of closed "
                f"divergence: leave them out with posterior='{self.posterior}', prior='{self.prior_name}'"
            )

    @property
    def prior_name(self) -> str:
        """The prior by its name, filled in."""
        usual = "sphere" if POSTERIORS[self.posterior].support == "sphere" else "normal"
        return usual if self.prior is None else self.prior

    def _check_langevin(self) -> None:
        if self.chained:
            useless = [n for n in ("kl_warmup_steps", "free_bits") if getattr(self, n)]
            if useless:
                raise ConfigError(
                    f"posterior='{self.posterior}' is learned by chains, which have no use for {useless[0]}: "
                    "leave it out"
                )
        elif self.langevin_steps is None:
            for name in ("langevin_step_size", "langevin_adjusted"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name} has no use without langevin_steps with posterior='{self.posterior}'"
                    )
        elif POSTERIORS[self.posterior].support != "space":
            raise ConfigError(
                f"langevin_steps are of a z in space, and posterior='{self.posterior}' has it on the sphere"
            )
        self.build_langevin()

    @property
    def chained(self) -> bool:
        """Whether z is found by chains in learning too."""
        return issubclass(POSTERIORS[self.posterior], ChainPosterior)

    @property
    def takes_missing(self) -> bool:
        return POSTERIORS[self.posterior].takes_missing

    def build_langevin(self) -> Langevin | None:
        """The steps; None for none.

        Raises:
            ConfigError: for a value that is not allowed.
        """
        kind = POSTERIORS[self.posterior]
        usual = kind.usual if issubclass(kind, ChainPosterior) else LangevinPosterior.usual
        if self.langevin_steps is None and not self.chained:
            return None
        steps, size, adjusted = self.langevin_steps, self.langevin_step_size, self.langevin_adjusted
        return Langevin(
            usual.steps if steps is None else steps,
            usual.step_size if size is None else size,
            usual.adjusted if adjusted is None else adjusted,
        )

    @property
    def _closed(self) -> bool:
        return POSTERIORS[self.posterior].closed_kl and self.prior_name in ("normal", "sphere")

    def build_objective(self) -> ContinuousELBO | MCMCLikelihood:
        """The objective.

        Raises:
            ConfigError: for a value that is not allowed.
        """
        if self.chained:
            return MCMCLikelihood()
        return ContinuousELBO(self.kl_warmup_steps or 0, self.free_bits)

    def for_steps(self, steps: int) -> Self:
        if self.chained or self.kl_warmup_steps is not None:
            return self
        return replace(self, kl_warmup_steps=self._warmup(steps))

    def _warmup(self, steps: int) -> int:
        raise NotImplementedError


@dataclass(kw_only=True)
class ContinuousOptions(_Continuous, TableLatent):
    """A continuous latent of tables: for data along a manifold.

    Arguments:
        encoder_features: hidden widths of the encoder q(z|x).
    """

    features: int = 2
    encoder_features: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("encoder_features", self.encoder_features)

    def _warmup(self, steps: int) -> int:
        return min(steps // 4, _LONGEST_WARMUP)

    def model(
        self, features: int, n_states: int, likelihood: Callable[[int], Density]
    ) -> ContinuousLatentModel:
        size = int(self.features)
        prior, density, steps = build_prior(self.prior_name, size), likelihood(size), self.build_langevin()
        q = build_posterior(self.posterior, size, features, self.encoder_features, langevin=steps)
        loss, refine = self.build_objective(), None if self.chained else steps
        model = ContinuousLatentModel(prior, density, q, loss, int(self.draws), refine=refine)
        model.starter = GeodesicStart() if q.starts else None
        return model


@dataclass(kw_only=True)
class ImageContinuous(_Continuous, ImageLatent):
    """A continuous latent of images.

    Arguments:
        encoder_channels: width of the encoder.
    """

    features: int = 32
    encoder_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(encoder_channels=self.encoder_channels)

    def _warmup(self, steps: int) -> int:
        return steps // 10

    def model(
        self, images: Images, likelihood: Callable[[int, ImageShape | None], Density]
    ) -> ContinuousLatentModel:
        def reads(outputs: int) -> nn.Module:
            return ConvVectorEncoder(
                images.shape, outputs, self.encoder_channels, images.halvings, images.levels
            )

        size = int(self.features)
        density = likelihood(size, None)
        steps = self.build_langevin()
        q = build_posterior(self.posterior, size, make_net=reads, langevin=steps)
        loss, draws = self.build_objective(), int(self.draws)
        prior = build_prior(self.prior_name, size)
        refine = None if self.chained else steps
        return ContinuousLatentModel(prior, density, q, loss, draws, self.chunk_rows, refine)
