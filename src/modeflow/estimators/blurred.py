r"""Numbers seen through noise, along their principal axes: a density without spikes, for who is odd.

A value that repeats has a probability, any other a density per unit of its column: which of the two is odd
would be a matter of units. Where rows crowd without being equal the density is as large as one likes, and
odd rows that lie there look usual. And a tree joins columns in pairs. So the density here is that of rows
with noise, in standard deviations of the columns, a few amounts of it:

.. math::
    s(x) = \frac1M \sum_{m=1}^M \log p_{\sigma_m}(x), \qquad
    t = (x - \mu) / s + \sigma\, \epsilon, \qquad z = \Lambda_\sigma^{-1/2} V^\top t

with V and Λ - σ² the eigenvectors and eigenvalues of the correlations; p is a tree of states over the first
axes z, and a Gaussian over the others, which hold little but noise. No density exceeds that of the noise, and
distances below σ do not count. Little noise sees what is fine, much of it what is far from all else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from modeflow.data.columns.frames import frame_kind
from modeflow.densities.quadrature import log_integral
from modeflow.errors import DataError
from modeflow.estimators.fitted import content_of
from modeflow.estimators.labelled import is_frame
from modeflow.estimators.models import NVF
from modeflow.training.state import under

__all__ = ["EPOCHS", "NOISE", "STATES", "BlurredTrees", "as_numbers", "complete_numbers"]

#: Standard deviations of the noise, in those of the columns.
NOISE = (0.1, 0.3, 1.0)
#: States and epochs of a tree: few, as odd rows among those fitted have no states of their own then, and a
#: fit takes seconds.
STATES, EPOCHS = 8, 20
#: Axes that a tree has at the most.
_AXES = 64
#: Numbers at once where cells are integrated over, at about so many nodes.
_AT_ONCE, _NODES = 2**23, 120


def as_numbers(X: Any) -> np.ndarray | None:
    """A table as numbers ``(N, D)``, NaN where missing; None if it has other columns, or infinite numbers."""
    if is_frame(X):
        kinds = X.dtypes if frame_kind(X) == "polars" else [X[name].dtype for name in X.columns]
        numeric = (
            all(kind.is_numeric() for kind in kinds)
            if isinstance(X, pl.DataFrame)
            else all(getattr(kind, "kind", "O") in "iuf" for kind in kinds)
        )
        if not numeric:
            return None
        values = X.to_numpy()
    else:
        values = np.asarray(X)
    if values.dtype.kind not in "iuf":
        return None
    values = values.astype(np.float64)
    return None if np.isinf(values).any() else values


def complete_numbers(X: Any) -> np.ndarray:
    """New rows of a table that was taken for numbers, ``(N, D)``.

    Raises:
        DataError: other than numbers, missing cells, or infinite numbers.
    """
    values = as_numbers(X)
    if values is None or np.isnan(values).any():
        raise DataError(
            "a cell is missing or no finite number, and the detector was fitted to complete numbers, along "
            "their principal axes: correct it, or give the detector a density of the columns, such as "
            "NVF(latent='tree', latent_options={'likelihood': 'leaves'})"
        )
    return values


@dataclass(frozen=True)
class _View:
    """One amount of noise: whitened axes ``z = t W``, ``(D, D)``, and the tree over the first of them."""

    whiten: np.ndarray
    tree: NVF

    @property
    def axes(self) -> int:
        return int(self.tree.n_features_in_)

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Log-density of axes ``(N, D)``, ``(N,)``."""
        model = self.tree._scorer()
        kept, rest = z[:, : self.axes], z[:, self.axes :]
        with torch.no_grad():
            parts = torch.from_numpy(np.ascontiguousarray(kept)).split(4096)
            of_tree = torch.cat([model.log_prob(part.to(model.device)).cpu() for part in parts])
        return np.asarray(
            of_tree.double().numpy() - 0.5 * (rest**2 + math.log(2 * math.pi)).sum(1) + self.log_volume
        )

    @property
    def log_volume(self) -> float:
        return float(np.linalg.slogdet(self.whiten)[1])


