r"""Who is odd: rows of low density, with p-values by their rank among rows that were held out.

.. math:: p(x) = \frac{1 + \#\{i : s_i \le s(x)\}}{n + 1}, \qquad s(x) = \log p(x)

The held-out rows take no part in the fit whose density scores them, nor in its early stopping or in what it
leaves open: each fit holds out rows for that among its own.
"""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import OutlierMixin, clone
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.domains import MixedDomain
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.blurred import EPOCHS, STATES, BlurredTrees, as_numbers, complete_numbers
from modeflow.estimators.fitted import content_of, log_sum_exp
from modeflow.estimators.labelled import AnyColumns, is_frame
from modeflow.estimators.models import NVF
from modeflow.estimators.storage import Stored, plain_value, save_estimator, stored_params
from modeflow.estimators.surprises import expected, left_out, surprises_of
from modeflow.metrics import rank_p_values, rank_threshold
from modeflow.progress import showing, track
from modeflow.training import shield
from modeflow.training.state import under

__all__ = ["NVFOutlier"]

#: Held-out rows by which it is learned what surprises are usual.
_USUAL_ROWS = 200
#: The same where each cell is integrated over; more would say it no better than the rest is known.
_USUAL_INTEGRATED = 60
#: Rows that a column of numbers has, at the least, beside those of its commonest value.
_RARE = 20


