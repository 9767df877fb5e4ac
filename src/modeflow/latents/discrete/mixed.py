"""States of mixed rows: the encoder that reads them, and where they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities.features import Feature, hide_absent
from modeflow.densities.mixed_rows import MixedRows
from modeflow.densities.row_flow import RowContext
from modeflow.latents.discrete.model import DiscreteLatentModel
from modeflow.latents.discrete.start import MAX_ROWS, fit_encoder
from modeflow.latents.starting import Looked, as_rows
from modeflow.nets import MLP
from modeflow.progress import busy

__all__ = ["MixedStart", "RowNet", "numbers_of"]


class RowNet(nn.Module):
    """A network of mixed rows ``(B, F) -> (B, outputs)``: codes embedded, angles by cosine and sine.

    Arguments:
        features: of a row. outputs: width of the output. hidden_features: of the MLP.
    """

    def __init__(self, features: Sequence[Feature], outputs: int, hidden_features: Sequence[int]) -> None:
        super().__init__()
        self.columns = tuple(features)
        self.reals = [i for i, feature in enumerate(features) if feature.kind == "real"]
        self.context = RowContext(features)
        self.net = MLP(len(self.reals) + self.context.features, outputs, hidden_features)

    def forward(self, x: Tensor) -> Tensor:
        x = hide_absent(x, self.columns)
        row = self.context(x)
        # A real that is absent is zero, and its flag says so.
        real = x[:, self.reals].nan_to_num(nan=0.0)
        out: Tensor = self.net(real if row is None else torch.cat((real, row), 1))
        return out


def numbers_of(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Rows ``(N, F)`` as numbers between which distances mean something, ``(N, D)``, absent ones zero.

    Reals as they are, angles by cosine and sine, codes by their levels (a binary one as it is).
    """
    parts = []
    for values, feature in zip(hide_absent(x, features).mT, features, strict=True):
        if feature.kind == "circular":
            parts += [torch.cos(values), torch.sin(values)]
        elif feature.levels > 2:
            parts += list(F.one_hot(values.long(), feature.levels).to(x.dtype).mT)
        else:
            parts.append(values)
    return torch.stack(parts, 1).nan_to_num(nan=0.0)


@dataclass(frozen=True)
class MixedStart:
    """Starts the states of a discrete latent on clusters of mixed rows ``(N, F)`` (k-means of `numbers_of`).

    Dense regions with emptier space between them there are none among codes. The encoder is fitted to the
    clusters, the prior gets their shares, and codes start at their frequencies; while the states are held
    (`hold_steps`) the likelihood learns what rows of each are like.

    Arguments:
        steps: of the encoder at the most. batch_size: rows a step.
    """

    steps: int = 2000
    batch_size: int = 512

    def __call__(
        self, model: DiscreteLatentModel, rows: Tensor | Looked, seed: int = 0, steps: int | None = None
    ) -> None:
        likelihood, x = model.likelihood, as_rows(rows)
        assert isinstance(likelihood, MixedRows)
        likelihood.start(x.to(model.device))
        if model.n_states == 1 or model.encoder is None:
            return
        if len(x) > MAX_ROWS:
            order = np.random.default_rng(seed).choice(len(x), MAX_ROWS, replace=False)
            x = x[torch.from_numpy(np.sort(order))]
        with busy("look for clusters"):
            labels = _k_means(numbers_of(x, likelihood.columns).cpu().numpy(), model.n_states, seed)
        shares = F.one_hot(torch.from_numpy(labels), model.n_states).double()
        model.prior.set_probs((shares.sum(0) + 1) / (len(shares) + model.n_states))
        most = self.steps if steps is None else min(steps, self.steps)
        fit_encoder(model, x, shares, most, self.batch_size)


def _k_means(x: np.ndarray, n_states: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    distinct = len(np.unique(x, axis=0))
    found = KMeans(min(n_states, distinct), n_init=3, random_state=seed).fit_predict(x.astype(np.float32))
    return np.asarray(found, dtype=np.int64)
