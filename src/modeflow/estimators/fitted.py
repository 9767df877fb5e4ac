"""A fitted density: scores, states, samples, reconstructions, and the file it is kept in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.densities import Beside, Preprocessed
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.scored import ScoredDensity, log_sum_exp
from modeflow.estimators.settings import Settings, latent_model
from modeflow.estimators.storage import plain_value, save_estimator, stored_params
from modeflow.progress import showing
from modeflow.training import seeded, shield

__all__ = ["FittedDensity", "content_of", "log_sum_exp"]

#: Fitted attributes that are stored with the model.
_KEPT = ("dead_states_", "validation_", "history_", "training_", "selection_")


class FittedDensity(ScoredDensity):
    """What an estimator offers once it is fitted; not for direct use."""

    # -- z --------------------------------------------------------------------------------------

    @shield()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior probability of each state, ``p(z = k | x)``, shape ``(N, n_states_)``.

        A row whose density is zero under every state says nothing of z: its posterior is the prior,
        `weights_`.
        """
        joint = self._informed(self._log_joint(X))
        proba = np.exp(joint - log_sum_exp(joint)[:, None])
        return np.asarray(proba / proba.sum(1, keepdims=True))

    @shield()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable state of each row, shape ``(N,)``."""
        return self._informed(self._log_joint(X)).argmax(1)

    def fit_predict(self, X: Any, y: Any = None, **options: Any) -> np.ndarray:
        """Fit, then `predict` on the same rows."""
        fitted: Any = self
        return np.asarray(fitted.fit(X, y, **options).predict(X))

    def _informed(self, joint: np.ndarray) -> np.ndarray:
        """`_log_joint`, with the prior for rows that no state gives any density."""
        none = (joint == -np.inf).all(1, keepdims=True)
        return np.where(none, np.log(self.weights_), joint)

    def encode(self, X: Any, return_std: bool = False) -> Any:
        """z of every row: means of q(z|x) ``(N, L)``, codes ``(N, L)``, or states ``(N,)``.

        Arguments:
            X: rows. return_std: of a continuous latent, also the standard deviation of q(z|x), ``(N, L)``.

        Raises:
            ConfigError: where `return_std` has no meaning.
        """
        check_is_fitted(self)
        if not return_std:
            return self._each(X, "encode", lambda model, x: latent_model(model).read(model.encode(x)[0]))
        if self.latent_.describe().kind != "continuous":
            raise ConfigError("the latent is not continuous: it has no standard deviation (predict_proba)")

        def moments(model: Preprocessed, x: Tensor) -> Tensor:
            found = latent_model(model).read_spread(model.encode(x)[0])
            assert found is not None
            return torch.stack(found, 1)

        both = self._each(X, "encode", moments)
        return both[:, 0], both[:, 1]

    def reconstruct(self, X: Any) -> Any:
        """Every row from its z alone: what z knows of it."""
        return self.domain_.from_tensor(
            torch.from_numpy(
                self._each(
                    X,
                    "reconstruct",
                    lambda model, x: model.decode(latent_model(model).reconstruct(model.encode(x)[0])),
                )
            )
        )

    @shield()
    def interpolate(self, a: Any, b: Any, steps: int = 8) -> np.ndarray:
        """Rows on the way from `a` to `b`, ``(N, steps, ...)``, by what z says of both.

        A continuous z moves on a line; of codes, what the encoder says of every place moves on a line, and is
        quantised; states, and rows without a latent, change at once.
        """
        if steps < 2:
            raise ConfigError(f"steps must be 2 or more, received {steps}")
        x, y = self._tensors(a), self._tensors(b)
        if len(x) != len(y):
            raise DataError(f"{len(x)} {self.domain_.word}s cannot go to {len(y)}: pass as many")
        model = self._placed()
        with torch.no_grad(), showing(bool(self.verbose)):
            u, v = (model.encode(part.to(model.device))[0] for part in (x, y))
            out = []
            for share in np.linspace(0, 1, steps).tolist():
                context = self.latent_.blend(u, v, share)
                generator = torch.Generator().manual_seed(0)
                drawn = self.latent_.decode(context, len(u), generator, temperature=0.0)
                out.append(np.asarray(self.domain_.from_tensor(model.decode(drawn))))
        return np.stack(out, 1)

    def measure_latent(self, X: Any) -> dict[str, Any]:
        """What there is to say of z on rows, as plain values; see `LatentModel.measure`."""
        model = self._placed()
        with torch.no_grad():
            u = torch.cat([model.encode(x.to(model.device))[0] for x in self._tensors(X).split(1024)])
            return latent_model(model).measure(u)

    # -- samples --------------------------------------------------------------------------------

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
    ) -> tuple[Any, np.ndarray]:
        """Draw rows from the fitted density.

        Arguments:
            n_samples: how many.
            state: only from this state of a discrete latent.
            temperature: of the likelihood's noise: 1 samples the density, less gives likelier rows.
            prior_temperature: of z, where it is drawn: probabilities to its inverse's power, or the spread.
            like: rows whose z is used in the place of one drawn, in turns.
            random_state: seed of the drawing; the estimator's own if None.

        Returns:
            rows in the units of the data, and z of each (its state, numbers or codes). Rows are an array
            ``(n_samples, D)``, or, where `fit` was given a data frame of pandas or polars, such a frame with
            the same columns, those of whole numbers as integers; images are ``(n_samples, H, W, C)``, uint8.

        Raises:
            ConfigError: fewer than one sample, no such state, or a temperature not allowed or of no use.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        if prior_temperature != 1.0 and not (like is None and state is None):
            raise ConfigError("z is given, so that none is drawn: leave prior_temperature at 1")
        n, model = int(n_samples), self._placed()
        inner = latent_model(model)
        with torch.no_grad(), showing(bool(self.verbose)):
            if like is not None:
                given = model.encode(self._tensors(like).to(model.device))[0]
                rows = (torch.arange(n) % len(given)).to(model.device)
                inferred, z = inner.infer(given), inner.read(given)[rows]
                context = None if inferred is None else inferred[rows]
            elif state is not None:
                context, z = inner.draw_state(state, n)
            else:
                context, z = inner.draw(n, generator, prior_temperature)
            u = inner.decode(context, n, generator, temperature)
            if like is None and state is None:
                u, beside = model.mixed_in(u, generator, temperature, prior_temperature)
                z = (
                    z.index_put((beside,), inner.read_drawn(u[beside], generator).to(z))
                    if beside.any()
                    else z
                )
            # In double precision columns return to the units of their data.
            x = model.decode(u if self.domain_.scored_in is None else u.to(self.domain_.scored_in))
        return self.domain_.from_tensor(x), z.cpu().numpy()

    # -- saving ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator to one safetensors file; returns its path.

        Equal estimators make equal files: of `history_` and `training_` the times are left out.

        Raises:
            DataError: if the path cannot be written.
            ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        return save_estimator(path, content_of(self), self.model_.state_dict())

    flow_: str
    flow_options_: dict[str, Any]

    def built(self) -> dict[str, Any]:
        """Parameters that say what was built, in the place of those that left it open."""
        built: dict[str, Any] = {"flow": self.flow_, "flow_options": self.flow_options_, **self.chosen_}
        if options := self.latent_.rebuild_options():
            built["latent_options"] = {**self.group("latent_options").to_dict(), **options}
        return built

    #: Other parameters that were left open, as they were chosen.
    chosen_: Mapping[str, Any] = {}
    #: What the other model was built from that stands beside this one; None without one.
    beside_: Mapping[str, Any] | None = None

    @classmethod
    @shield()
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            estimator = cls(**header["params"])
            kinds = {kind.name: kind for kind in (*cls.domains, cls.domain)}
            domain = kinds[header["rows"]].from_dict(header["domain"])
            model = cls._untrained(header, header["built"], domain, int(header["n_states"]))
            estimator.beside_ = header.get("beside")
            if estimator.beside_ is not None:
                other = dict(estimator.beside_)
                n_states = int(other.pop("n_states"))
                aside = cls._untrained(header, {**header["built"], **other}, domain, n_states)
                model.beside = Beside.like(state["beside.means"], latent_model(aside))
            estimator.flow_ = header["built"]["flow"]
            estimator.flow_options_ = header["built"]["flow_options"]
            own = ("flow", "flow_options")
            estimator.chosen_ = {k: v for k, v in header["built"].items() if k not in own}
            model.load_state_dict(state)
            estimator._set_fitted(model, domain)
            for name in _KEPT:
                setattr(estimator, name, header["fitted"][name])
            domain.remember(estimator)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"'{path}' is damaged or foreign: {reason}") from error
        return estimator

    @classmethod
    def _untrained(
        cls, header: Mapping[str, Any], built: Mapping[str, Any], domain: Any, n_states: int
    ) -> Preprocessed:
        with seeded(0):
            return Settings.of(cls(**{**header["params"], **built}), 0).model(domain, n_states, None)


def content_of(fitted: FittedDensity) -> dict[str, Any]:
    """All of a fitted density but its tensors, as plain values for a file."""
    return {
        "class": type(fitted).__name__,
        "params": stored_params(fitted),
        "built": plain_value(fitted.built()),
        "rows": fitted.domain_.name,
        "domain": fitted.domain_.to_dict(),
        "n_states": fitted.latent_.n_states,
        "fitted": {name: getattr(fitted, name) for name in _KEPT},
        **({} if fitted.beside_ is None else {"beside": dict(fitted.beside_)}),
    }
