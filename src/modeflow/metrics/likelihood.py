"""A log-likelihood as it is reported: value, standard error, and the word that says what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from modeflow.errors import ConfigError, DataError
from modeflow.transforms.base import Exactness, weakest

if TYPE_CHECKING:
    from torch import Tensor

    from modeflow.densities.base import Density

__all__ = [
    "BitsPerDim",
    "LogLikelihood",
    "bits_per_dim",
    "image_bits",
    "pooled",
    "reconstruction_error",
    "summarise",
    "summarise_bits",
]


@dataclass(frozen=True)
class LogLikelihood:
    """Mean log-likelihood per row over a whole set.

    Arguments:
        value: mean log-density in nats; -inf or NaN if any row's is.
        standard_error: of the mean, over rows; NaN for a single row or a non-finite value.
        kind: "exact", "lower bound" or "estimate".
        n: number of rows.
        non_finite: rows whose log-density is infinite or NaN. They are counted, never left out.
    """

    value: float
    standard_error: float
    kind: Exactness
    n: int
    non_finite: int = 0

    def __str__(self) -> str:
        if math.isfinite(self.value):
            spread = f" ± {self.standard_error:.3f}" if math.isfinite(self.standard_error) else ""
            number = f"{_signed(self.value)}{spread}"
        else:
            number = _signed(self.value)
        lost = f", {self.non_finite} non-finite" if self.non_finite else ""
        return f"{number} nats ({self.kind}, n={self.n}{lost})"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogLikelihood:
        """What `to_dict` gave."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that JSON cannot hold become None (see `non_finite`)."""
        plain = asdict(self)
        for key in ("value", "standard_error"):
            if not math.isfinite(plain[key]):
                plain[key] = None
        return plain


def summarise(log_probs: np.ndarray, kind: Exactness, weight: np.ndarray | None = None) -> LogLikelihood:
    r"""Summarise per-row log-densities.

    .. math:: m = \frac{\sum_i w_i s_i}{\sum_i w_i}, \qquad
        \mathrm{se} = \frac{\sqrt{\sum_i w_i^2 (s_i - m)^2}}{\sum_i w_i} \sqrt{\frac{n}{n - 1}}

    The mean is over every row: a row to which the model gives no density makes the mean -inf, as it
    does in truth, and `non_finite` says how many such rows there are.

    Arguments:
        log_probs: array (N,) or a CPU tensor, in nats.
        kind: what the numbers are: "exact", "lower bound" or "estimate".
        weight: of the rows (N,), not negative; equal if None. Rows of weight zero are left out.

    Raises:
        ConfigError: an unknown kind.
        DataError: no rows, an array that is not one-dimensional, or weights of another shape.
    """
    if kind not in get_args(Exactness):
        raise ConfigError(f"kind='{kind}' is not one of {', '.join(map(repr, get_args(Exactness)))}")
    values = np.asarray(log_probs, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"log-likelihoods need shape (rows,) with at least one row, got {values.shape}")
    share = np.full(len(values), 1 / len(values)) if weight is None else _shares(weight, values)
    values, share = values[share > 0], share[share > 0]
    n = len(values)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is what it should be
        mean = float(values @ share)
    error = math.nan
    if finite.all() and n > 1:
        error = float(np.linalg.norm(share * (values - mean)) * math.sqrt(n / (n - 1)))
    return LogLikelihood(mean, error, kind, n, int((~finite).sum()))


def pooled(parts: Sequence[LogLikelihood]) -> LogLikelihood:
    r"""The summary of all rows from those of parts of them, equally weighted.

    .. math:: m = \frac{\sum_j n_j m_j}{\sum_j n_j}, \qquad
        \mathrm{se}^2 = \frac{\sum_j n_j (n_j - 1)\, \mathrm{se}_j^2 + n_j (m_j - m)^2}{n (n - 1)}

    Raises:
        DataError: no parts.
    """
    if not parts:
        raise DataError("there are no parts to be summarised: give at least one")
    sizes = np.array([part.n for part in parts], dtype=np.float64)
    means = np.array([part.value for part in parts])
    lost = sum(part.non_finite for part in parts)
    with np.errstate(invalid="ignore"):
        mean = float(means @ (sizes / sizes.sum()))
    n, error = int(sizes.sum()), math.nan
    if not lost and n > 1:
        within = [part.n * (part.n - 1) * part.standard_error**2 for part in parts if part.n > 1]
        error = math.sqrt((math.fsum(within) + float(sizes @ (means - mean) ** 2)) / (n * (n - 1.0)))
    return LogLikelihood(mean, error, weakest(*(part.kind for part in parts)), n, lost)


