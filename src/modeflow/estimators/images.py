"""The estimator of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.densities import Preprocessed
from modeflow.domains import Domain, ImageDomain
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.fitting import FitData
from modeflow.estimators.settings import Budget, Settings, latent_model
from modeflow.estimators.trials import Choices
from modeflow.latents import LatentModel
from modeflow.metrics import BitsPerDim
from modeflow.models import IMAGE_LATENTS, ImageModel, LikelihoodOptions
from modeflow.options import Options, check_choice
from modeflow.training import Training, shield

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

    With ``latent_options={"posterior": "langevin"}`` and a likelihood without a flow pixels may be hidden
    (NaN), in `fit` as well: they are left out, and `inpaint` finds them.

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

    def _choices(self, settings: Settings, data: FitData) -> Choices:
        options = settings.groups["latent_options"]
        leaves_out = getattr(options, "posterior", None) == "langevin" and self.likelihood != "flow"
        if data.holed and not leaves_out:
            raise ConfigError(
                "there are hidden pixels (NaN), which this model does not leave out: fit with latent="
                "'continuous', latent_options={'posterior': 'langevin'} and likelihood='gaussian'"
            )
        return super()._choices(settings, data)

    @shield()
    def inpaint(
        self, X: Any, hidden: Any = None, *, how: str = "mean", draws: int = 16, random_state: Any = None
    ) -> np.ndarray:
        r"""The images with their hidden pixels filled, by z that chains on the visible ones find.

        .. math:: z_{k+1} = z_k + \eta\, \nabla_z [\log p(x_{\mathrm{seen}} \mid z_k) + \log p(z_k)]
            + \sqrt{2 \eta}\, \xi_k, \qquad x_{\mathrm{hidden}} \sim p(x \mid z_K)

        Of images that were not fitted it is supervised inpainting; of the training images themselves, where
        these were fitted with holes, unsupervised recovery. How far a chain comes in its K steps is part of
        the model: an estimate of the conditional, not exact.

        Arguments:
            X: images ``(N, H, W)`` or ``(N, H, W, C)``; hidden pixels may be NaN.
            hidden: true where pixels are hidden, of the shape of X, ``(H, W)`` or ``(N, H, W, 1)``; beside
                those that are NaN. What X has there is not looked at.
            how: ``"mean"``, of `draws` chains, to the nearest whole number; or ``"draw"``, by one.
            draws: chains. random_state: seed of the drawing; the estimator's own if None.

        Returns:
            uint8 ``(N, H, W, C)``; visible pixels as they are.

        Raises:
            ConfigError: a model that does not leave pixels out, or a value that is not allowed.
            DataError: a mask of another shape, or an image without a visible pixel.

        Reference:
            Xie et al., *A Tale of Two Latent Flows*, 2023, https://arxiv.org/abs/2301.09300
        """
        check_is_fitted(self)
        if not self.latent_.fills:
            raise ConfigError("hidden pixels are filled by model='latent-flow' (latent_options.posterior)")
        if how not in ("mean", "draw"):
            raise ConfigError(f"how='{how}' is not known: use 'mean' or 'draw'")
        if not isinstance(draws, (int, np.integer)) or draws < 1:
            raise ConfigError(f"draws must be an integer of 1 or more, received {draws!r}")
        images = np.asarray(X)
        images = images[..., None] if images.ndim == 3 else images
        if hidden is not None:
            mask = np.asarray(hidden, dtype=bool)
            mask = mask[..., None] if mask.ndim in (2, 3) else mask
            try:
                mask = np.broadcast_to(mask, images.shape)
                images = np.where(mask, np.float32(np.nan), images.astype(np.float32))
            except ValueError:
                raise DataError(f"hidden has shape {np.shape(hidden)}, the images {np.shape(X)}") from None
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator, n = torch.Generator().manual_seed(int(rng.randint(2**31 - 1))), int(draws)
        n = n if how == "mean" else 1

        def filled(model: Preprocessed, x: Tensor) -> Tensor:
            u = model.encode(x)[0]
            drawn = model.decode(latent_model(model).completions(u, n, generator).flatten(0, 1))
            return drawn.view(n, *x.shape).mean(0).round()

        return self.domain_.from_tensor(torch.from_numpy(self._each(images, "fill", filled)))

    def bits_per_dim(self, X: Any) -> BitsPerDim:
        """Bits per dimension at the images' own size, with standard error, kind, and what z costs."""
        found = self.likelihood_of(X)
        assert isinstance(found, BitsPerDim)
        return found
