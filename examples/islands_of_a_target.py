"""A density known up to a constant, with islands: what a flow misses, and states find.

Of a sampler's target only `log_prob` is given, here of eight islands of unequal weight and width, times 100.
The constant, log 100 = 4.605 nats, is what both fits estimate.

Run: python examples/islands_of_a_target.py
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modeflow.inference import fit_posterior

angle = torch.arange(8) * (2 * math.pi / 8)
centres = 9 * torch.stack((angle.cos(), angle.sin()), 1)
widths = torch.tensor([0.4, 0.6, 0.8, 1.0, 0.4, 0.6, 0.8, 1.0])
shares = torch.tensor([4.0, 1.0, 2.0, 1.0, 3.0, 1.0, 2.0, 2.0]) / 16


def log_prob(x: Tensor) -> Tensor:
    """``(B, 2) -> (B,)``: this is all that the fits are given."""
    away = torch.cdist(x, centres).square() / widths.square()
    each = shares.log() - 0.5 * away - 2 * widths.log() - math.log(2 * math.pi)
    return torch.logsumexp(each, 1) + math.log(100)


small = {"layers": 2, "hidden_features": 32, "blocks": 1}
fits = {
    "one flow": fit_posterior(log_prob, "nsf-coupling", event_shape=2, steps=150, flow_options=small),
    "a flow with 8 states": fit_posterior(
        log_prob, "nsf-coupling", n_states=8, event_shape=2, steps=100, flow_options=small
    ),
}
print(f"the truth: log Z = {math.log(100):.4f} nats")
for name, fit in fits.items():
    print(f"\n{name}\n{fit.summary()}")

figure = Figure(figsize=(11, 4.1), layout="constrained")
side = torch.linspace(-12.5, 12.5, 250)
grid = torch.cartesian_prod(side, side)
densities = {"target": log_prob(grid) - math.log(100), **{n: fit.log_prob(grid) for n, fit in fits.items()}}
for axes, (name, values) in zip(figure.subplots(1, 3), densities.items(), strict=True):
    # The square root of the density, so that bridges between islands are seen.
    square_root = (0.5 * values).exp().view(250, 250).T.numpy()
    axes.pcolormesh(side.numpy(), side.numpy(), square_root, vmin=0, vmax=0.4, cmap="magma")
    axes.set(title=name, aspect="equal", xticks=[], yticks=[])
picture = Path(tempfile.gettempdir()) / "islands_of_a_target.png"
figure.savefig(picture, dpi=110)
print(f"\npicture: {picture}")