def bits_per_dim(log_prob: float, dims: int) -> float:
    r"""Nats of a whole image to bits per dimension: :math:`-\log p(x) / (D \log 2)`.

    Arguments:
        log_prob: log-probability of the integers, or log-density in units of one grey level.
        dims: D, channels times height times width.
    """
    return -log_prob / (dims * math.log(2))


@dataclass(frozen=True)
class BitsPerDim:
    """Mean bits per dimension of images over a whole set.

    Arguments:
        value: at the images' own channels, size and levels; smaller is better.
        standard_error: of the mean, over images.
        kind: what the log-probability is: "exact", "lower bound" (these bits are then an upper one) or
            "estimate".
        n: number of images. dims: channels times height times width.
        code_length: bits per dimension of `value` that the latent costs (0 without one).
    """

    value: float
    standard_error: float
    kind: Exactness
    n: int
    dims: int
    code_length: float = 0.0

    def __str__(self) -> str:
        share = f", of which z {self.code_length:.3f}" if self.code_length else ""
        bound = {"exact": "exact", "lower bound": "bound", "estimate": "estimate"}[self.kind]
        return f"{self.value:.3f} ± {self.standard_error:.3f} bits/dim ({bound}, n={self.n}{share})"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BitsPerDim:
        """What `to_dict` gave."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that JSON cannot hold become None."""
        return {
            k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()
        }


def summarise_bits(
    log_probs: np.ndarray,
    latent_cost: np.ndarray,
    kind: Exactness,
    dims: int,
    weight: np.ndarray | None = None,
) -> BitsPerDim:
    """Summarise log-probabilities of images, in nats an image, as bits per dimension.

    Arguments:
        log_probs: ``(N,)``. latent_cost: nats of every image that z costs, ``(N,)``.
        kind: what the log-probabilities are. dims: channels times height times width.
        weight: of the images, as in `summarise`.

    Raises:
        ConfigError, DataError: as `summarise`.
    """
    mean = summarise(log_probs, kind, weight)
    bits = 1 / (dims * math.log(2))
    value = bits_per_dim(mean.value, dims)
    cost = float(np.average(latent_cost, weights=weight)) * bits
    return BitsPerDim(value, mean.standard_error * bits, kind, mean.n, dims, cost)


def image_bits(model: Density, images: Tensor, chunk: int = 256) -> BitsPerDim:
    """Bits per dimension of images of whole numbers under a model of them (the torch level).

    Arguments:
        model: a density of whole numbers: `Dequantized`, a decoder, or a latent-variable model of either.
        images: ``(N, C, H, W)``, whole numbers. chunk: images scored at once.

    Raises:
        DataError: for a density of real numbers: at whole numbers it can be made as large as one likes, so
            it says nothing of them. `modeflow.flows.Dequantized` makes a probability of it.
    """
    if model.levels is None:
        raise DataError(
            f"{type(model).__name__} is a density of real numbers, which has no bound at whole numbers: "
            "score Dequantized(model, levels) instead, which adds the noise and pays for it"
        )
    both = getattr(model, "log_prob_and_cost", lambda x: (model.log_prob(x), torch.zeros(len(x))))
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [both(x) for x in images.to(model.dtype).split(chunk)]
    finally:
        model.train(mode)
    log_prob, spent = (torch.cat(each).double().cpu().numpy() for each in zip(*parts, strict=True))
    return summarise_bits(log_prob, spent, model.exactness, math.prod(model.event_shape))


def reconstruction_error(rows: np.ndarray, back: np.ndarray, scale: np.ndarray) -> float:
    r"""Root mean square of the differences of rows and what was made of them, in units of a scale.

    .. math:: \sqrt{\textstyle\frac1{N D} \sum_{i,d} (\hat x_{id} - x_{id})^2 / s_d^2}

    Arguments:
        rows, back: ``(N, ...)``, the mean being over the entries that are seen (not NaN). scale: s, of the
            shape of a row or one for all.
    """
    return float(np.sqrt(np.nanmean(((back - rows) / scale) ** 2)))


def _shares(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    shares = np.asarray(weight, dtype=np.float64)
    if shares.shape != values.shape or not (shares >= 0).all() or not shares.sum() > 0:
        raise DataError(f"weights must be {len(values)} numbers of 0 or more, not all 0")
    return shares / shares.sum()


def _signed(value: float) -> str:
    if math.isnan(value):
        return "nan"
    text = "inf" if math.isinf(value) else f"{abs(value):.3f}"
    return ("−" if value < 0 else "") + text
