"""The estimator of images: fit, bits per dimension, samples, codes, reconstructions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.data.images import as_images
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.base import plain_value, training_summary
from modeflow.estimators.storage import load_as, save_estimator
from modeflow.latents import ContinuousLatentModel, DiscreteLatentModel, LatentModel, SequentialLatentModel
from modeflow.latents.sequential import STAGES
from modeflow.metrics import BitsPerDim, LogLikelihood, summarise, summarise_bits
from modeflow.models.images import ImageModel
from modeflow.training import TrainConfig, Trainer, resolve_device, seeded

__all__ = ["ImageDensity"]

# Images scored at once.
_ROWS = 256


class ImageDensity(DensityMixin, BaseEstimator):
    r"""A density of images of whole numbers: NVF, a plain flow, VAE, discrete VAE or VQ-VAE.

    .. math:: p(x) = \int p(z)\, p(x \mid z)\, dz

    By `latent` and `likelihood` (`modeflow.models.ImageModel`). Images are arrays ``(N, H, W)`` or
    ``(N, H, W, C)`` of whole numbers, as they are stored; the noise that a density of real numbers needs is
    added inside, and is part of the likelihood.

    Arguments:
        latent: ``"sequential"`` (a map of codes), ``"discrete"``, ``"continuous"`` or ``"none"``.
        likelihood: ``"flow"``, ``"logistic"`` or ``"gaussian"``.
        n_codes, code_features: codes and their dimension. n_states: of a discrete latent.
        codes_per_image: codes of the whole image; None for one at each place of a map.
        latent_features: of a continuous one. halvings: the map of codes is smaller by ``2**halvings``.
        encoder_channels, decoder_channels, components: see `ImageModel`.
        flow, flow_options: the flow by its name, and its options. entry, context_in: see `ImageModel`.
        prior, prior_options: of the codes, ``"gpt2"`` or ``"independent"``.
        free_bits: of a continuous latent, nats of every dimension that cost nothing.
        sequences: strings over which the bound of a sequential latent sums.
        dequantisation: ``"uniform"`` or ``"variational"``. draws, latent_draws: over which bounds average.
        stages: what is fitted, in order, each for `max_epochs`: ``"joint"``, or for codes, as in the paper,
            ``["flow", "prior"]``: first all but the prior, then it alone; or ``["flow", "prior", "joint"]``.
        start: share of the first stage's steps in which the first layer of the flow is fitted alone.
        levels: number of values of a pixel, 256 for eight bits.
        max_epochs, batch_size, learning_rate, weight_decay, schedule, ema, patience, gradient_clip: of the
            training, see `modeflow.training.TrainConfig`.
        validation_fraction: share of the images held out, where `fit` receives none.
        activations: what is stored for the gradient: ``"keep"``, ``"recompute"``, ``"invert"``.
        device, devices, precision: ``"auto"``, ``"cpu"``, ``"cuda"``; processes; ``"32-true"`` or
            ``"bf16-mixed"``. Images are always scored in float32.
        random_state: seed. tensorboard: also write its events. verbose: show progress (on a terminal).

    Attributes:
        model_: the fitted torch model. shape_: ``(channels, height, width)``.
        validation_: bits per dimension of the held-out images. history_, training_: of the training.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    #: Parameters that `ImageModel` takes as they are.
    _MODEL: ClassVar[tuple[str, ...]] = (
        "levels", "latent", "likelihood", "n_codes", "code_features", "codes_per_image", "n_states",
        "latent_features", "halvings", "encoder_channels", "decoder_channels", "components", "flow",
        "flow_options", "entry", "context_in", "prior", "prior_options", "free_bits", "sequences",
        "dequantisation", "draws", "latent_draws",
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
        levels: int = 256,
        max_epochs: int = 20,
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
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        stages = self._stages()
        images = as_images(X, self.levels, "X")
        if validation is not None:
            train, held = images, as_images(validation, self.levels, "validation")
            if held.shape[1:] != train.shape[1:]:
                raise DataError(f"validation images are {held.shape[1:]}, those to fit {train.shape[1:]}")
        else:
            train, held = self._hold_out(images, seed)
        shape = (images.shape[3], images.shape[1], images.shape[2])
        rows, held_rows = to_tensor(train), to_tensor(held)
        config = TrainConfig(**{name: getattr(self, name) for name in self._TRAINING}, seed=seed)
        steps = config.max_epochs * -(-len(rows) // config.batch_size)
        if not 0 <= self.start < 1:
            raise ConfigError(f"start must lie in [0, 1), received {self.start!r}")
        with seeded(seed):
            model = self._build(shape, steps // 10)
            model.start_steps = min(round(self.start * steps), steps - 1)
        if isinstance(model, SequentialLatentModel):
            model.code_warmup_steps = steps // 10
        history: list[dict[str, Any]] = []
        last: Any = None
        for number, stage in enumerate(stages):
            if isinstance(model, SequentialLatentModel):
                model.set_stage(stage)
            if number:
                model.start_steps = 0
            folder = None if run_dir is None else Path(run_dir) / (f"stage-{number + 1}" if number else "")
            trainer = Trainer(config, folder, not self.verbose, "fit" if len(stages) == 1 else f"fit {stage}")
            last = trainer.fit(model, rows, held_rows, resume=resume, augment=_as_float, evaluate=_evaluate)
            history += [{"stage": stage, **row} for row in last.epochs]
            if last.interrupted:
                break
        if isinstance(model, SequentialLatentModel):
            model.set_stage("joint")
        self.history_ = history
        self.training_ = training_summary(last)
        self._set_fitted(model, shape)
        self.validation_ = self.bits_per_dim(held).to_dict()
        return self

    def _stages(self) -> tuple[str, ...]:
        stages = (self.stages,) if isinstance(self.stages, str) else tuple(self.stages)
        for stage in stages:
            if stage not in STAGES:
                raise ConfigError(f"stages may name {', '.join(STAGES)}; received {stage!r}")
        if self.latent != "sequential" and stages != ("joint",):
            raise ConfigError("stages are of a sequential latent: leave them out")
        if stages not in (("joint",), ("flow", "prior"), ("flow", "prior", "joint")):
            raise ConfigError("stages must be ['joint'], ['flow', 'prior'] or ['flow', 'prior', 'joint']")
        return stages

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

    def _build(
        self,
        shape: tuple[int, int, int],
        warmup_steps: int = 0,
        prior_sizes: Mapping[str, Any] | None = None,
    ) -> LatentModel:
        options = {name: getattr(self, name) for name in self._MODEL}
        if prior_sizes is not None:
            options["prior_options"] = prior_sizes
        return ImageModel(shape, **options, kl_warmup_steps=warmup_steps)

    def _set_fitted(self, model: LatentModel, shape: tuple[int, int, int]) -> None:
        self.model_ = model.eval()
        self.shape_ = shape

    # -- using ----------------------------------------------------------------------------------

    @property
    def density_kind_(self) -> Any:
        """What `score_samples` returns: ``exact`` or ``lower bound``."""
        return self.model_.exactness

    @property
    def n_states_(self) -> int:
        """States in use of a discrete latent; 1 for any other."""
        inner = self.model_
        return len(inner.state_probs()) if isinstance(inner, DiscreteLatentModel) else 1

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-probability of every image, nats, what z costs included, shape ``(N,)``.

        Raises:
            DataError: images of another shape than those fitted, or pixels that are no whole numbers.
        """
        return self._each(X, "score", lambda model, x: model.log_prob(x)).astype(np.float64)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`, nats."""
        return float(self.score_samples(X).mean())

    def likelihood_of(self, X: Any) -> LogLikelihood:
        """Mean log-probability of an image in nats, with its standard error and its kind."""
        return summarise(self.score_samples(X), self.density_kind_)

    def bits_per_dim(self, X: Any) -> BitsPerDim:
        """Bits per dimension at the images' own size, with standard error, kind, and what z costs."""
        return summarise_bits(
            self.score_samples(X), self.latent_cost(X), self.density_kind_, int(np.prod(self.shape_))
        )

    def latent_cost(self, X: Any) -> np.ndarray:
        """What z costs of every image's code length, nats, shape ``(N,)``."""
        return self._each(X, "code length", lambda model, x: model.latent_cost(x)).astype(np.float64)

    def encode(self, X: Any) -> np.ndarray:
        """z of every image: codes ``(N, L)``, means ``(N, latent_features)``, or states ``(N,)``."""

        def infer(model: LatentModel, x: Tensor) -> Tensor:
            if isinstance(model, SequentialLatentModel):
                return model.codes(x)
            if isinstance(model, ContinuousLatentModel):
                return model.posterior(x)[0]
            assert isinstance(model, DiscreteLatentModel)
            return model.log_joint(x).argmax(1)

        return self._each(X, "encode", infer)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Every image from its z alone, ``(N, H, W, C)``: what z knows of it."""
        return _to_images(self._each(X, "reconstruct", lambda model, x: model.reconstruct(x)))

    def interpolate(self, a: Any, b: Any, steps: int = 8) -> np.ndarray:
        """Images on the way from `a` to `b`, ``(N, steps, H, W, C)``, by what z says of both.

        A continuous z moves on a line; of codes, what the encoder says of every place moves on a line, and is
        quantised; states and images without a latent change at once.
        """
        if steps < 2:
            raise ConfigError(f"steps must be 2 or more, received {steps}")
        first, second = self._checked(a), self._checked(b)
        if len(first) != len(second):
            raise DataError(f"{len(first)} images cannot go to {len(second)}: pass as many")
        model = self._placed()
        with torch.no_grad():
            x, y = (to_tensor(i).float().to(model.device) for i in (first, second))
            out = [
                model.decode(_between(model, x, y, share), len(x), temperature=0.0)
                for share in np.linspace(0, 1, steps).tolist()
            ]
        return np.stack([_to_images(o.cpu().numpy()) for o in out], 1)

    def sample(
        self,
        n_samples: int = 1,
        *,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
        like: Any = None,
        random_state: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw images.

        Arguments:
            n_samples: how many.
            state: only from this state of a discrete latent.
            temperature: of the likelihood's noise: 1 samples the density, less gives likelier images.
            prior_temperature: of z. like: images whose z is used in the place of one drawn, in turns.
            random_state: seed of the drawing; the estimator's own if None.

        Returns:
            images ``(n_samples, H, W, C)``, uint8, and z of each (codes, numbers or states).

        Raises:
            ConfigError: fewer than one sample, no such state, or a temperature that is not allowed.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        model, n = self._placed(), int(n_samples)
        with torch.no_grad():
            if like is not None:
                given = to_tensor(self._checked(like)).float().to(model.device)
                rows = torch.arange(n) % len(given)
                inferred = model.infer(given)
                context = None if inferred is None else inferred[rows.to(model.device)]
                z = torch.from_numpy(self.encode(like))[rows]
            elif state is not None:
                context, z = self._state_context(model, state, n)
            else:
                context, z = model.draw(n, generator, prior_temperature)
            x = model.decode(context, n, generator, temperature)
        return _to_images(x.cpu().numpy()), z.cpu().numpy()

    def _state_context(self, model: LatentModel, state: int, n: int) -> tuple[Tensor | None, Tensor]:
        if not isinstance(model, DiscreteLatentModel) or model.n_states == 1:
            raise ConfigError(
                f"there is no state {state}: the latent is {self.latent}; fit with latent=discrete for "
                "states, or draw images like given ones"
            )
        active = model.prior.active_states()
        if not 0 <= state < len(active):
            raise ConfigError(f"state must lie in 0..{len(active) - 1}, received {state}")
        return model._context(active[state].repeat(n)), torch.full((n,), state)

    # -- saving ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator to one safetensors file; returns its path.

        Raises:
            DataError: if the path cannot be written. ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        params = self.get_params(deep=False)
        if isinstance(params.get("random_state"), np.random.RandomState):
            params["random_state"] = None
        content = {
            "class": type(self).__name__,
            "params": {name: plain_value(value) for name, value in params.items()},
            "shape": list(self.shape_),
            # Of a pretrained prior the sizes, so that its weights are not looked for again.
            "prior_sizes": getattr(getattr(self.model_, "prior", None), "sizes", None),
            "fitted": {name: getattr(self, name) for name in _KEPT},
        }
        return save_estimator(path, content, self.model_.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load what `save` wrote, or the model of a run folder. Executes no code from the file.

        Raises:
            ModelFileError: missing, damaged, foreign, from a newer version, or of another class.
        """
        return load_as(cls, path)

    @classmethod
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            estimator = cls(**header["params"])
            shape = tuple(int(n) for n in header["shape"])
            with seeded(0):
                model = estimator._build((shape[0], shape[1], shape[2]), prior_sizes=header["prior_sizes"])
            model.load_state_dict(state)
            estimator._set_fitted(model, (shape[0], shape[1], shape[2]))
            for name in _KEPT:
                setattr(estimator, name, header["fitted"][name])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"'{path}' is damaged or foreign: {reason}") from error
        return estimator

    # -- inside ---------------------------------------------------------------------------------

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        images = as_images(X, 256, "X")
        channels, height, width = self.shape_
        if images.shape[1:] != (height, width, channels):
            raise DataError(
                f"images are {images.shape[1]} x {images.shape[2]} with {images.shape[3]} channels, those "
                f"of the model {height} x {width} with {channels}"
            )
        return as_images(images, self.levels, "X")

    def _placed(self) -> LatentModel:
        """The model on the device asked for."""
        check_is_fitted(self)
        return self.model_.to(resolve_device(self.device))

    @torch.no_grad()
    def _each(self, X: Any, what: str, function: Any) -> np.ndarray:
        rows = to_tensor(self._checked(X))
        model = self._placed()
        parts = [
            function(model, rows[part].float().to(model.device)).cpu().numpy()
            for part in self._blocks(len(rows), what)
        ]
        return np.concatenate(parts)

    def _blocks(self, n: int, what: str) -> Iterator[slice]:
        starts: Any = range(0, n, _ROWS)
        if self.verbose and len(starts) > 8:
            from rich.console import Console
            from rich.progress import track

            console = Console(stderr=True)
            starts = track(starts, what, console=console, transient=True, disable=not console.is_terminal)
        for start in starts:
            yield slice(start, start + _ROWS)


#: Fitted attributes that are stored with the model.
_KEPT = ("validation_", "history_", "training_")


def to_tensor(images: np.ndarray) -> Tensor:
    """``(N, H, W, C)`` to bytes ``(N, C, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _to_images(x: np.ndarray) -> np.ndarray:
    """``(N, C, H, W)`` of whole numbers to uint8 ``(N, H, W, C)``."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).astype(np.uint8)


def _as_float(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch.float()


def _evaluate(model: Any, x: Tensor) -> Tensor:
    """Log-probability of validation images, of what the stage fits."""
    stage = getattr(model, "stage", "joint")
    parts = []
    for part in x.split(_ROWS):
        rows = part.float()
        if stage == "prior":
            parts.append(-model.code_length(rows))
        elif stage == "flow":
            parts.append(model.likelihood.log_prob(rows, model.infer(rows)))
        else:
            parts.append(model.quick_log_prob(rows, 1e-4))
    return torch.cat(parts)


def _between(model: LatentModel, x: Tensor, y: Tensor, share: float) -> Tensor | None:
    if isinstance(model, SequentialLatentModel):
        e = torch.lerp(model.embed(x), model.embed(y), share)
        return model._context(model.quantizer.log_posterior(e).argmax(-1))
    if isinstance(model, ContinuousLatentModel):
        return torch.lerp(model.posterior(x)[0], model.posterior(y)[0], share)
    return model.infer(x if share < 0.5 else y)
