"""A digit that was left out, told from the nine that were learned: a latent flow and a VAE, by AUPRC.

MNIST, all 70,000 images, greys scaled to -1 to 1, in two fixed parts as the literature has it: of the first
four fifths 10,000 images of the nine other digits are learned from (1,000 of these for early stopping, of
which the latent flow, dear to score, looks at 40); of the last fifth all images are ranked, 14,000, those of
the digit that was never seen to come first. Both models have a generator with two hidden layers of 128
units, z in R^16 and a Gaussian of scale 0.3; the latent flow a flow prior and 20 Langevin steps of a size
that adapts, the VAE N(0, I) and an encoder as wide. Every fit has the same seconds of a processor; one seed.

Score, low is odd: log p(x, z), as the literature ranks by, of the latent flow at the end of its chain, of
the VAE at the mean of q(z|x). *pixels*: minus the distance to the mean of the training images, which knows
nothing of digits; *share*: of odd images, what chance would have. AUPRC with its standard error over 200
bootstrap samples of the ranked images.

Run: OMP_NUM_THREADS=1 python benchmarks/leave_one_digit.py [--digits 1 4]
Results are kept after every fit; a program that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from common import earlier_runs, n_parameters, write
from latent_contestants import Contestant
from latent_runs import Data, trained
from modeflow.data import load_images
from modeflow.latents import LatentModel
from modeflow.models import VAE, LatentFlow
from modeflow.training import TrainConfig

SETTINGS: Mapping[str, Any] = {
    "batch_size": 100, "learning_rate": 1e-3, "schedule": "constant", "ema": 0.99, "gradient_clip": 100.0,
    "patience": 40, "max_epochs": 1_000,
}  # fmt: skip
SECONDS, SEED, BOOTSTRAP = 40.0, 20230123, 200
TRAIN, HELD = 10_000, 1_000
_NETS = {"scale": 0.3, "decoder_features": (128, 128)}
MODELS: Mapping[str, Callable[[], LatentModel]] = {
    "latent flow": lambda: LatentFlow(784, 16, **_NETS),
    "VAE": lambda: VAE(784, 16, encoder_features=(128, 128), **_NETS),
}


@functools.cache
def images() -> tuple[Tensor, np.ndarray]:
    """All images, of -1 to 1, and their digits, in a fixed order."""
    loaded = load_images("images/mnist")
    assert loaded.test is not None and loaded.labels is not None and loaded.test_labels is not None
    x, digit = (
        np.concatenate(parts) for parts in ((loaded.images, loaded.test), (loaded.labels, loaded.test_labels))
    )
    order = np.random.default_rng(SEED).permutation(len(x))
    return torch.from_numpy(x[order]).flatten(1).float() / 127.5 - 1, digit[order]


def split(left_out: int) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Training images, such for early stopping, those to be ranked, and which of these are odd."""
    x, digit = images()
    cut = len(x) * 4 // 5
    known = np.flatnonzero(digit[:cut] != left_out)[:TRAIN]
    return x[known[HELD:]], x[known[:HELD]], x[cut:], digit[cut:] == left_out


def precision(odd: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """AUPRC of a score that is high where images are odd, and its standard error."""
    rng = np.random.default_rng(0)
    picked = (rng.integers(len(odd), size=len(odd)) for _ in range(BOOTSTRAP))
    again = [average_precision_score(odd[i], score[i]) for i in picked]
    return {"value": float(average_precision_score(odd, score)), "standard_error": float(np.std(again))}


def fit(name: str, digit: int) -> dict[str, Any]:
    """Fit one model without a digit, and rank."""
    train, held, ranked, odd = split(digit)
    torch.manual_seed(digit)
    model = MODELS[name]()
    config = TrainConfig(device="cpu", seed=digit, **SETTINGS)
    data, few = Data(train, held, ranked), 40 if name == "latent flow" else None
    history = trained(
        model, Contestant(name, MODELS[name], held=few), data, config, SECONDS, of_processor=True
    )
    model.eval()
    joint = torch.cat(
        [model.joint_log_prob(part, model.read(part)).detach() for part in ranked.split(1000)]  # type: ignore[operator]
    )
    plain = (ranked - train.mean(0)).square().sum(1)
    return {
        "model": name,
        "digit": digit,
        "ranked": len(odd),
        "share": float(odd.mean()),
        "joint": precision(odd, -joint.double().numpy()),
        "pixels": precision(odd, plain.double().numpy()),
        "validation": history.best_validation,
        "epochs": sum("train_loss" in r for r in history.epochs),
        "stopped": history.summary()["stopped"],
        "parameters": n_parameters(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", nargs="+", type=int, default=list(range(10)), choices=range(10))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {**SETTINGS, "processor_seconds": SECONDS}
    runs = earlier_runs("leave_one_digit", settings=settings)
    for digit, name in itertools.product(args.digits, args.models):
        if any((r["model"], r["digit"]) == (name, digit) for r in runs):
            continue
        runs.append(fit(name, digit))
        runs.sort(key=lambda r: (r["digit"], list(MODELS).index(r["model"])))
        write("leave_one_digit", {"settings": settings, "runs": runs})
        print(runs[-1] if len(args.models) == 1 else [r for r in runs if r["digit"] == digit], flush=True)


if __name__ == "__main__":
    main()
