"""Latent-variable models at a small size and equal processor time: what `latent_models.py` has no room for.

The 1,797 digits of scikit-learn, 8 x 8 with 17 levels, in two forms: 1,200 images to learn from, 277 on which
early stopping chooses, 320 to be scored, used for nothing else. *bits*: each pixel drawn with the probability
of its grey, 8 times of each training image, 2 and 4 times of the others. *grey*: a uniform noise added once,
as numbers (logit, standardised by the training rows); values are of the density of level plus noise. Every
fit has the same seconds of a processor, by the time that its process has had, whatever else runs; all have
two hidden layers of 128 units and z in R^8. Bounds as in `latent_models.py`; errors are over 40 groups of
images.

Run: OMP_NUM_THREADS=1 python benchmarks/latent_small.py [--models vae aef] [--seeds 0 1] [--seconds 60]
Results are kept after every fit; a program that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import latent_runs
from latent_contestants import Contestant
from latent_runs import SEED, Budget, Data, Results, attempt, measured
from modeflow import models
from modeflow.latents import LatentModel

#: Of all fits: smaller batches of fewer images.
TRAINING: Mapping[str, Any] = {**latent_runs.TRAINING, "batch_size": 128}
PIXELS, WIDTHS, FEATURES = 64, (128, 128), 8
#: Shares of the range kept from its ends by the logit.
EDGE = 0.01


@dataclass(frozen=True)
class Settings:
    """Under which all of it is measured."""

    train: int = 1_200
    test: int = 320
    draws: int = 500
    processor_seconds: float = 10.0
    epochs: int = 1_000


def levels(settings: Settings) -> tuple[list[np.ndarray], np.random.Generator]:
    """Images of levels 0 to 16, flat: those to learn from, for early stopping, and to be scored."""
    n = load_digits().data
    rng = np.random.default_rng(SEED)
    order = n[rng.permutation(len(n))]
    return np.split(order, [settings.train, len(n) - settings.test]), rng


def bits(settings: Settings) -> Data:
    """Binarised images, those of one image beside each other."""
    parts, rng = levels(settings)
    many = [np.repeat(part, times, 0) / 16 for part, times in zip(parts, (8, 2, 4), strict=True)]
    return Data(*(torch.from_numpy((rng.random(p.shape) < p).astype(np.float32)) for p in many))


def grey(settings: Settings) -> tuple[Data, float]:
    """Digits as numbers, and what the maps add to a log-density, its mean over test rows."""
    parts, rng = levels(settings)
    inner = [EDGE + (1 - 2 * EDGE) * (n + rng.random(n.shape)) / 17 for n in parts]
    y = [np.log(x) - np.log1p(-x) for x in inner]
    mean, spread = y[0].mean(0), y[0].std(0)
    test = inner[2]
    slopes = np.log(1 - 2 * EDGE) - np.log(17) - np.log(test) - np.log1p(-test) - np.log(spread)
    scaled = [torch.from_numpy((part - mean) / spread).float() for part in y]
    return Data(*scaled), float(slopes.sum(1).mean())


def _rows(recipe: str, size: int = FEATURES, **options: Any) -> Callable[[], LatentModel]:
    nets = {"encoder_features": WIDTHS, "decoder_features": WIDTHS}

    def build() -> LatentModel:
        model: LatentModel = getattr(models, recipe)(PIXELS, size, **{**nets, **options})
        return model

    return build


def _bits(title: str, recipe: str, size: int = FEATURES, **options: Any) -> Contestant:
    z = options.pop("z", f"{size} numbers")
    more = {name: options.pop(name) for name in ("held", "starts") if name in options}
    build = _rows(recipe, size, **{"likelihood": "bernoulli", **options})
    return Contestant(title, build, "bits", z=z, **more)


def _grey(title: str, recipe: str = "VAE", **options: Any) -> Contestant:
    starts = options.get("posterior") in ("aef", "funnel")
    build = _rows(recipe, **options)
    return Contestant(title, build, "grey", z=f"{FEATURES} numbers", starts=starts)


_CODES = {"n_codes": 32, "code_features": 4, "z": "8 codes of 32"}
#: By name.
SMALL: Mapping[str, Contestant] = {
    "vae": _bits("VAE", "VAE"),
    "aef": _bits("AEF", "VAE", posterior="aef", starts=True),
    "funnel": _bits("Funnel", "VAE", posterior="funnel", starts=True),
    "vq-vae": _bits("VQ-VAE", "VQVAE", 8, code_warmup_steps=500, codebook_steps=800, **_CODES),
    "bridge-vq-vae": _bits("VQ-VAE, diffusion bridge", "DiffusionBridgeVQVAE", 8, held=100, **_CODES),
    "flow-vae-iaf": _bits("VAE, IAF posterior", "FlowVAE"),
    "vae-flow-prior": _bits("VAE, flow prior", "VAE", prior="flow"),
    "vlae": _bits("VLAE", "VLAE", held=100),
    "lae": _bits("LAE", "LAE"),
    "latent-flow": _bits("Latent flow", "LatentFlow", held=100),
    "vae-2": _bits("VAE, d = 2", "VAE", 2),
    "s-vae-2": _bits("S-VAE, d = 2", "SVAE", 3, z="the sphere in 3 dimensions"),
    "grey-vae": _grey("VAE", scale="predicted"),
    "grey-aef": _grey("AEF", scale="predicted", posterior="aef"),
    "grey-funnel": _grey("Funnel", scale="predicted", posterior="funnel"),
    "grey-vae-flow-prior": _grey("VAE, flow prior", scale="predicted", prior="flow"),
    "grey-aef-flow-prior": _grey("AEF, flow prior", scale="predicted", posterior="aef", prior="flow"),
    "grey-funnel-flow-prior": _grey(
        "Funnel, flow prior", scale="predicted", posterior="funnel", prior="flow"
    ),
    "grey-vae-shared": _grey("VAE, one scale a pixel"),
    "grey-lidvae": _grey("LIDVAE, one scale a pixel", "LIDVAE"),
}  # fmt: skip


def fit(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Fit a contestant and measure it."""
    contestant = SMALL[name]
    data, constant = (bits(settings), 0.0) if contestant.group == "bits" else grey(settings)
    budget = Budget(settings.processor_seconds, settings.epochs, settings.draws, of_processor=True)
    return measured(contestant, data, seed, budget, TRAINING, constant=constant)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SMALL), choices=list(SMALL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--seconds", type=int, default=10, help="of a processor; others than 10 are kept apart"
    )
    parser.add_argument("--trial", action="store_true", help="a few seconds of each, kept apart")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(processor_seconds=float(args.seconds))
    file = "latent_small" if args.seconds == 10 else f"latent_small_{args.seconds}"
    if args.trial:
        settings, file = Settings(processor_seconds=2.0, draws=20), "latent_small_trial"
    results = Results(file, {**asdict(settings), **TRAINING}, list(SMALL))
    for name, seed in itertools.product(args.models, args.seeds):
        if not results.has(name, seed):
            results.add(attempt(name, seed, functools.partial(fit, name, seed, settings)))


if __name__ == "__main__":
    main()
