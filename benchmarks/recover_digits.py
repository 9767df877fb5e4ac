"""Digits recovered from half of their pixels, and new ones inpainted: pictures of the page of latent-flow.

python benchmarks/recover_digits.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeflow import ImageDensity
from modeflow.cli.commands._filling import write_filled
from modeflow.data import hidden_pixels, load_images

LATENT = {
    "posterior": "langevin",
    "prior": "normal",
    "features": 8,
    "draws": 2,
    "langevin_step_size": 0.1,
    "langevin_adjusted": True,
}


def main(folder: Path = Path("recovered")) -> None:
    folder.mkdir(exist_ok=True)
    images = load_images("images/digits").images
    rows = np.random.default_rng(0).permutation(len(images))
    train, new = images[rows[:1000]], images[rows[1000:1100]]
    hidden, left = hidden_pixels(train.shape, "random:0.5", 0), hidden_pixels(new.shape, "left")
    holed = np.where(hidden, np.nan, train)
    model = ImageDensity(
        "continuous",
        "gaussian",
        levels=17,
        latent_options=LATENT,
        likelihood_options={"decoder_channels": 16},
        max_epochs=18,
        learning_rate=0.005,
        validation_fraction=0.01,
        random_state=0,
        verbose=True,
    ).fit(holed)
    filled = model.inpaint(holed[:200])
    print(write_filled(folder / "recovered.png", train[:200], hidden[:200], filled, 17)[1])
    print(write_filled(folder / "inpainted.png", new, left, model.inpaint(new, left), 17)[1])
    means = np.broadcast_to(np.nanmean(holed, 0), new.shape)
    print("inpainted by the means of training pixels:", np.abs(means - new)[left].mean())


if __name__ == "__main__":
    main()
