"""Runs of image models: the same folder as a table's, with bits per dimension and measures of the samples."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import ImageSet, ImageSplit, load_images, split_images
from modeflow.errors import ConfigError, DataError
from modeflow.estimators import ImageDensity
from modeflow.estimators.fitted_images import to_tensor
from modeflow.experiments.config import RunConfig

__all__ = ["fit_images", "images_of", "measure_images", "split_of"]


def images_of(config: RunConfig) -> ImageSet:
    """The images that a configuration names."""
    if config["data"] is None:
        raise ConfigError("no data: give DATA, a folder of images or a name listed by `modeflow data`")
    return load_images(
        config["data"], n=config["rows"], seed=config["seed"], size=config["size"], bits=config["bits"]
    )


def split_of(data: ImageSet, config: RunConfig) -> ImageSplit:
    """Training, validation and test images: the published test set, or at random by the seed."""
    for name in ("test", "validation"):
        if isinstance(config[name], str):
            raise ConfigError(f"{name} of images must be a share, such as 0.1, received '{config[name]}'")
    return split_images(data, config["seed"], config["validation"], config["test"])


def fit_images(
    config: RunConfig, folder: Path, *, resume: bool = False, quiet: bool = True
) -> tuple[ImageDensity, dict[str, Any]]:
    """Fit what the configuration says; return the estimator and what was measured.

    Raises:
        ConfigError, DataError, TrainingError: as `ImageDensity.fit`.
    """
    data = images_of(config)
    split = split_of(data, config)
    estimator = config.estimator(verbose=not quiet)
    if not isinstance(estimator, ImageDensity):
        raise ConfigError(f"model '{config['model']}' is one of tables")
    estimator.levels = data.levels
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(split.train, validation=split.validation, run_dir=folder, resume=resume)
    result = measure_images(estimator, data, split)
    result["seconds"] = round(time.perf_counter() - began, 3)
    result["training"] = estimator.training_
    result["warnings"] = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return estimator, result


def measure_images(estimator: ImageDensity, data: ImageSet, split: ImageSplit) -> dict[str, Any]:
    """Bits per dimension of validation and test images, and how well z alone gives an image back."""
    parts = {"validation": split.validation, "test": split.test}
    bits = {name: estimator.bits_per_dim(part).to_dict() for name, part in parts.items()}
    result: dict[str, Any] = {
        "kind": "images",
        "data": data.name,
        "shape": list(data.shape),
        "levels": data.levels,
        "rows": dict(zip(("train", "validation", "test"), split.sizes, strict=True)),
        "density": estimator.density_kind_,
        "units": "bits per dimension, what z costs included",
        "bits_per_dim": bits,
        "n_states": estimator.n_states_,
        "n_parameters": sum(p.numel() for p in estimator.model_.parameters()),
        "likelihood_parameters": sum(p.numel() for p in estimator.model_.likelihood.parameters()),
        "notes": list(data.notes),
    }
    if estimator.latent != "none":
        back = estimator.reconstruct(split.test).astype(np.float64)
        error = (back - split.test) / (data.levels - 1)
        result["reconstruction_rmse"] = float(np.sqrt(np.mean(error**2)))
    if estimator.latent == "continuous":
        bounds = estimator.bounds(split.test)
        result["bounds"] = {k: v if k == "draws" else v.to_dict() for k, v in bounds.items()}
    result |= estimator.model_.measure(to_tensor(split.test))
    if len(split.test) < 2:
        raise DataError("one test image has no standard error: give more images, or a larger test share")
    return result