class NVFOutlier(OutlierMixin, Stored, AnyColumns):
    r"""Odd rows of a table by the density of an `NVF`: low ones, with p-values and the columns that say why.

    .. math:: s(x) = \log \frac1M \sum_{m=1}^M p_m(x), \qquad
        p(x) = \frac{1 + \#\{i : s_i \le s(x)\}}{n + 1}

    The score of a held-out row is by the fit that has not seen it. With a share held out there is one fit,
    and the p-value of a row that is exchangeable with the others is at most α with a probability of at most
    α, whatever the density (split conformal). With folds every row is held out once, from one of M fits, and
    new rows are scored by the average of all: more rows for the density, finer p-values. There a new row is
    scored by more fits than those that it is ranked among, which makes p-values too large rather than too
    small; that is tested, not proved.

    A share of odd rows among those fitted makes p-values larger: odd rows are then ranked among odd rows.

    Arguments:
        density: an `NVF` that is not fitted, whose parameters are used; its seed is that of the detector
            where that has one, and its parameters are reached as ``density__NAME``. None: of complete numbers
            the mean log-density of rows with three amounts of noise, by trees along their principal axes
            (`modeflow.estimators.blurred`), which ranks better and asks for new rows without holes; of
            all other tables ``NVF(latent="tree", latent_options={"likelihood": "leaves", "states": 8},
            max_epochs=20)``, which takes all kinds of columns and missing cells, and knows every marginal.
        contamination: the share of the rows of `fit` that `predict` calls odd, in (0, 0.5]; or ``"auto"``: it
            calls a row odd whose p-value is at most `alpha`.
        alpha: share of usual new rows that ``contamination="auto"`` calls odd. With n rows held out it is at
            least ``1 / (n + 1)``.
        calibration: rows held out: a share, in (0, 1), for one fit; or a number of folds, 2 or more.
        random_state: seed, of the folds and of the fits; None for that of `density`.

    Attributes:
        densities_: the fitted densities, `NVF` or, of numbers where none is given, `BlurredTrees`.
        held_scores_: of the rows held out, nats, ``(n,)``.
        held_rows_: which of the rows of `fit` they are, ``(n,)``.
        offset_: the score below which a row is called odd.
        n_features_in_, feature_names_in_: columns of X.

    Reference:
        Bates et al., *Testing for Outliers with Conformal p-Values*, 2023, https://arxiv.org/abs/2104.08279;
        Vovk, *Cross-Conformal Predictors*, 2015, https://arxiv.org/abs/1208.0806
    """

    densities_: list[NVF | BlurredTrees]
    held_scores_: np.ndarray
    held_rows_: np.ndarray
    offset_: float
    n_features_in_: int

    def __init__(
        self,
        density: NVF | None = None,
        *,
        contamination: float | str = "auto",
        alpha: float = 0.05,
        calibration: float | int = 5,
        random_state: Any = None,
    ) -> None:
        self.density = density
        self.contamination = contamination
        self.alpha = alpha
        self.calibration = calibration
        self.random_state = random_state

    @shield(grad=True)
    def fit(self, X: Any, y: Any = None, *, held: Any = None) -> Self:
        """Fit the densities, and score the rows that each has not seen.

        Arguments:
            X: a data frame of pandas or polars, or an array, ``(N, D)``; columns of all kinds. y: ignored.
            held: rows of the same columns that are held out in the place of some of X, for one fit to all of
                X; `calibration` has then no say, and `held_rows_` is empty.

        Returns:
            self.

        Raises:
            ConfigError: a parameter that is not allowed. DataError: too few rows, or what `NVF` refuses.
        """
        density = self._checked_density()
        X = self._checked(X, reset=True, least=2)
        rows = len(X)
        rng = check_random_state(density.random_state if self.random_state is None else self.random_state)
        values = as_numbers(X) if self.density is None else None
        blurred = values is not None and not np.isnan(values).any()
        table = values if blurred else X
        said = {} if blurred else _kinds(density, X)
        if held is not None:
            held = self._checked(held, reset=False)
            held = complete_numbers(held) if blurred else held
        folds = self._folds(rows, rng) if held is None else [np.zeros(0, dtype=np.int64)]
        densities, scores, usual = list[Any](), [], []
        with showing(bool(density.verbose)):
            for fold in track(folds, "fit") if len(folds) > 1 else folds:
                rest, seed = np.setdiff1d(np.arange(rows), fold), int(rng.randint(2**31 - 1))
                apart = _safe_indexing(table, fold) if held is None else held
                one: Any = (
                    BlurredTrees(seed) if blurred else clone(density).set_params(**said, random_state=seed)
                )
                densities.append(one.fit(_safe_indexing(table, rest)))
                scores.append(one.score_samples(apart))
                some = math.ceil((_USUAL_INTEGRATED if blurred else _USUAL_ROWS) / len(folds))
                usual.append(_safe_indexing(apart, slice(0, some)))
        self.densities_ = densities
        self.held_rows_, self.held_scores_ = np.concatenate(folds), np.concatenate(scores)
        self._names = _names(X) if blurred else densities[0].domain_.facts["columns"]
        self._usual, self._usual_rows = None, usual if blurred else []
        if not blurred:
            found = [each.surprises(some) for each, some in zip(densities, usual, strict=True)]
            self._usual = expected(np.concatenate(found))
        self.offset_ = self._offset(X)
        return self

    # -- rows -----------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row, nats in the units of the data, ``(N,)``; low for odd ones.

        Of numbers without a `density` it is the mean of the log-densities through three amounts of noise,
        which is no density itself.

        Raises:
            DataError: other columns than those fitted, or missing cells that the density does not sum out.
        """
        X = self._asked(X)
        return _log_mean(np.stack([density.score_samples(X) for density in self.densities_], 1))

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`, ``(N,)``: negative for rows that are called odd."""
        return np.asarray(self.score_samples(X) - self.offset_)

    def predict(self, X: Any) -> np.ndarray:
        """-1 for rows that are called odd, 1 for others, ``(N,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """How often a usual row is as odd as each, by its rank among the held-out rows, ``(N,)``.

        For rows that were not fitted; those that were have been seen by the densities.
        """
        return rank_p_values(self.score_samples(X), self.held_scores_)

    def contributions(self, X: Any) -> np.ndarray:
        r"""What each cell makes its row odder than usual, nats, ``(N, D)``.

        .. math:: -\log p(x_j \mid x_{-j}) - \frac1n \sum_i -\log p(x_{ij} \mid x_{i,-j})

        the second over held-out rows, so that units cancel; D counts the columns that are modelled
        (`column_names_`). Exact where the density knows its marginals, else by quadrature
        (`modeflow.estimators.surprises`). NaN of a missing cell.
        """
        X = self._asked(X)
        joint, rest = zip(*(_left_out(density, X) for density in self.densities_), strict=True)
        found = surprises_of(_log_mean(np.stack(joint, 1)), _log_mean(np.stack(rest, -1)))
        return np.asarray(found - self.usual_surprises_)

    @property
    def column_names_(self) -> tuple[str, ...]:
        """The columns that are modelled, those of `contributions`."""
        check_is_fitted(self)
        return tuple(self._names)

    @property
    def usual_surprises_(self) -> np.ndarray:
        """Mean over held-out rows of ``-log p(x_j | x_-j)``, nats, ``(D,)``; quadrature waits until asked."""
        check_is_fitted(self)
        if self._usual is None:
            pairs = zip(self.densities_, self._usual_rows, strict=True)
            found = [surprises_of(*_left_out(density, rows)) for density, rows in pairs]
            self._usual = expected(np.concatenate(found))
        return self._usual

    # -- files ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted detector to one safetensors file; returns its path.

        Raises:
            DataError: if the path cannot be written. ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        state = {name: torch.from_numpy(np.asarray(getattr(self, name))) for name in _ARRAYS}
        blurred, contents = False, list[Any]()
        for number, density in enumerate(self.densities_):
            if blurred := isinstance(density, BlurredTrees):
                one: Any = density.content()
                tensors = density.state()
            else:
                one, tensors = content_of(density), density.model_.state_dict()
            contents.append(one)
            state |= {f"{number}.{name}": value for name, value in tensors.items()}
        own = {name: plain_value(value) for name, value in self.get_params(deep=False).items()}
        if isinstance(self.random_state, np.random.RandomState):
            own["random_state"] = None
        whole = {
            "class": type(self).__name__,
            "params": {**own, "density": None if self.density is None else stored_params(self.density)},
            "densities": contents,
            "columns": list(self._names),
            "blurred": blurred,
            "named": hasattr(self, "feature_names_in_"),
            "offset": self.offset_,
        }
        return save_estimator(path, whole, state)

    @classmethod
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            given = header["params"]["density"]
            found = cls(**{**header["params"], "density": None if given is None else NVF(**given)})
            found.offset_ = float(header["offset"])
            found.held_scores_, found.held_rows_ = (state[name].numpy() for name in _ARRAYS[:2])
            contents = list(header["densities"])
            found._usual = state["usual_surprises_"].numpy()
            restore: Any = BlurredTrees.restore if header.get("blurred") else NVF._restore
            found.densities_ = [
                restore(each, under(f"{number}.", state), path) for number, each in enumerate(contents)
            ]
            first: Any = found.densities_[0]
            # An older file has the names in its densities alone.
            found._names = header["columns"] if "columns" in header else first.domain_.facts["columns"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelFileError(f"'{path}' is damaged or foreign: {str(error).splitlines()[0]}") from error
        found.n_features_in_, found._usual_rows = first.n_features_in_, []
        if hasattr(first, "feature_names_in_"):
            found.feature_names_in_ = first.feature_names_in_
        elif header.get("named"):
            found.feature_names_in_ = np.array(found._names, dtype=object)
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _checked_density(self) -> NVF:
        """The density to be fitted, as a copy; refuses parameters that are not allowed."""
        share = isinstance(self.contamination, numbers.Real) and 0 < float(self.contamination) <= 0.5
        if not share and self.contamination != "auto":
            raise ConfigError(
                f"contamination must lie in (0, 0.5] or be 'auto', received {self.contamination!r}"
            )
        if not (isinstance(self.alpha, numbers.Real) and 0 < float(self.alpha) < 1):
            raise ConfigError(f"alpha must lie between 0 and 1, received {self.alpha!r}")
        held, whole = self.calibration, isinstance(self.calibration, numbers.Integral)
        if (
            isinstance(held, bool)
            or not isinstance(held, numbers.Real)
            or not (held >= 2 if whole else 0 < held < 1)
        ):
            raise ConfigError(
                f"calibration must be a share between 0 and 1, or 2 folds or more, received {held!r}"
            )
        if self.density is None:
            options = {"likelihood": "leaves", "states": STATES}
            return NVF(latent="tree", latent_options=options, max_epochs=EPOCHS)
        if not isinstance(self.density, NVF):
            raise ConfigError(f"density must be an NVF, received {type(self.density).__name__}")
        found: NVF = clone(self.density)
        return found

    def _folds(self, rows: int, rng: np.random.RandomState) -> list[np.ndarray]:
        """The rows held out of each fit."""
        order = rng.permutation(rows)
        if isinstance(self.calibration, numbers.Integral):
            count = min(int(self.calibration), rows // 2)
            if count >= 2:
                return [np.asarray(part) for part in np.array_split(order, count)]
        else:
            held = max(1, round(float(self.calibration) * rows))
            if rows - held >= 3:
                return [order[:held]]
        raise DataError(f"{rows} rows are too few to hold some out: 6 are needed, and many more are wanted")

    def _offset(self, X: Any) -> float:
        if self.contamination != "auto":
            return float(np.percentile(self.score_samples(X), 100.0 * float(self.contamination)))
        least = 1 / (len(self.held_scores_) + 1)
        if self.alpha < least:
            warnings.warn(
                f"{len(self.held_scores_)} rows held out have no p-value below {least:.2g}: "
                f"alpha={self.alpha} counts as that",
                UserWarning,
                stacklevel=4,
            )
        return rank_threshold(self.held_scores_, float(self.alpha))

    def _asked(self, X: Any) -> Any:
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return complete_numbers(X) if isinstance(self.densities_[0], BlurredTrees) else X


def _kinds(density: NVF, X: Any) -> dict[str, Any]:
    """Parameters that say what the columns of X are, for fits to parts of it.

    A column of numbers nearly all of which are one (a flag, a failure) is taken for levels, where nothing
    else was said of it: in a part of the rows it may be constant, and has no scale.
    """
    domain, values = density._kind(X).learn(clone(density), X)
    if not isinstance(domain, MixedDomain):
        return domain.said()
    told = density.columns if isinstance(density.columns, Mapping) else {}
    rare = {}
    for feature, column in zip(domain.schema.features(), values.T, strict=True):
        cells = column[~np.isnan(column)]
        off = len(cells) - np.unique(cells, return_counts=True)[1].max()
        if not feature.levels and feature.name not in told and off < _RARE:
            rare[feature.name] = "categorical"
    if rare:
        domain = MixedDomain.learn(clone(density).set_params(columns={**told, **rare}), X)[0]
    return domain.said()


def _left_out(density: NVF | BlurredTrees, X: Any) -> tuple[np.ndarray, np.ndarray]:
    return density.left_out(X) if isinstance(density, BlurredTrees) else left_out(density, X)


def _names(X: Any) -> list[str]:
    return [str(name) for name in X.columns] if is_frame(X) else [f"x{j}" for j in range(X.shape[1])]


#: Fitted arrays that are stored.
_ARRAYS = ("held_scores_", "held_rows_", "usual_surprises_")


def _log_mean(values: np.ndarray) -> np.ndarray:
    """The logarithm of the mean of exponentials over the last axis; NaN where there are none."""
    flat = values.reshape(-1, values.shape[-1])
    return np.asarray((log_sum_exp(flat) - math.log(values.shape[-1])).reshape(values.shape[:-1]))
