"""Features of images: by the small classifier that comes with the package, and by Inception where it is."""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from modeflow.errors import ConfigError, DataError
from modeflow.metrics.images import (
    Memorisation,
    PrecisionRecall,
    frechet_distance,
    memorisation,
    precision_recall,
)
from modeflow.nets.features import SmallClassifier

__all__ = ["FEATURES", "GenerationScores", "inception_fid", "score_samples_of", "small_features"]

#: What distances in these features are called, so that nobody takes them for FID.
FEATURES = "modeflow-small-28"
_FILE = "small_features.safetensors"
_CHUNK = 512


@functools.cache
def _classifier() -> SmallClassifier:
    from safetensors.torch import load

    raw = resources.files("modeflow.metrics").joinpath(_FILE).read_bytes()
    state = {name: value.float() for name, value in load(raw).items()}
    net = SmallClassifier(len(state["out.bias"]), len(state["hidden.bias"]), len(state["conv1.bias"]))
    net.load_state_dict(state)
    return net.eval()


def small_features(images: np.ndarray, levels: int = 256) -> np.ndarray:
    """Features of images by a classifier of digits, clothes and letters, ``(N, F)``.

    Images are made grey and resized to 28 x 28. The classifier was trained on the training sets of MNIST and
    Fashion-MNIST and the small background sets of Omniglot (`benchmarks/train_features.py` in the
    repository).

    Arguments:
        images: whole numbers ``(N, H, W, C)``. levels: number of values of a pixel.
    """
    if images.ndim != 4 or not len(images):
        raise DataError(f"images need shape (N, H, W, C), received {images.shape}")
    net = _classifier()
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), _CHUNK):
            part = torch.from_numpy(images[start : start + _CHUNK]).float().mean(-1) / (levels - 1)
            x = part.unsqueeze(1)
            if x.shape[-2:] != (28, 28):
                x = F.interpolate(x, (28, 28), mode="bilinear", align_corners=False, antialias=True)
            parts.append(net.features(x))
    return torch.cat(parts).double().numpy()


@dataclass(frozen=True)
class GenerationScores:
    """Measures of samples beside test images; distances are in the features named, and are not FID.

    `frechet_test` is the distance between training and test images of the same numbers: what a perfect model
    would reach.
    """

    features: str
    n: int
    frechet: float
    frechet_test: float
    precision_recall: PrecisionRecall
    memorisation: Memorisation

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_samples_of(
    samples: np.ndarray, train: np.ndarray, test: np.ndarray, levels: int = 256, seed: int = 0
) -> GenerationScores:
    """Compare samples with test images, of which equally many are used, and with training images.

    Arguments:
        samples, train, test: whole numbers ``(N, H, W, C)``. levels: number of values of a pixel.
        seed: of the subsets.

    Raises:
        DataError: too few images, or of different shapes.
    """
    n = min(len(samples), len(test), len(train))
    rng = np.random.default_rng(seed)

    def some(images: np.ndarray) -> np.ndarray:
        return images[np.sort(rng.choice(len(images), n, replace=False))]

    drawn, held, seen = some(samples), some(test), some(train)
    ours, theirs, known = (small_features(i, levels) for i in (drawn, held, seen))
    return GenerationScores(
        FEATURES,
        n,
        frechet_distance(theirs, ours),
        frechet_distance(theirs, known),
        precision_recall(theirs, ours),
        memorisation(drawn, train, held, levels),
    )


def inception_fid(
    real: np.ndarray, generated: np.ndarray, weights: str | os.PathLike[str], levels: int = 256
) -> float:
    """FID proper: `frechet_distance` in the features of the published Inception network, by torchmetrics.

    Arguments:
        real, generated: whole numbers ``(N, H, W, C)`` of one channel or three.
        weights: file of the network's weights (``pt_inception-2015-12-05-6726825d.pth`` of torch-fidelity).

    Raises:
        ConfigError: no such file, or torchmetrics with torch-fidelity is not installed.
    """
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ConfigError(f"there are no Inception weights at '{weights}'")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(file))
    except (ImportError, ModuleNotFoundError) as error:
        raise ConfigError("FID needs two packages: pip install 'modeflow[fid]'") from error
    for images, is_real in ((real, True), (generated, False)):
        scaled = np.round(images.astype(np.float64) * (255 / (levels - 1))).astype(np.uint8)
        rgb = np.repeat(scaled, 3, -1) if scaled.shape[-1] == 1 else scaled
        for start in range(0, len(rgb), 64):
            part = torch.from_numpy(np.ascontiguousarray(rgb[start : start + 64].transpose(0, 3, 1, 2)))
            metric.update(part, real=is_real)
    return float(metric.compute())