class BlurredTrees:
    """Trees of states over principal axes of numbers with noise, one an amount; see the module.

    Attributes:
        seed: of the noise and of the fits. mean, scale: of the columns, ``(D,)``; a scale of 0 is that of a
            constant column, no other value of which is possible. views: one for each of `NOISE`.
    """

    mean: np.ndarray
    scale: np.ndarray
    views: list[_View]

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def n_features_in_(self) -> int:
        """D."""
        return len(self.mean)

    def fit(self, values: np.ndarray) -> Self:
        """Fit to complete rows of finite numbers, ``(N, D)``.

        Raises:
            DataError: all columns are constant, or what `NVF` refuses.
        """
        rng = np.random.default_rng(self.seed)
        # Rounding would leave a constant column a spread, and another mean.
        varied = values.min(0) < values.max(0)
        self.mean = np.where(varied, values.mean(0), values[0])
        self.scale = np.where(varied, values.std(0), 0.0)
        if not varied.any():
            raise DataError("all columns are constant: there is nothing by which rows could be odd")
        t = self._standard(values)
        spread, axes = np.linalg.eigh(t.T @ t / len(t))
        order = np.argsort(spread)[::-1]
        spread, axes = spread[order].clip(0.0), axes[:, order]
        self.views = []
        for sigma in NOISE:
            whiten = axes / np.sqrt(spread + sigma**2)
            z = (t + sigma * rng.normal(size=t.shape)) @ whiten[:, :_AXES]
            tree = NVF(
                latent="tree",
                latent_options={"likelihood": "leaves", "states": STATES},
                columns={f"x{j}": "real" for j in range(z.shape[1])},
                max_epochs=EPOCHS,
                random_state=int(rng.integers(2**31 - 1)),
            )
            self.views.append(_View(whiten, tree.fit(z)))
        return self

    def score_samples(self, values: np.ndarray) -> np.ndarray:
        """s(x) of rows ``(N, D)``, nats in the units of the data, ``(N,)``; minus infinity of rows with
        another value than that of a constant column.
        """
        found = self._mean(self._standard(values)) + self._volumes().sum()
        return np.where(self._wrong(values).any(1), -np.inf, found)

    def left_out(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """s(x), ``(N,)``, and of every column the same without it, ``(N, D)``: each density integrated over
        the column by quadrature (`modeflow.densities.quadrature`)."""
        t, wrong, volumes = self._standard(values), self._wrong(values), self._volumes()
        whole = self._mean(t)
        rest = np.tile(whole[:, None], (1, len(self.varied)))
        for place, column in enumerate(np.flatnonzero(self.varied)):
            rest[:, column] = np.mean([_without(view, t, place) for view in self.views], axis=0)
        # A constant column has one value and no volume; with another the other columns say nothing.
        others = wrong.sum(1, keepdims=True) - wrong
        rest = np.where(others > 0, -np.inf, rest + volumes.sum() - volumes)
        return np.where(wrong.any(1), -np.inf, whole + volumes.sum()), rest

    # -- files ----------------------------------------------------------------------------------

    def content(self) -> list[dict[str, Any]]:
        """The trees as plain values for a file, without their tensors."""
        return [content_of(view.tree) for view in self.views]

    def state(self) -> dict[str, Tensor]:
        """Tensors of all parts."""
        found = {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        for number, view in enumerate(self.views):
            found[f"{number}.whiten"] = torch.from_numpy(np.ascontiguousarray(view.whiten))
            found |= {f"{number}.tree.{name}": value for name, value in view.tree.model_.state_dict().items()}
        return found

    @classmethod
    def restore(cls, content: list[dict[str, Any]], state: Mapping[str, Tensor], path: str) -> Self:
        """What `content` and `state` were made of."""
        found = cls()
        found.mean, found.scale = state["mean"].numpy(), state["scale"].numpy()
        found.views = []
        for number, each in enumerate(content):
            own = under(f"{number}.tree.", state)
            found.views.append(_View(state[f"{number}.whiten"].numpy(), NVF._restore(each, own, path)))
        return found

    # -- inside ---------------------------------------------------------------------------------

    @property
    def varied(self) -> np.ndarray:
        """Which columns are not constant, ``(D,)``."""
        return self.scale > 0

    def _standard(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(((values - self.mean) / np.where(self.varied, self.scale, 1.0))[:, self.varied])

    def _mean(self, t: np.ndarray) -> np.ndarray:
        return np.asarray(np.mean([view.log_prob(t @ view.whiten) for view in self.views], axis=0))

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((values != self.mean) & ~self.varied)

    def _volumes(self) -> np.ndarray:
        return np.asarray(-np.log(np.where(self.varied, self.scale, 1.0)))


def _without(view: _View, t: np.ndarray, column: int) -> np.ndarray:
    """Log-density of standardised rows ``(N, D)`` without a column, integrated over it, ``(N,)``."""
    found = np.empty(len(t))
    size = max(1, _AT_ONCE // (_NODES * t.shape[1]))
    for first in range(0, len(t), size):
        rows = t[first : first + size]
        base, step = rows @ view.whiten, view.whiten[column]

        def log_f(
            nodes: Tensor, rows: np.ndarray = rows, base: np.ndarray = base, step: np.ndarray = step
        ) -> Tensor:
            away = nodes.numpy() - rows[:, column, None]
            z = base[:, None, :] + away[:, :, None] * step
            return torch.from_numpy(view.log_prob(z.reshape(-1, z.shape[2])).reshape(away.shape))

        found[first : first + size] = log_integral(log_f, torch.from_numpy(rows[:, column])).numpy()
    return found
