"""Pictures of docs/models: companion systems fitted to two moons, VQ-VAE-2 to the digits of scikit-learn.

Two moons: 2,000 rows to learn from, 400 for early stopping, 60 epochs of 128 rows a step, everything else as
`modeflow fit --model NAME` has it, but for eight states of the discrete VAE, and 200 epochs of S-VAE and
LIDVAE, which begin slowly. One run each, seed 0: what a
model makes of two islands that are bent, not how far it can be brought.

Run: OMP_NUM_THREADS=1 python benchmarks/model_pictures.py [--models vae s-vae]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeflow.data import image_grid, save_png, toy
from modeflow.models import COMPANIONS
from modeflow.report.canvas import new_figure, save_picture
from modeflow.runs import RunConfig

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "models"
FIT, GRID = {"max_epochs": 60, "batch_size": 128}, 80
OWN: dict[str, dict[str, Any]] = {
    "discrete-vae": {"n_states": 8}, "s-vae": {"max_epochs": 200}, "lidvae": {"max_epochs": 200},
}  # fmt: skip
#: The page of the latent flow has pictures of what it fills.
NAMES = [name for name, info in COMPANIONS.items() if info.table is not None and name != "latent-flow"]


def moons(name: str) -> None:
    """The density of a model of two moons, and its samples."""
    train, held = (np.asarray(toy("moons").sample(n, seed)) for n, seed in ((2_000, 0), (400, 1)))
    settings = {"domain": "table", "model": name, **FIT, **OWN.get(name, {})}
    estimator = RunConfig.build(settings).estimator()
    estimator.fit(train, validation=held)
    low, high = train.min(0) - 0.6, train.max(0) + 0.6
    x, y = np.meshgrid(*(np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True)))
    density = np.exp(estimator.score_samples(np.column_stack([x.ravel(), y.ravel()])))
    samples = np.asarray(estimator.sample(1_500, random_state=1)[0])
    figure = new_figure(7.2, 3.1)
    left, right = figure.subplots(1, 2)
    top = float(np.quantile(density, 0.995))  # of a bound by few draws single points stick out
    how = {"cmap": "magma", "shading": "auto", "rasterized": True, "vmax": top}
    left.pcolormesh(x, y, density.reshape(x.shape), **how)
    left.set_title(f"density ({estimator.density_kind_})", fontsize=10)
    right.scatter(*train[:1_500].T, s=2, c="#bbbbbb", linewidths=0)
    right.scatter(*samples.T, s=2, c="#0072b2", linewidths=0)
    right.set_title("samples (blue) on data (grey)", fontsize=10)
    for ax in (left, right):
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        ax.tick_params(labelsize=7)
    save_picture(figure, PICTURES / f"{name}.png", dpi=80)


def digits(name: str) -> None:
    """Test images of a model, what z alone gives back, and samples, a row each."""
    config = RunConfig.build({"data": "images/digits", "model": name, **FIT})
    data = config.domain.load(config.settings)
    parts = config.domain.split(data, config.settings)
    estimator = config.estimator()
    config.domain.prepare(estimator, data)
    estimator.fit(parts.train, validation=parts.validation)
    shown = parts.test[:16]
    rows = np.concatenate([shown, estimator.reconstruct(shown), estimator.sample(16, random_state=1)[0]])
    save_png(PICTURES / f"{name}.png", image_grid(rows, columns=16, levels=data.levels, scale=4))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[*NAMES, "vq-vae-2"], choices=[*NAMES, "vq-vae-2"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        (moons if name in NAMES else digits)(name)
        print(PICTURES / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
