"""A digit that was left out, told from the nine that were learned: a latent flow and a VAE, by AUPRC.

The digits of scikit-learn, 8 x 8, scaled to -1 to 1. Of each digit in turn: a model learns from four
fifths of the images of the nine others (a tenth of these for early stopping, of which the latent flow,
dear to score, looks at 40), and ranks the last fifth together with all images of the digit that it has
never seen, which are to come first. Both have a generator with two hidden layers of 128 units, z in R^8
and a Gaussian of scale 0.3; the latent flow has a flow prior and 20 Langevin steps of 0.03 (by the
validation bound of one digit, where 0.01 was far lower), the VAE N(0, I) and an encoder as wide. Every
fit has the same seconds of a processor.

Scores, low is odd: *joint*, log p(x, z_K) of the latent flow's chain, as the literature ranks by, and of
the VAE at the mean of q(z|x); *bound*, the importance-weighted bound by 16 draws. *pixels*: minus the
distance to the mean of the training images, which knows nothing of digits; *share*: of odd images, what
chance would have. AUPRC with its standard error over 200 bootstrap samples of the ranked images.

Run: OMP_NUM_THREADS=1 python benchmarks/leave_one_digit.py [--digits 1 4]
Results are kept after every fit; a program that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor

from common import earlier_runs, n_parameters, write
from latent_contestants import Contestant
from latent_models import Data, trained
from modeflow.latents import LatentModel
from modeflow.models import VAE, LatentFlow
from modeflow.training import TrainConfig

SETTINGS: Mapping[str, Any] = {
    "batch_size": 64, "learning_rate": 1e-3, "schedule": "constant", "ema": 0.99, "gradient_clip": 100.0,
    "patience": 40, "max_epochs": 1_000,
}  # fmt: skip
SECONDS, SEED, BOOTSTRAP = 10.0, 20230123, 200
_NETS = {"scale": 0.3, "decoder_features": (128, 128)}
MODELS: Mapping[str, Callable[[], LatentModel]] = {
    "latent flow": lambda: LatentFlow(64, 8, langevin_step_size=0.03, **_NETS),
    "VAE": lambda: VAE(64, 8, encoder_features=(128, 128), **_NETS),
}


def split(digit: int) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Training images, such for early stopping, those to be ranked, and which of these are odd."""
    content = load_digits()
    x = torch.from_numpy(content.data / 8 - 1).float()
    order = np.random.default_rng(SEED).permutation(len(x))
    known = order[content.target[order] != digit]
    cut = len(known) * 4 // 5
    held = cut // 10
    ranked = np.concatenate([known[cut:], np.flatnonzero(content.target == digit)])
    return x[known[held:cut]], x[known[:held]], x[ranked], content.target[ranked] == digit


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
    with torch.no_grad():
        joint = model.joint_log_prob(ranked, model.read(ranked)).double().numpy()  # type: ignore[operator]
        bound = model.log_prob(ranked).double().numpy()
    plain = (ranked - train.mean(0)).square().sum(1).double().numpy()
    return {
        "model": name,
        "digit": digit,
        "ranked": len(odd),
        "share": float(odd.mean()),
        "joint": precision(odd, -joint),
        "bound": precision(odd, -bound),
        "pixels": precision(odd, plain),
        "known_bound": float(bound[~odd].mean()),
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
