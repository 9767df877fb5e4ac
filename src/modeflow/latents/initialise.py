"""Where the states start: one on each island of the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from modeflow.latents.continuous import ContinuousLatentModel
from modeflow.latents.discrete import DiscreteLatentModel
from modeflow.latents.islands import survey
from modeflow.latents.partition import Survey, partition
from modeflow.progress import busy, track
from modeflow.transforms import Composite, ConditionalAffine

__all__ = ["fit_briefly", "initialise", "initialise_continuous", "look"]

#: Rows that islands are looked for in.
MAX_ROWS = 10_000
#: Nats by which the encoder may miss the parts that the states start on.
_GOOD_ENCODER = 0.01


def fit_briefly(
    parts: nn.Module, loss_of: Callable[[Tensor], Tensor], rows: int, steps: int, batch: int = 256
) -> None:
    """A few steps of Adam on `parts`, by a loss of the numbers of random rows."""
    optimiser = torch.optim.Adam(parts.parameters(), lr=2e-3)
    for _ in track(range(steps), "start"):
        loss = loss_of(torch.randint(rows, (batch,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def look(x: Tensor, seed: int = 0, max_rows: int = MAX_ROWS) -> Survey:
    """The islands of the (standardised) rows ``(N, D)``, from at most so many of them; for `initialise`."""
    index = np.arange(len(x))
    if len(x) > max_rows:
        index = np.sort(np.random.default_rng(seed).choice(len(x), max_rows, replace=False))
    rows = x.double().cpu().numpy()[index]
    with busy("look for islands"):
        return Survey(rows, survey(rows), index)


def initialise(
    model: DiscreteLatentModel,
    x: Tensor | Survey,
    seed: int = 0,
    encoder_steps: int = 2000,
    batch_size: int = 512,
) -> None:
    """Start the states of a model on the islands of the (standardised) rows ``(N, D)``.

    The rows are cut into K parts (`partition`). The prior gets their weights, the flow's `ConditionalAffine`
    their means and covariances, and the encoder is fitted to them, for at most so many steps. So training
    starts with states that are all in use, each on an island of whatever shape, or on one of the Gaussians
    that an island needs; `Marginal` lets the flow take their shape before rows may change their state.

    Randomness comes from torch's global generator (seed it beforehand) and `seed`.
    """
    if model.n_states == 1 or model.posterior_net is None:
        return
    found = x if isinstance(x, Survey) else look(x, seed)
    affine = _context_affine(model)
    parts = partition(found, model.n_states, affine is not None and affine.full, seed)
    model.prior.set_probs(torch.from_numpy(parts.weights))
    if affine is not None:
        for k in range(model.n_states):
            affine.set_gaussian(k, torch.from_numpy(parts.means[k]), torch.from_numpy(parts.covariances[k]))
    _fit_encoder(
        model, torch.from_numpy(found.rows), torch.from_numpy(parts.shares), encoder_steps, batch_size
    )


def _fit_encoder(
    model: DiscreteLatentModel, rows: Tensor, shares: Tensor, steps: int, batch_size: int
) -> None:
    """Fit q(z|x) to the shares of the parts, until nearly nothing is missing."""
    encoder = model.posterior_net
    assert encoder is not None
    rows, shares = rows.to(model.device, model.dtype), shares.to(model.device, model.dtype)
    least = float(torch.special.entr(shares).sum(1).mean())
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    recent = math.inf
    for step in track(range(steps), "start the states"):
        index = torch.randint(len(rows), (min(batch_size, len(rows)),))
        loss = -(shares[index] * encoder(rows[index])).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        value = float(loss.detach()) - least
        recent = value if step == 0 else 0.95 * recent + 0.05 * value
        if step >= 100 and recent < _GOOD_ENCODER:
            return


def _context_affine(model: DiscreteLatentModel) -> ConditionalAffine | None:
    transform = getattr(model.likelihood, "transform", None)
    first = next(iter(transform.transforms), None) if isinstance(transform, Composite) else None
    return first if isinstance(first, ConditionalAffine) else None


#: Of the start of a continuous latent: rows of the neighbourhood graph, neighbours, and the share of rows
#: (the sparsest) that is left out, because a few rows between two sheets are enough to join them.
_GRAPH_ROWS, _NEIGHBOURS, _LEFT_OUT = 2000, 10, 0.2


def initialise_continuous(
    model: ContinuousLatentModel, x: Tensor, seed: int = 0, steps: int = 500, scale: float = 0.2
) -> None:
    """Start a continuous latent along the manifold of the (standardised) rows ``(N, D)``.

    The rows are unrolled by geodesic distances (Isomap, without the sparsest fifth of them), each coordinate
    is given the order statistics of a standard normal, and the encoder is fitted to them for a few steps, the
    likelihood then to the encoder. Training starts with a latent that follows the data, instead of one that
    folds it; it keeps to it while the weight of the KL term rises slowly.

    Randomness comes from `seed` and, for the batches, torch's global generator.

    Reference:
        Tenenbaum, de Silva, Langford, *A Global Geometric Framework for Nonlinear Dimensionality Reduction*,
        Science, 2000
    """
    from scipy.stats import norm, rankdata
    from sklearn.manifold import Isomap
    from sklearn.neighbors import NearestNeighbors

    order = np.random.default_rng(seed).permutation(len(x))[:_GRAPH_ROWS]
    rows = x.double().cpu().numpy()[order]
    if len(rows) < 5 * _NEIGHBOURS:
        return
    reach = NearestNeighbors(n_neighbors=2 * _NEIGHBOURS).fit(rows).kneighbors()[0][:, -1]
    rows = rows[reach <= np.quantile(reach, 1 - _LEFT_OUT)]
    dimensions = min(model.latent_features, rows.shape[1])
    with busy("unroll the data"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several islands: they are joined where they are closest
        places = Isomap(n_neighbors=_NEIGHBOURS, n_components=dimensions).fit_transform(rows)
    target = np.zeros((len(rows), model.latent_features))
    target[:, :dimensions] = norm.ppf((np.apply_along_axis(rankdata, 0, places) - 0.5) / len(rows))
    inputs, wanted = torch.from_numpy(rows).to(x), torch.from_numpy(target).to(x)

    def to_target(index: Tensor) -> Tensor:
        q = model.posterior_net(inputs[index].to(model.dtype))
        misfit = (q.location - wanted[index].to(q.location)).square().mean()
        return misfit + (q.log_scale - math.log(scale)).square().mean()

    def to_data(index: Tensor) -> Tensor:
        batch = inputs[index].to(model.dtype)
        with torch.no_grad():
            z, _ = model.posterior_net(batch).rsample_and_log_prob()
        return -model.likelihood_log_prob(batch, z).mean()

    fit_briefly(model.posterior_net, to_target, len(inputs), steps)
    # A likelihood that knows nothing of z yet would teach the encoder to forget.
    fit_briefly(model.likelihood, to_data, len(inputs), steps)
