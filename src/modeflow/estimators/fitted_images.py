"""A fitted model of images: scores, samples, codes, reconstructions, and the file it is kept in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.data.images import as_images
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.base import blocks
from modeflow.estimators.storage import Stored, save_estimator, stored_params
from modeflow.latents import LatentModel
from modeflow.metrics import BitsPerDim, LogLikelihood, summarise, summarise_bits
from modeflow.progress import showing
from modeflow.training import resolve_device, seeded, shield

__all__ = ["ROWS", "FittedImages", "to_tensor"]

#: Images scored at once.
ROWS = 256
#: Fitted attributes that are stored with the model.
_KEPT = ("validation_", "history_", "training_")


class FittedImages(Stored, DensityMixin, BaseEstimator):
    """What `ImageDensity` offers once it is fitted; not for direct use."""

    device: str
    latent: str
    levels: int
    random_state: Any
    verbose: bool

    def _build(
        self,
        shape: tuple[int, int, int],
        steps: int | None = None,
        rebuild: Mapping[str, Any] | None = None,
    ) -> LatentModel:
        """The model the parameters describe, not fitted."""
        raise NotImplementedError

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
        return len(self.model_.state_probs())

    @shield()
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

    @shield()
    def bits_per_dim(self, X: Any) -> BitsPerDim:
        """Bits per dimension at the images' own size, with standard error, kind, and what z costs."""
        return summarise_bits(*self.log_prob_and_cost(X), self.density_kind_, int(np.prod(self.shape_)))

    def latent_cost(self, X: Any) -> np.ndarray:
        """What z costs of every image's code length, nats, shape ``(N,)``."""
        return self._each(X, "code length", lambda model, x: model.latent_cost(x)).astype(np.float64)

    def log_prob_and_cost(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """`score_samples` and `latent_cost` from one pass over the images."""
        both = self._each(X, "score", lambda model, x: torch.stack(model.log_prob_and_cost(x), 1))
        log_prob, cost = both.astype(np.float64).T
        return log_prob, cost

    @shield()
    def bounds(self, X: Any) -> dict[str, Any]:
        """Both bounds of a continuous latent in bits: the evidence lower bound, and IWAE with `latent_draws`.

        Returns:
            ``elbo`` and ``iwae``, `BitsPerDim` each, and ``draws``.

        Raises:
            ConfigError: for another latent.
        """
        if self.latent != "continuous":
            raise ConfigError(f"bounds are of a continuous latent: this one is {self.latent}")
        cost, dims = self.latent_cost(X), int(np.prod(self.shape_))
        both = self._each(X, "bounds", lambda model, x: torch.stack(model.both_bounds(x), 1)).astype(
            np.float64
        )
        elbo, iwae = (summarise_bits(column, cost, self.density_kind_, dims) for column in both.T)
        return {"elbo": elbo, "iwae": iwae, "draws": self.model_.n_draws}

    def encode(self, X: Any) -> np.ndarray:
        """z of every image: codes ``(N, L)``, means ``(N, latent_features)``, or states ``(N,)``."""
        return self._each(X, "encode", lambda model, x: model.read(x))

    def reconstruct(self, X: Any) -> np.ndarray:
        """Every image from its z alone, ``(N, H, W, C)``: what z knows of it."""
        return _to_images(self._each(X, "reconstruct", lambda model, x: model.reconstruct(x)))

    @shield()
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
        with showing(bool(self.verbose)):
            x, y = (to_tensor(i).float().to(model.device) for i in (first, second))
            out = [
                model.decode(model.blend(x, y, share), len(x), temperature=0.0)
                for share in np.linspace(0, 1, steps).tolist()
            ]
        return np.stack([_to_images(o.cpu().numpy()) for o in out], 1)

    @shield()
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
            prior_temperature: of z, where it is drawn.
            like: images whose z is used in the place of one drawn, in turns.
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
        if prior_temperature != 1.0 and not (like is None and state is None):
            raise ConfigError("z is given, so that none is drawn: leave prior_temperature at 1")
        with showing(bool(self.verbose)):
            if like is not None:
                given = to_tensor(self._checked(like)).float().to(model.device)
                rows = torch.arange(n) % len(given)
                inferred = model.infer(given)
                context = None if inferred is None else inferred[rows.to(model.device)]
                z = torch.from_numpy(self.encode(like))[rows]
            elif state is not None:
                context, z = model.draw_state(state, n)
            else:
                context, z = model.draw(n, generator, prior_temperature)
            x = model.decode(context, n, generator, temperature)
        return _to_images(x.cpu().numpy()), z.cpu().numpy()

    # -- saving ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator to one safetensors file; returns its path.

        Equal estimators make equal files: of `history_` and `training_` the times are left out.

        Raises:
            DataError: if the path cannot be written. ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        content = {
            "class": type(self).__name__,
            "params": stored_params(self),
            "shape": list(self.shape_),
            "rebuild": self.model_.rebuild_options(),
            "fitted": {name: getattr(self, name) for name in _KEPT},
        }
        return save_estimator(path, content, self.model_.state_dict())

    @classmethod
    @shield()
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            estimator = cls(**header["params"])
            channels, height, width = (int(n) for n in header["shape"])
            shape = (channels, height, width)
            with seeded(0):
                model = estimator._build(shape, rebuild=header.get("rebuild"))
            model.load_state_dict(state)
            estimator._set_fitted(model, shape)
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

    @shield()
    def _each(self, X: Any, what: str, function: Any) -> np.ndarray:
        rows = to_tensor(self._checked(X))
        model = self._placed()
        with showing(bool(self.verbose)):
            parts = [
                function(model, rows[part].float().to(model.device)).cpu().numpy()
                for part in blocks(len(rows), ROWS, what)
            ]
        return np.concatenate(parts)


def to_tensor(images: np.ndarray) -> Tensor:
    """``(N, H, W, C)`` to bytes ``(N, C, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _to_images(x: np.ndarray) -> np.ndarray:
    """``(N, C, H, W)`` of whole numbers to uint8 ``(N, H, W, C)``."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).astype(np.uint8)
