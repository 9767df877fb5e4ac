r"""Proposals for missing cells of a density that has no conditionals, fitted to rows that it draws itself.

Of numbers alone a mixture of Gaussians with full covariances, of the size and the regularisation that are
best on held-out draws, and 5 % of a Gaussian twice as wide as all of them, so that no weight is without bound
where these lie; else a tree of leaves. What is proposed decides how many of the draws count, not
what is drawn.

Of 128 draws for rows that lack two cells at random, by spline flows with what stands beside them (fits of
30 epochs to at most 3,000 rows), as the median and the lowest tenth over a hundred rows, there counted

============= =========== ==========
table         mixture     tree of 16
============= =========== ==========
power (6)     106, 78     8, 2
protein (10)  72, 22      9, 4
skillcraft    62, 27      44, 16
============= =========== ==========
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modeflow.densities import Feature, GaussianMixture
from modeflow.estimators.stacking import best_mixture
from modeflow.latents.conditioned import Conditioned, Proposal
from modeflow.latents.tree import TreeLatentModel, TreeOptions
from modeflow.progress import busy
from modeflow.training import TrainConfig, Trainer, seeded

__all__ = ["propose"]

#: Rows drawn, the share of them held out, and the seed of all that is drawn.
_ROWS, _HELD, _SEED = 4000, 0.1, 0
#: Share of the wide Gaussian, and its covariance in that of the rows.
_WIDE, _TIMES = 0.05, 4.0
#: A tree: states, epochs, rows a step and learning rate.
_STATES, _EPOCHS, _BATCH, _RATE = 32, 30, 256, 0.02


def propose(density: Conditioned) -> Proposal:
    """A proposal for the missing cells of a density, in its units; always the same for the same density."""
    with busy("learn a proposal for missing cells"), seeded(_SEED):
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            rows = density.samples(_ROWS, generator).cpu()
        held = int(_HELD * len(rows))
        numbers = all(feature.kind == "real" and feature.flag is None for feature in density.features)
        found: GaussianMixture | TreeLatentModel | None = _mixture(rows, held) if numbers else None
        if found is None:
            found = _tree(rows, held, density.features)
    return found.to(density.device, torch.float64).eval()


def _mixture(rows: Tensor, held: int) -> GaussianMixture | None:
    """None where there are too many columns for covariances."""
    values = rows.double().numpy()
    mixture = best_mixture(values[held:], values[:held], None, _SEED)
    if mixture is None:
        return None
    wide = _TIMES * np.cov(values.T).reshape(values.shape[1], -1) + 1e-6 * np.eye(values.shape[1])
    parts = (
        np.append((1 - _WIDE) * mixture.weights_, _WIDE),
        np.concatenate([mixture.means_, values.mean(0)[None]]),
        np.concatenate([mixture.covariances_, wide[None]]),
    )
    return GaussianMixture(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def _tree(rows: Tensor, held: int, features: tuple[Feature, ...]) -> TreeLatentModel:
    rows = rows.float()
    tree = TreeOptions(states=_STATES, likelihood="leaves").model(features, 1, _no_flow)
    tree.start(rows[held:], _SEED)
    config = TrainConfig(max_epochs=_EPOCHS, batch_size=_BATCH, learning_rate=_RATE, seed=_SEED, device="cpu")
    Trainer(config, quiet=True).fit(tree, rows[held:], rows[:held])
    return tree


def _no_flow(context: int) -> GaussianMixture:
    raise AssertionError("leaves have no flow")
