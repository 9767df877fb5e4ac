"""Options of a continuous latent, of tables and of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents.continuous.model import ContinuousLatentModel
from modeflow.latents.continuous.objective import ContinuousObjective, MCMCLikelihood
from modeflow.latents.continuous.refine import Refinement
from modeflow.latents.continuous.start import GeodesicStart
from modeflow.latents.continuous.weighted import CONTINUOUS_OBJECTIVES
from modeflow.latents.cores import CoreStart
from modeflow.latents.langevin import ChainPosterior, Langevin, LangevinPosterior
from modeflow.latents.named import build_named, option_names
from modeflow.latents.options import ImageLatent, Images, ImageShape, LatentOptions, TableLatent, check_widths
from modeflow.latents.posteriors import POSTERIORS, build_posterior
from modeflow.latents.priors import PRIORS, build_prior
from modeflow.latents.schedules import whole_steps
from modeflow.latents.vamp import VampStart, check_own_posterior
from modeflow.nets.encoder import ConvVectorEncoder
from modeflow.options import check_choice, check_sizes

__all__ = ["ContinuousOptions", "ImageContinuous"]

#: Longest warm-up, in steps: early stopping may come soon after.
_LONGEST_WARMUP = 2_000
#: Pseudo-inputs: a step of the training encodes as many rows more.
_PSEUDO_INPUTS = 50
#: Options of objectives.
_OF_OBJECTIVES = ("kl_warmup_steps", "free_bits", "alpha", "order", "sleep_share", "gradient", "train_draws")


@dataclass(kw_only=True)
class _Continuous(LatentOptions):
    """What a continuous latent of tables and one of images share.

    Arguments:
        features: dimension L of z.
        posterior: q(z|x), "gaussian", "full-gaussian", "laplace", one by a flow ("iaf", "maf", "nsf",
            "planar", "radial"), one on the unit sphere ("vmf", "power-spherical"), or a point, with which the
            density is exact ("aef", "funnel"); see `modeflow.latents.posteriors`.
        prior: p(z), "normal", "mixture", "flow", "diffusion-bridge", "vamp" or "sphere"; see
            `modeflow.latents.priors`. None for "sphere" with a posterior on it, and "normal" with any other.
        pseudo_inputs: K, of prior="vamp"; 50 if None.
        objective: what is minimised, "elbo", "iwae", "renyi", "cubo", "wake" or "wake-sleep"; see
            `modeflow.latents.continuous.objective`. Where an option below is none of its own it is refused.
        kl_warmup_steps: of "elbo", "iwae" and "renyi", optimiser steps over which the weight of the KL term
            rises to one; None for a quarter of all in tables, at most 2,000, and for a tenth in images.
        free_bits: of "elbo", nats of every dimension of z that cost nothing; a flow that can do without z
            needs them.
        alpha: of "renyi", α, 0 or more: 0 is "iwae", 1 is "elbo"; 0.5 if None.
        order: of "cubo", n, above 1; 2 if None.
        sleep_share: of "wake-sleep", how much of what moves q is by rows that the model dreams, from 0 to 1;
            0.5 if None.
        gradient: to q, "total" (if None), of "elbo" also "stl" (sticking the landing), of the others "dreg"
            (doubly reparametrised): the same on average, with less noise.
        train_draws: of z a row in a step of the training; None for 1 of "elbo" and 8 of the others.
        draws: of z, over which the bound that is reported averages.
        refine_steps: gradient steps by which q(z|x) is improved for each row where the model is evaluated,
            each as dear as two draws and back; 0 for none.
        langevin_steps: of Langevin dynamics; with a posterior by chains, of those (None for 20, 10 of
            "encoded-langevin", 2 of "amortised-langevin"); with another in space, by which z is refined where
            it is read (None for none).
        langevin_step_size: η of z' = z + η ∇ log p(x, z) + √(2η) ξ; None for 0.01, and 0.001 of
            "amortised-langevin"; this and "encoded-langevin" adapt it where `langevin_adjusted`, "langevin"
            where it is None.
        langevin_adjusted: whether each step is accepted or refused by Metropolis; None for no, and yes of
            "encoded-langevin" and "amortised-langevin".
    """

    features: int
    posterior: str = "gaussian"
    prior: str | None = None
    pseudo_inputs: int | None = None
    objective: str = "elbo"
    kl_warmup_steps: int | None = None
    free_bits: float | None = None
    alpha: float | None = None
    order: float | None = None
    sleep_share: float | None = None
    gradient: str | None = None
    train_draws: int | None = None
    draws: int = 16
    langevin_steps: int | None = None
    langevin_step_size: float | None = None
    langevin_adjusted: bool | None = None
    refine_steps: int = 0

    def __post_init__(self) -> None:
        check_sizes(features=self.features, draws=self.draws)
        whole_steps("refine_steps", self.refine_steps)
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
        if self.prior_name == "vamp":
            check_own_posterior(chosen, f"posterior='{self.posterior}'")
            check_sizes(pseudo_inputs=self.n_inputs)
        elif self.pseudo_inputs is not None:
            raise ConfigError(f"pseudo_inputs are of prior='vamp': prior='{self.prior_name}' has none")
        self._check_point()
        self._check_langevin()
        objective = self.build_objective()
        if objective.alone and chosen.point:
            raise ConfigError(
                f"posterior='{self.posterior}' is a point, which objective='{self.objective}' cannot move: "
                "take objective='elbo'"
            )
        if objective.alone and chosen.follows:
            raise ConfigError(
                f"posterior='{self.posterior}' is made of the likelihood, which objective='{self.objective}' "
                "would move with q: take objective='elbo', 'iwae' or 'renyi'"
            )
        if objective.alone and self.prior_name == "vamp":
            raise ConfigError(
                f"prior='vamp' is made of q, which objective='{self.objective}' moves by something else than "
                "the likelihood: take objective='elbo', 'iwae' or 'renyi'"
            )
        if objective.free_bits and not self._closed:
            raise ConfigError(
                "free_bits are of a Gaussian posterior and prior='normal', or both on the sphere, of closed "
                f"divergence: leave them out with posterior='{self.posterior}', prior='{self.prior_name}'"
            )

    @property
    def prior_name(self) -> str:
        """The prior by its name, filled in."""
        usual = "sphere" if POSTERIORS[self.posterior].support == "sphere" else "normal"
        return usual if self.prior is None else self.prior

    @property
    def n_inputs(self) -> int:
        """K of prior="vamp", filled in."""
        return _PSEUDO_INPUTS if self.pseudo_inputs is None else self.pseudo_inputs

    def _check_point(self) -> None:
        if not POSTERIORS[self.posterior].point:
            return
        useless = [n for n in ("refine_steps", "langevin_steps") if getattr(self, n)]
        useless += ["gradient"] * (self.gradient not in (None, "total"))
        if useless:
            raise ConfigError(
                f"posterior='{self.posterior}' is a point, which has no use for {useless[0]}: leave it out"
            )

    def _check_langevin(self) -> None:
        if self.chained:
            useless = [n for n in (*_OF_OBJECTIVES, "refine_steps") if getattr(self, n)]
            useless += ["objective"] * (self.objective != "elbo")
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
            self.chained and usual.adapts and size is None,
        )

    @property
    def _closed(self) -> bool:
        return POSTERIORS[self.posterior].closed_kl and self.prior_name in ("normal", "sphere")

    def build_objective(self) -> ContinuousObjective:
        """The objective, with its own defaults where an option is None.

        Raises:
            ConfigError: for an unknown one, an option that it has no use for, or a value that is not allowed.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in _OF_OBJECTIVES}
        given = {name: value for name, value in given.items() if value is not None}
        if self.chained:
            return MCMCLikelihood()
        return build_named(CONTINUOUS_OBJECTIVES, self.objective, given)

    def for_steps(self, steps: int) -> Self:
        if self.chained or self.kl_warmup_steps is not None or not self._warms:
            return self
        if POSTERIORS[self.posterior].point:  # nothing is to be gained by forgetting z
            return replace(self, kl_warmup_steps=0)
        return replace(self, kl_warmup_steps=self._warmup(steps))

    def build_refinement(self) -> Refinement | None:
        """What improves q(z|x) for each row; None for nothing."""
        return Refinement(steps=int(self.refine_steps)) if self.refine_steps else None

    @property
    def _warms(self) -> bool:
        return "kl_warmup_steps" in option_names(CONTINUOUS_OBJECTIVES[self.objective])

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
        name, steps = self.prior_name, self.build_langevin()
        prior = None if name == "vamp" else build_prior(name, size)
        density = likelihood(size)
        q = build_posterior(self.posterior, size, features, self.encoder_features, langevin=steps)
        if prior is None:  # once there is the encoder that it is made of
            prior = build_prior(name, size, q, torch.randn(int(self.n_inputs), features))
        refine, refinement = None if self.chained else steps, self.build_refinement()
        model = ContinuousLatentModel(
            prior, density, q, self.build_objective(), int(self.draws), refine=refine, refinement=refinement
        )
        first = GeodesicStart() if q.starts else CoreStart() if q.point else None
        model.starter = VampStart(first) if name == "vamp" else first
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
        vamp = self.prior_name == "vamp"
        if vamp:
            inputs = (images.levels - 1) * torch.rand(int(self.n_inputs), *images.shape)
            prior = build_prior("vamp", size, q, inputs, images.levels / 4)
        else:
            prior = build_prior(self.prior_name, size)
        refine, refinement = None if self.chained else steps, self.build_refinement()
        model = ContinuousLatentModel(prior, density, q, loss, draws, self.chunk_rows, refine, refinement)
        model.starter = VampStart() if vamp else CoreStart() if q.point else None
        return model
