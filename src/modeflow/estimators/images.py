"""The estimator of images: fit, bits per dimension, samples, codes, reconstructions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from modeflow.data.images import as_images
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.base import training_summary
from modeflow.estimators.fitted_images import ROWS, FittedImages, to_tensor
from modeflow.estimators.trivial import warn_worse_than_uniform
from modeflow.latents import ImageLatent, LatentModel
from modeflow.models import IMAGE_LATENTS, ImageModel, LikelihoodOptions
from modeflow.options import check_choice
from modeflow.progress import showing
from modeflow.training import TrainConfig, Trainer, seeded, shield, signals_held

__all__ = ["ImageDensity"]

#: Fewest epochs and optimiser steps of ``max_epochs="auto"``.
_EPOCHS, _STEPS = 20, 2000


class ImageDensity(FittedImages):
    r"""A density of images of whole numbers: NVF, a plain flow, VAE, discrete VAE or VQ-VAE.

    .. math:: p(x) = \int p(z)\, p(x \mid z)\, dz

    By `latent` and `likelihood` (`modeflow.models.ImageModel`). Images are arrays ``(N, H, W)`` or
    ``(N, H, W, C)`` of whole numbers, as they are stored; the noise that a density of real numbers needs is
    added inside, and is part of the likelihood.

    Arguments:
        latent: ``"sequential"`` (a map of codes), ``"discrete"``, ``"continuous"`` or ``"none"``.
        likelihood: ``"flow"``, ``"logistic"`` or ``"gaussian"``. What concerns another latent, or a flow
            where there is none, is not used.
        n_codes, code_features: codes and their dimension. n_states: of a discrete latent.
        codes_per_image: codes of the whole image; None for one at each place of a map.
        latent_features, posterior: of a continuous one, see `ImageModel`. halvings: the map of codes is
            smaller by ``2**halvings``.
        encoder_channels, decoder_channels, components: see `ImageModel`.
        flow, flow_options: the flow by its name, and its options. entry, context_in: see `ImageModel`.
        prior, prior_options: of the codes, ``"gpt2"`` or ``"independent"``.
        free_bits: of a continuous latent, nats of every dimension that cost nothing.
        sequences: strings over which the bound of a sequential latent sums.
        dequantisation: ``"uniform"`` or ``"variational"``. draws, latent_draws: over which bounds average.
        stages: what is fitted, in order, each for `max_epochs`: ``"joint"``, or for codes, as in the paper,
            ``["flow", "prior"]``: first all but the prior, then it alone; or ``["flow", "prior", "joint"]``.
        start: share of the first stage's steps in which the first layer of the flow is fitted alone.
        code_warmup: share of the steps over which the pressure of the code length on the encoder rises; too
            little and, with few images, all codes become one.
        levels: number of values of a pixel, 256 for eight bits.
        max_epochs: passes over the images of each stage, or ``"auto"``: 20, and more where the images are
            few, so that there are 2,000 optimiser steps.
        batch_size, learning_rate, weight_decay, schedule, ema, patience, gradient_clip: of the training, see
            `modeflow.training.TrainConfig`.
        validation_fraction: share of the images held out, where `fit` receives none.
        activations: what is stored for the gradient: ``"keep"``, ``"recompute"``, ``"invert"``.
        device, devices, precision: ``"auto"``, ``"cpu"``, ``"cuda"``; processes; ``"32-true"`` or
            ``"bf16-mixed"``. Images are always scored in float32.
        random_state: seed. tensorboard: also write its events. verbose: show progress.

    Attributes:
        model_: the fitted torch model. shape_: ``(channels, height, width)``.
        validation_: bits per dimension of the held-out images. history_, training_: of the training.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    #: Parameters that the latents take, by their names there, and those of the likelihood.
    _LATENT: ClassVar[dict[str, dict[str, str]]] = {
        "none": {},
        "discrete": {name: name for name in ("n_states", "prior", "encoder_channels")},
        "continuous": {
            "features": "latent_features", "draws": "latent_draws", "posterior": "posterior",
            "free_bits": "free_bits", "encoder_channels": "encoder_channels",
        },
        "sequential": {
            name: name
            for name in ("n_codes", "code_features", "codes_per_image", "prior", "prior_options", "sequences",
                         "stages", "code_warmup", "encoder_channels")
        },
    }  # fmt: skip
    _LIKELIHOOD: ClassVar[tuple[str, ...]] = (
        "components", "decoder_channels", "entry", "context_in", "dequantisation", "draws", "start",
    )  # fmt: skip
    #: Parameters that `TrainConfig` takes as they are.
    _TRAINING: ClassVar[tuple[str, ...]] = (
        "max_epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "ema", "patience",
        "gradient_clip", "activations", "device", "devices", "precision", "tensorboard",
    )  # fmt: skip

    def __init__(
        self,
        latent: str = "sequential",
        likelihood: str = "flow",
        *,
        n_codes: int = 64,
        code_features: int = 8,
        codes_per_image: int | None = None,
        n_states: int = 10,
        latent_features: int = 32,
        posterior: str = "gaussian",
        halvings: int = 2,
        encoder_channels: int = 64,
        decoder_channels: int = 64,
        components: int = 3,
        flow: str = "glow",
        flow_options: Mapping[str, Any] | None = None,
        entry: str | None = None,
        context_in: str = "all",
        prior: str | None = None,
        prior_options: Mapping[str, Any] | None = None,
        free_bits: float = 0.0,
        sequences: int = 1,
        dequantisation: str = "uniform",
        draws: int = 1,
        latent_draws: int = 16,
        stages: str | Sequence[str] = "joint",
        start: float = 0.1,
        code_warmup: float = 0.4,
        levels: int = 256,
        max_epochs: int | str = "auto",
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        ema: float | None = None,
        patience: int | None = 20,
        gradient_clip: float | None = 50.0,
        activations: str = "keep",
        validation_fraction: float = 0.1,
        device: str = "auto",
        devices: int = 1,
        precision: str = "32-true",
        random_state: Any = None,
        tensorboard: bool = False,
        verbose: bool = False,
    ) -> None:
        self.latent = latent
        self.likelihood = likelihood
        self.n_codes = n_codes
        self.code_features = code_features
        self.codes_per_image = codes_per_image
        self.n_states = n_states
        self.latent_features = latent_features
        self.posterior = posterior
        self.halvings = halvings
        self.encoder_channels = encoder_channels
        self.decoder_channels = decoder_channels
        self.components = components
        self.flow = flow
        self.flow_options = flow_options
        self.entry = entry
        self.context_in = context_in
        self.prior = prior
        self.prior_options = prior_options
        self.free_bits = free_bits
        self.sequences = sequences
        self.dequantisation = dequantisation
        self.draws = draws
        self.latent_draws = latent_draws
        self.stages = stages
        self.start = start
        self.code_warmup = code_warmup
        self.levels = levels
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.ema = ema
        self.patience = patience
        self.gradient_clip = gradient_clip
        self.activations = activations
        self.validation_fraction = validation_fraction
        self.device = device
        self.devices = devices
        self.precision = precision
        self.random_state = random_state
        self.tensorboard = tensorboard
        self.verbose = verbose

    # -- fitting --------------------------------------------------------------------------------

    @shield(grad=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the density to images.

        Ctrl-C and SIGTERM end the training after the step under way, with the estimator fitted, and are then
        given back, as in `NVF.fit`.

        Arguments:
            X: images, ``(N, H, W)`` or ``(N, H, W, C)``, whole numbers 0 to ``levels - 1``.
            y: ignored.
            validation: images for early stopping; a random share of X by default.
            run_dir: folder for the log and checkpoints; none are written without it.
            resume: go on from the checkpoints in `run_dir`, if there are any.

        Raises:
            DataError: images of another shape, or pixels that are no whole numbers of the range.
            ConfigError: a parameter that is not allowed.
            TrainingError: a loss that is not finite, or a checkpoint that does not fit.
            KeyboardInterrupt: after Ctrl-C, when the estimator is fitted.
        """
        with signals_held(), showing(bool(self.verbose)):
            self._fit(X, validation, run_dir, resume)
        return self

    def _fit(self, X: Any, validation: Any, run_dir: str | os.PathLike[str] | None, resume: bool) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.latent != "sequential" and self.stages not in ("joint", ["joint"], ("joint",)):
            raise ConfigError("stages are of a sequential latent: leave them out")
        images = as_images(X, self.levels, "X")
        if validation is not None:
            train, held = images, as_images(validation, self.levels, "validation")
            if held.shape[1:] != train.shape[1:]:
                raise DataError(f"validation images are {held.shape[1:]}, those to fit {train.shape[1:]}")
        else:
            train, held = self._hold_out(images, seed)
        shape = (images.shape[3], images.shape[1], images.shape[2])
        rows, held_rows = to_tensor(train), to_tensor(held)
        config = self._train_config(len(rows), seed)
        steps = config.max_epochs * -(-len(rows) // config.batch_size)
        with seeded(seed):
            model = self._build(shape, steps)
            model.start(rows, seed % 2**32)
        history: list[dict[str, Any]] = []
        last: Any = None
        for number, stage in enumerate(model.stages):
            model.at_stage(stage, number)
            folder = None if run_dir is None else Path(run_dir) / (f"stage-{number + 1}" if number else "")
            name = "fit" if len(model.stages) == 1 else f"fit {stage}"
            trainer = Trainer(config, folder, not self.verbose, name)
            last = trainer.fit(model, rows, held_rows, resume=resume, augment=_as_float, evaluate=_evaluate)
            history += [{"stage": stage, **row} for row in last.epochs]
            if last.interrupted:
                break
        model.at_stage()
        self.history_ = history
        self.training_ = training_summary(last)
        self._set_fitted(model, shape)
        bits = self.bits_per_dim(held)
        self.validation_ = bits.to_dict()
        warn_worse_than_uniform(bits, self.levels)

    def _train_config(self, rows: int, seed: int) -> TrainConfig:
        settings = {name: getattr(self, name) for name in self._TRAINING}
        if isinstance(self.max_epochs, str):
            if self.max_epochs != "auto":
                raise ConfigError(
                    f"max_epochs must be an integer of 1 or more or 'auto', received {self.max_epochs!r}"
                )
            # What a network learns is a matter of steps: few images make short epochs.
            size = TrainConfig(batch_size=self.batch_size).batch_size
            settings["max_epochs"] = max(_EPOCHS, -(-_STEPS // -(-rows // size)))
        return TrainConfig(**settings, seed=seed)

    def _hold_out(self, images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"validation_fraction must lie in (0, 1), received {self.validation_fraction!r}"
            )
        n = len(images)
        if n < 3:
            raise DataError(f"{n} images are too few to fit: 3 are needed, and many more are wanted")
        order = np.random.default_rng(seed).permutation(n)
        count = min(max(round(self.validation_fraction * n), 1), n - 2)
        return images[np.sort(order[count:])], images[np.sort(order[:count])]

    def _latent_options(self, rebuild: Mapping[str, Any] | None = None) -> ImageLatent:
        """Options of the latent; those that a stored model is rebuilt with come first."""
        check_choice("latent", self.latent, IMAGE_LATENTS)
        own = {name: getattr(self, key) for name, key in self._LATENT[self.latent].items()}
        if own.get("prior", "") is None:
            del own["prior"]
        return IMAGE_LATENTS[self.latent].of({**own, **(rebuild or {})}, "latent")

    def _build(
        self,
        shape: tuple[int, int, int],
        steps: int | None = None,
        rebuild: Mapping[str, Any] | None = None,
    ) -> LatentModel:
        latent = self._latent_options(rebuild)
        likelihood = LikelihoodOptions(**{name: getattr(self, name) for name in self._LIKELIHOOD})
        if steps is not None:
            latent, likelihood = latent.for_steps(steps), likelihood.for_steps(steps)
        return ImageModel(
            shape,
            levels=self.levels,
            latent=self.latent,
            likelihood=self.likelihood,
            flow=self.flow,
            flow_options=self.flow_options,
            halvings=self.halvings,
            latent_options=latent,
            likelihood_options=likelihood,
        )


def _as_float(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch.float()


def _evaluate(model: Any, x: Tensor) -> Tensor:
    """Log-probability of validation images, of what the stage fits."""
    return torch.cat([model.validation_log_prob(part.float()) for part in x.split(ROWS)])
