r"""A classifier by one joint density of rows and labels.

.. math:: p(y = c \mid x) = \frac{p(x, y = c)}{\sum_{c'} p(x, y = c')}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
)
from torch import Tensor

from modeflow.data.schema import listing
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.fitted import content_of, log_sum_exp
from modeflow.estimators.labelled import AnyColumns, apart, checked_labels, joined, label_name
from modeflow.estimators.models import NVF
from modeflow.estimators.storage import Stored, save_estimator, stored_params
from modeflow.training import shield

__all__ = ["NVFClassifier"]


class NVFClassifier(ClassifierMixin, Stored, AnyColumns):
    r"""Classes by Bayes' rule, from one density of rows and labels together.

    .. math:: p(y = c \mid x) = \frac{p(x, y = c)}{\sum_{c'} p(x, y = c')}, \qquad
        p(x \mid y = c) = \frac{p(x, y = c)}{p(y = c)}

    The labels are one more column of levels of an `NVF` with a tree of states: they take part in the tree,
    and a flow over it is told them, so that it is a flow by class. Every class of a row is scored. It knows
    what the rows are like as well: ``log p(x)`` says how strange one is, `sample` draws rows of a class.

    The prior ``p(y)`` is learned with the rest and is that of the training rows, up to what fitting loses.
    For other classes than these divide by it (`class_log_prob`), or fit with weights, such as
    ``sample_weight=compute_sample_weight("balanced", y)``. A density is fitted to all columns and not to what
    tells classes apart, which a classifier that is trained for nothing else may do better, in a hundredth of
    the time (measured in docs/benchmarks.md).

    Columns on a lattice are averaged over the same offsets for all classes of a row, so that probabilities
    sum to one and offsets tell no class apart. Missing cells of X are summed out where the training rows
    have some, or ``latent_options={"likelihood": "leaves"}``; a flow takes complete rows.

    Arguments:
        density: an `NVF` that is not fitted, whose parameters are used: its latent must be a tree (``"auto"``
            is one here). Its seed and `verbose` are those of the classifier. None for ``NVF()``. Its
            parameters are reached as ``density__NAME``.

    Attributes:
        classes_: the labels, sorted, ``(C,)``. class_prior_: p(y), ``(C,)``.
        density_: the fitted joint density, in which a label is its number in `classes_`.
        label_: name of its column there.
        n_features_in_, feature_names_in_: columns of X.
    """

    classes_: np.ndarray
    density_: NVF
    label_: str
    n_features_in_: int

    def __init__(self, density: NVF | None = None) -> None:
        self.density = density

    @shield(grad=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the joint density; `validation_fraction` is held out of every class.

        Arguments:
            X: a data frame of pandas or polars, or an array, ``(N, D)``; columns of all kinds.
            y: labels, ``(N,)``: text, whole numbers or booleans. Of a named series the name is that of its
                column in `density_`.
            sample_weight: non-negative weights, ``(N,)``.
            validation: a pair of rows and labels for early stopping, in the place of held-out ones.
            run_dir, resume: as in `NVF.fit`.

        Returns:
            self.

        Raises:
            DataError: a missing label, a single class, a column of X with the name of y, or what `NVF`
                refuses.
            ConfigError: a density that is no `NVF`, or with another latent than a tree.
            ValueError: no labels of classes (numbers with a fraction).
        """
        density = self._unfitted()
        if y is None:
            raise DataError("NVFClassifier requires y to be passed, but the target y is None")
        X = self._checked(X, reset=True)
        labels = checked_labels(y)
        check_consistent_length(X, labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        used = self.classes_
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, codes, dtype=np.float64)
            used = self.classes_[np.unique(codes[sample_weight > 0])]
            if 0 < len(used) < len(self.classes_):
                self.classes_, codes = used, np.searchsorted(used, labels).clip(0, len(used) - 1)
        if len(used) < 2:
            found = f"one class, '{used[0]}'" if len(used) else "no class with a weight above 0"
            raise DataError(f"y has {found}: a classifier needs two or more")
        self.label_ = label_name(X, y)
        kinds = {self.label_: {"kind": "categorical", "levels": list(range(len(self.classes_)))}}
        said = density.columns if isinstance(density.columns, Mapping) else {}
        density.set_params(columns={**said, **kinds})
        self.density_ = density.fit(
            joined(X, codes, self.label_),
            sample_weight=sample_weight,
            validation=None if validation is None else self._pair(*validation),
            stratify=codes,
            run_dir=run_dir,
            resume=resume,
        )
        return self

    # -- classes --------------------------------------------------------------------------------

    @property
    def class_prior_(self) -> np.ndarray:
        """p(y), as the density has learned it, ``(C,)``: the exact sum over all rows x."""
        return np.exp(self._log_prior())

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row, ``(N,)``."""
        joint = self._log_joint(X)
        return np.asarray(self.classes_[joint.argmax(1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y | x), ``(N, C)``. A row that no class gives any density says nothing: it has `class_prior_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p(y | x), ``(N, C)``."""
        joint = self._log_joint(X)
        return np.asarray(joint - log_sum_exp(joint)[:, None])

    # -- densities ------------------------------------------------------------------------------

    def class_log_prob(self, X: Any) -> np.ndarray:
        """log p(x | y = c) of every row and class, nats in the units of the data, ``(N, C)``.

        Raises:
            DataError: other columns than those fitted, or missing cells that a flow cannot sum out.
        """
        return self._level_scores(X) - self._log_prior()

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x), the sum over classes, nats in the units of the data, ``(N,)``: low for strange rows."""
        return log_sum_exp(self._level_scores(X))

    @shield()
    def sample(
        self, n_samples: int = 1, y: Any = None, *, random_state: Any = None
    ) -> tuple[Any, np.ndarray]:
        """Draw rows and labels; of given classes from p(x | y), exactly.

        Arguments:
            n_samples: how many. y: a class, for all of them; or `n_samples` of them, in order.
            random_state: seed of the drawing; that of the density if None.

        Returns:
            rows of the kind that was fitted, and their labels, ``(n_samples,)``.

        Raises:
            ConfigError: fewer than one sample, or another number of labels.
            DataError: a label that is none of `classes_`.
        """
        check_is_fitted(self)
        if y is None:
            table, _ = self.density_.sample(n_samples, random_state=random_state)
        else:
            given = {self.label_: self._codes(y, n_samples)}
            table = self.density_.sample_given(given, n_samples, random_state=random_state)
        rows, codes = apart(table, self.label_)
        return rows, self.classes_[codes]

    # -- files ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted classifier to one safetensors file; returns its path.

        Raises:
            DataError: if the path cannot be written. ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        content = {
            "class": type(self).__name__,
            "params": None if self.density is None else stored_params(self.density),
            "density": content_of(self.density_),
            "label": self.label_,
            "classes": self.classes_.tolist(),
            "type": "object" if self.classes_.dtype == object else self.classes_.dtype.str,
        }
        return save_estimator(path, content, self.density_.model_.state_dict())

    @classmethod
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            params = header["params"]
            found = cls(None if params is None else NVF(**params))
            found.classes_ = np.array(header["classes"], dtype=header["type"])
            found.label_, content = header["label"], header["density"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"'{path}' is damaged or foreign: {str(error).splitlines()[0]}") from error
        found.density_ = NVF._restore(content, state, path)
        found.n_features_in_ = found.density_.n_features_in_ - 1
        if hasattr(found.density_, "feature_names_in_"):
            found.feature_names_in_ = found.density_.feature_names_in_[:-1]
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _unfitted(self) -> NVF:
        density: NVF = NVF() if self.density is None else clone(self.density)
        if not isinstance(density, NVF):
            raise ConfigError(f"density must be an NVF, received {type(density).__name__}")
        if density.latent not in ("auto", "tree"):
            raise ConfigError(
                f"labels are a column of levels, which latent='{density.latent}' does not take: use 'tree'"
            )
        return density.set_params(latent="tree")

    def _pair(self, X: Any, y: Any) -> Any:
        return joined(self._checked(X, reset=False), self._codes(y, len(X)), self.label_)

    def _codes(self, y: Any, rows: int) -> np.ndarray:
        """The numbers of labels in `classes_`, one for all rows or one each."""
        labels = np.asarray([y] if np.ndim(y) == 0 else y)
        if labels.ndim != 1 or len(labels) not in (1, rows):
            raise ConfigError(f"y must be one class or {rows}, received {len(labels)}")
        place = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in labels.tolist() if label not in place]
        if unknown:
            raise DataError(
                f"there is no class {unknown[0]!r}; the classes are {listing(list(map(str, place)))}"
            )
        codes = np.array([place[label] for label in labels.tolist()])
        return np.broadcast_to(codes, (rows,)) if len(codes) == 1 else codes

    @shield()
    def _level_scores(self, X: Any) -> np.ndarray:
        """log p(x, y = c), ``(N, C)``."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        table = joined(X, np.zeros(len(X), dtype=np.int64), self.label_)
        return self.density_.level_scores(self.label_, table)

    def _log_joint(self, X: Any) -> np.ndarray:
        """The same, with the prior for rows that no class gives any density."""
        joint = self._level_scores(X)
        return np.where((joint == -np.inf).all(1, keepdims=True), self._log_prior(), joint)

    def _log_prior(self) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(self.density_.level_scores(self.label_)[0])
