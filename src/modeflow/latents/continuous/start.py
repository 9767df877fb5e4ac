"""Where a continuous latent starts: along the manifold of the rows."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeflow.latents.continuous.model import ContinuousLatentModel
from modeflow.latents.starting import Looked, as_rows, fit_briefly
from modeflow.progress import busy

__all__ = ["GeodesicStart", "unroll"]

#: Rows of the neighbourhood graph, neighbours, and the share of rows
#: (the sparsest) that is left out, because a few rows between two sheets are enough to join them.
_GRAPH_ROWS, _NEIGHBOURS, _LEFT_OUT = 2000, 10, 0.2


@dataclass(frozen=True)
class GeodesicStart:
    """Starts a continuous latent along the manifold of the (standardised) rows ``(N, D)``.

    The rows are unrolled by geodesic distances (Isomap, without the sparsest fifth of them), each coordinate
    is given the order statistics of a standard normal, and the encoder is fitted to them for a few steps, the
    likelihood then to the encoder. Training starts with a latent that follows the data, instead of one that
    folds it; it keeps to it while the weight of the KL term rises slowly.

    Arguments:
        steps: of each at the most. scale: standard deviation of q(z|x) at the start.

    Reference:
        Tenenbaum, de Silva, Langford, *A Global Geometric Framework for Nonlinear Dimensionality Reduction*,
        Science, 2000
    """

    steps: int = 500
    scale: float = 0.2

    def __call__(
        self, model: ContinuousLatentModel, rows: Tensor | Looked, seed: int = 0, steps: int | None = None
    ) -> None:
        x = as_rows(rows).to(model.device, model.dtype)
        most = self.steps if steps is None else min(steps, self.steps)
        found = unroll(x.double().cpu().numpy(), model.latent_features, seed)
        if found is None:
            return
        inputs, wanted = (torch.from_numpy(each).to(x) for each in found)

        def to_target(index: Tensor) -> Tensor:
            q = model.encoder(inputs[index])
            misfit = (q.location - wanted[index]).square().mean()
            return misfit + (q.log_scale - math.log(self.scale)).square().mean()

        def to_data(index: Tensor) -> Tensor:
            batch = inputs[index]
            with torch.no_grad():
                z, _ = model.encoder(batch).rsample_and_log_prob()
            return -model.likelihood_log_prob(batch, z).mean()

        fit_briefly(model.encoder, to_target, len(inputs), most)
        # A likelihood that knows nothing of z yet would teach the encoder to forget.
        fit_briefly(model.likelihood, to_data, len(inputs), most)


def unroll(x: np.ndarray, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
    """Some of the rows ``(N, D)``, and where on N(0, I) each lies, ``(N, features)``; None for few rows."""
    from scipy.stats import norm, rankdata
    from sklearn.manifold import Isomap
    from sklearn.neighbors import NearestNeighbors

    rows = x[np.random.default_rng(seed).permutation(len(x))[:_GRAPH_ROWS]]
    if len(rows) < 5 * _NEIGHBOURS:
        return None
    reach = NearestNeighbors(n_neighbors=2 * _NEIGHBOURS).fit(rows).kneighbors()[0][:, -1]
    rows = rows[reach <= np.quantile(reach, 1 - _LEFT_OUT)]
    dimensions = min(features, rows.shape[1])
    with busy("unroll the data"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several islands: they are joined where they are closest
        places = Isomap(n_neighbors=_NEIGHBOURS, n_components=dimensions).fit_transform(rows)
    target = np.zeros((len(rows), features))
    target[:, :dimensions] = norm.ppf((np.apply_along_axis(rankdata, 0, places) - 0.5) / len(rows))
    return rows, target
