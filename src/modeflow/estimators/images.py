"""The estimator of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modeflow.domains import Domain, ImageDomain
from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.settings import (
    Budget,
    Settings,
)
from modeflow.latents import LatentModel
from modeflow.metrics import BitsPerDim
from modeflow.models import IMAGE_LATENTS, ImageModel, LikelihoodOptions
from modeflow.options import Options, check_choice
from modeflow.training import Training

__all__ = ["ImageDensity", "ImageTraining"]


@dataclass(kw_only=True)
class ImageTraining(Training):
    """How a density of images is trained: as `Training`, with other defaults."""

    schedule: str = "cosine"
    ema: float | None = None
    patience: int | None = 20
    gradient_clip: float | None = 50.0


class ImageDensity(DensityEstimator):
    r"""A density of images of whole numbers: NVF, a plain flow, VAE, discrete VAE or VQ-VAE.

    .. math:: p(x) = \int p(z)\, p(x \mid z)\, dz

    By `latent` and `likelihood` (`modeflow.models.ImageModel`). Images are arrays ``(N, H, W)`` or
    ``(N, H, W, C)`` of whole numbers, as they are stored; the noise that a density of real numbers needs is
    added inside, and is part of the likelihood.

    Arguments:
        latent: ``"sequential"`` (a map of codes), ``"discrete"``, ``"continuous"`` or ``"none"``.
        likelihood: ``"flow"``, ``"logistic"`` or ``"gaussian"``.
        latent_options: a mapping of the options of the latent, or its dataclass, see
            `modeflow.models.IMAGE_LATENTS`: codes and their prior, states, dimensions of a continuous z.
        likelihood_options: the same of the likelihood, see `modeflow.models.LikelihoodOptions`.
        flow, flow_options: the flow by its name, and its options.
        halvings: the map of codes, and what the decoder begins with, is smaller by ``2**halvings``.
        levels: number of values of a pixel, 256 for eight bits.
        max_epochs: passes over the images of each stage, or ``"auto"``: 20, and more where the images are
            few, so that there are 2,000 optimiser steps.
        batch_size: images a step. learning_rate: of Adam, at its peak.
        training: a mapping of the other settings of the training, or an `ImageTraining`.
        validation_fraction: share of the images held out, where `fit` receives none.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``. Images are always scored in float32.
        random_state: seed. verbose: show progress.

    Attributes:
        model_: the fitted torch density; latent_: the latent-variable model in it.
        domain_: size and levels of the images.
        validation_: bits per dimension of the held-out images. history_, training_: of the training.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    domain: ClassVar[type[Domain]] = ImageDomain
    budget: ClassVar[Budget] = Budget(steps=2000, epochs=20)
    domain_: ImageDomain

    def __init__(
        self,
        latent: str = "sequential",
        likelihood: str = "flow",
        *,
        latent_options: Mapping[str, Any] | Options | None = None,
        likelihood_options: Mapping[str, Any] | LikelihoodOptions | None = None,
        flow: str = "glow",
        flow_options: Mapping[str, Any] | None = None,
        halvings: int = 2,
        levels: int = 256,
        max_epochs: int | str = "auto",
        batch_size: int | str = 64,
        learning_rate: float = 1e-3,
        training: Mapping[str, Any] | ImageTraining | None = None,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.latent = latent
        self.likelihood = likelihood
        self.latent_options = latent_options
        self.likelihood_options = likelihood_options
        self.flow = flow
        self.flow_options = flow_options
        self.halvings = halvings
        self.levels = levels
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.training = training
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def groups(self) -> dict[str, type[Options]]:
        check_choice("latent", self.latent, IMAGE_LATENTS)
        return {
            "latent_options": IMAGE_LATENTS[self.latent],
            "likelihood_options": LikelihoodOptions,
            "training": ImageTraining,
        }

    @classmethod
    def build(cls, settings: Settings, domain: Domain, n_states: int, steps: int | None) -> LatentModel:
        assert isinstance(domain, ImageDomain)
        p = settings.params
        latent, likelihood = settings.groups["latent_options"], settings.groups["likelihood_options"]
        return ImageModel(
            domain.shape,
            levels=domain.levels,
            latent=p["latent"],
            likelihood=p["likelihood"],
            flow=p["flow"],
            flow_options=p["flow_options"],
            halvings=p["halvings"],
            latent_options=latent.for_steps(steps) if steps else latent,
            likelihood_options=likelihood.for_steps(steps) if steps else likelihood,
        )

    def bits_per_dim(self, X: Any) -> BitsPerDim:
        """Bits per dimension at the images' own size, with standard error, kind, and what z costs."""
        found = self.likelihood_of(X)
        assert isinstance(found, BitsPerDim)
        return found
