"""Measures of generated images: distances between sets of features, coverage, memorisation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.errors import ConfigError, DataError

__all__ = [
    "Memorisation",
    "PrecisionRecall",
    "frechet_distance",
    "memorisation",
    "nearest_images",
    "precision_recall",
]

#: Rows whose distances to all others are held at once.
_CHUNK = 1024


def _features(name: str, values: Any, least: int = 2) -> Tensor:
    features = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    if features.dim() != 2 or len(features) < least:
        raise DataError(
            f"{name} must have shape (N, F) with N of {least} or more, received {tuple(features.shape)}"
        )
    if not bool(torch.isfinite(features).all()):
        raise DataError(f"{name} has features that are not finite")
    return features


def frechet_distance(real: Any, generated: Any) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians fitted to two sets of features.

    .. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr}\big(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\big)

    It is called FID only with the features of one published Inception network; with others it is a number of
    its own, to be compared with itself alone. It falls with the number of images: compare equal numbers.

    Arguments:
        real, generated: features ``(N, F)`` and ``(M, F)``.

    Raises:
        DataError: features of other shapes, or not finite.

    Reference:
        Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, 2017, https://arxiv.org/abs/1706.08500
    """
    a, b = _features("real", real), _features("generated", generated)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"real has {a.shape[1]} features, generated {b.shape[1]}")
    mean = (a.mean(0) - b.mean(0)).square().sum()
    first, second = torch.cov(a.T), torch.cov(b.T)
    # tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of R S2 R, R the root of S1: all symmetric.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float(mean + first.trace() + second.trace() - 2 * cross))


@dataclass(frozen=True)
class PrecisionRecall:
    """Share of generated images that look real, and of real ones that are covered; `k` of the neighbours."""

    precision: float
    recall: float
    k: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def precision_recall(real: Any, generated: Any, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall: who lies within the k-th neighbour's distance of one of the other set.

    Arguments:
        real, generated: features ``(N, F)`` and ``(M, F)``, best equally many. k: number of the neighbour.

    Raises:
        ConfigError: `k` below 1. DataError: features of other shapes, or too few.

    Reference:
        Kynkäänniemi et al., *Improved Precision and Recall Metric for Assessing Generative Models*, 2019,
        https://arxiv.org/abs/1904.06991
    """
    if k < 1:
        raise ConfigError(f"k must be 1 or more, received {k}")
    a, b = _features("real", real, k + 1), _features("generated", generated, k + 1)
    return PrecisionRecall(_covered(a, b, k), _covered(b, a, k), k)


def _covered(centres: Tensor, points: Tensor, k: int) -> float:
    """Share of `points` within the k-th neighbour's distance of one of the `centres`."""
    radius = torch.cat([torch.cdist(part, centres).kthvalue(k + 1).values for part in centres.split(_CHUNK)])
    # One matrix product gives the distances, so equal points may be a rounding error apart.
    radius = radius * (1 + 1e-6) + 1e-12
    inside = [(torch.cdist(part, centres) <= radius).any(1) for part in points.split(_CHUNK)]
    return float(torch.cat(inside).double().mean())


@dataclass(frozen=True)
class Memorisation:
    """How near generated images are to training images, beside how near test images are.

    Attributes:
        generated, test: median distances to the nearest training image (root mean square over pixels, in
            units of the range).
        closer: share of generated images that are nearer to a training image than 99 % of the test images
            are: 0.01 is what chance gives, much more means copies.
        standard_error: of `closer` under chance.
        copies: generated images that equal a training image.
    """

    generated: float
    test: float
    closer: float
    standard_error: float
    copies: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def nearest_images(images: np.ndarray, train: np.ndarray, levels: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every image to the nearest training image, and which that is.

    Arguments:
        images, train: whole numbers ``(N, H, W, C)``. levels: number of values of a pixel.
    """
    if images.shape[1:] != train.shape[1:]:
        raise DataError(f"images of {images.shape[1:]} cannot be compared with {train.shape[1:]}")
    scale = 1 / ((levels - 1) * math.sqrt(float(np.prod(images.shape[1:]))))
    a = torch.from_numpy(images.reshape(len(images), -1)).float()
    b = torch.from_numpy(train.reshape(len(train), -1)).float()
    # Squares of whole numbers up to 255 times 12288 pixels overflow what float32 holds exactly: not used for
    # the equality of images, which is looked up below.
    found = [torch.cdist(part, b).min(1) for part in a.split(256)]
    index = torch.cat([f.indices for f in found]).numpy()
    exact = np.sqrt(((images.astype(np.float64) - train[index]) ** 2).reshape(len(images), -1).sum(1))
    return exact * scale, index


def memorisation(
    generated: np.ndarray, train: np.ndarray, test: np.ndarray, levels: int = 256
) -> Memorisation:
    """Compare distances to the nearest training image: of generated images, and of test images.

    Arguments:
        generated, train, test: whole numbers ``(N, H, W, C)``. levels: number of values of a pixel.

    Raises:
        DataError: images of different shapes.
    """
    ours, _ = nearest_images(generated, train, levels)
    held, _ = nearest_images(test, train, levels)
    threshold = float(np.quantile(held, 0.01))
    closer = float((ours < threshold).mean())
    return Memorisation(
        float(np.median(ours)),
        float(np.median(held)),
        closer,
        math.sqrt(0.01 * 0.99 / len(ours)),
        int((ours == 0).sum()),
    )
