"""Where the states start: one on each island of the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeflow.latents.continuous import ContinuousLatentModel
from modeflow.latents.discrete import DiscreteLatentModel
from modeflow.transforms import Composite, ConditionalAffine

__all__ = ["find_islands", "fit_briefly", "fit_gaussians", "initialise", "initialise_continuous"]


def fit_briefly(
    parts: nn.Module, loss_of: Callable[[Tensor], Tensor], rows: int, steps: int, batch: int = 256
) -> None:
    """A few steps of Adam on `parts`, by a loss of the numbers of random rows."""
    optimiser = torch.optim.Adam(parts.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = loss_of(torch.randint(rows, (batch,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def find_islands(x: np.ndarray, n_states: int, seed: int = 0, max_rows: int = 10_000) -> Any:
    """Cut the rows ``(N, D)`` into `n_states` clusters; return labels of shape ``(N,)``.

    Islands need not be round, so k-means alone cuts two moons across. The rows are first covered by many
    small cells (k-means), and single linkage joins the cells into islands of any shape, as far as empty
    space lies between them. What falls away as a sliver goes to the nearest island; where there are fewer
    islands than states, the largest is halved (2-means of its cells) until there are enough.
    """
    from sklearn.cluster import KMeans

    if n_states == 1:
        return np.zeros(len(x), dtype=np.int64)
    rng = np.random.default_rng(seed)
    part = x if len(x) <= max_rows else x[rng.choice(len(x), max_rows, replace=False)]
    distinct = len(np.unique(part, axis=0))
    n_cells = int(min(max(10 * n_states, 50), max(len(part) // 8, n_states), distinct))
    if distinct <= n_states:
        return KMeans(distinct, n_init=1, random_state=seed).fit(part).predict(x)
    cells = KMeans(n_cells, n_init=2, random_state=seed).fit(part)
    share = np.bincount(cells.labels_, minlength=n_cells) / len(part)
    labels = _halve_largest(
        cells.cluster_centers_, share, _join_cells(cells, share, n_states), n_states, seed
    )
    return labels[cells.predict(x)]


def _join_cells(cells: Any, share: np.ndarray, n_states: int) -> np.ndarray:
    """Islands of cells by single linkage: as many as are larger than a sliver, at most `n_states`."""
    from scipy.cluster.hierarchy import fcluster, linkage

    centres = cells.cluster_centers_
    tree = linkage(centres, "single")
    best, most = np.zeros(len(centres), dtype=np.int64), 1
    for count in range(2, len(centres) + 1):
        labels = fcluster(tree, count, "maxclust") - 1
        size = np.bincount(labels, weights=share)
        islands = np.flatnonzero(size >= 0.2 / n_states)
        if most < len(islands) <= n_states:
            most = len(islands)
            on_island = np.isin(labels, islands)
            gap = np.linalg.norm(centres[:, None] - centres[None, on_island], axis=-1)
            owner = labels[on_island][gap.argmin(1)]  # a cell on an island is nearest to itself
            best = np.searchsorted(islands, owner)
    return best


def _halve_largest(
    centres: np.ndarray, share: np.ndarray, labels: np.ndarray, n_states: int, seed: int
) -> np.ndarray:
    """Halve the largest cluster that has more than one cell until there are `n_states`."""
    from sklearn.cluster import KMeans

    labels = labels.copy()
    for new in range(int(labels.max()) + 1, n_states):
        size = np.bincount(labels, weights=share)
        size[np.bincount(labels) < 2] = 0.0
        rows = np.flatnonzero(labels == size.argmax())
        halves = KMeans(2, n_init=2, random_state=seed).fit(centres[rows], sample_weight=share[rows])
        labels[rows[halves.labels_ == 1]] = new
    return labels


def fit_gaussians(
    x: np.ndarray, labels: np.ndarray, n_states: int, full: bool, max_rows: int = 20_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Gaussian mixture with one component per cluster, refined by EM where there are rows enough.

    Covariances are shrunk towards a diagonal by the weight of D rows, so that they stay positive definite
    in small clusters.

    Arguments:
        x: standardised rows, shape ``(N, D)``. labels: shape ``(N,)``. full: with correlations.

    Returns:
        weights ``(K,)``, means ``(K, D)``, covariances ``(K, D, D)``.
    """
    d = x.shape[1]
    counts = np.bincount(labels, minlength=n_states)
    means, covariances = np.zeros((n_states, d)), np.tile(np.eye(d), (n_states, 1, 1))
    for k in range(n_states):
        rows = x[labels == k]
        if len(rows) < 2:
            means[k] = rows.mean(0) if len(rows) else 0.0
            continue
        means[k] = rows.mean(0)
        variance = np.maximum(rows.var(0), 1e-4)
        sample = np.cov(rows.T, bias=True).reshape(d, d) if full else np.diag(variance)
        covariances[k] = (len(rows) * sample + d * np.diag(variance)) / (len(rows) + d)
        covariances[k] += 1e-6 * np.eye(d)
    weights = counts / counts.sum()
    if counts.min() >= (10 * d if full else 20):
        weights, means, covariances = _refine(x, weights, means, covariances, full, max_rows, seed)
    return weights, means, covariances


def _refine(
    x: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    covariances: np.ndarray,
    full: bool,
    max_rows: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A few steps of EM from the clusters; scikit-learn's."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(x) > max_rows:
        x = x[np.random.default_rng(seed).choice(len(x), max_rows, replace=False)]
    precisions = np.linalg.inv(covariances) if full else 1 / np.diagonal(covariances, axis1=1, axis2=2)
    mixture = GaussianMixture(
        len(weights),
        covariance_type="full" if full else "diag",
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        reg_covar=1e-5,
        max_iter=50,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    found = mixture.covariances_ if full else np.stack([np.diag(v) for v in mixture.covariances_])
    return mixture.weights_, mixture.means_, found


def initialise(
    model: DiscreteLatentModel,
    x: Tensor,
    seed: int = 0,
    encoder_steps: int = 200,
    batch_size: int = 512,
) -> None:
    """Start a model as the Gaussian mixture of the clusters of the (standardised) rows ``(N, D)``.

    The prior gets the weights of a mixture fitted from the clusters, the flow's `ConditionalAffine` its
    means and covariances, and the encoder is fitted to the resulting posterior for a few steps. So
    training starts at a Gaussian mixture whose states are all in use and bends each state from there,
    instead of hoping that symmetry breaks well.

    Randomness comes from torch's global generator (seed it beforehand).
    """
    if model.n_states == 1 or model.posterior_net is None:
        return
    rows64 = x.double().cpu().numpy()
    labels = find_islands(rows64, model.n_states, seed)
    affine = _context_affine(model)
    full = affine is not None and affine.full
    weights, means, covariances = fit_gaussians(rows64, labels, model.n_states, full, seed=seed)
    model.prior.set_probs(torch.from_numpy(weights))
    if affine is not None:
        for k in range(model.n_states):
            affine.set_gaussian(k, torch.from_numpy(means[k]), torch.from_numpy(covariances[k]))

    # The flow starts near the identity, so the posterior is that of the mixture; through the flow it would
    # cost K evaluations a step.
    target = _responsibilities(x, weights, means, covariances)
    optimiser = torch.optim.Adam(model.posterior_net.parameters(), lr=2e-3)
    for _ in range(encoder_steps):
        index = torch.randint(len(x), (min(batch_size, len(x)),))
        rows, wanted = x[index].to(model.dtype), target[index].to(model.dtype)
        loss = -(wanted * model.posterior_net(rows)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _responsibilities(x: Tensor, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Tensor:
    """Posterior over the components of a Gaussian mixture, for rows ``(N, D)``; shape ``(N, K)``."""
    rows = x.double().cpu()
    columns = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        factor = torch.linalg.cholesky(torch.from_numpy(covariance))
        normal = torch.distributions.MultivariateNormal(torch.from_numpy(mean), scale_tril=factor)
        columns.append(normal.log_prob(rows) + float(np.log(max(weight, 1e-300))))
    return torch.softmax(torch.stack(columns, dim=1), dim=1)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several islands: they are joined where they are closest
        places = Isomap(n_neighbors=_NEIGHBOURS, n_components=dimensions).fit_transform(rows)
    target = np.zeros((len(rows), model.latent_features))
    target[:, :dimensions] = norm.ppf((np.apply_along_axis(rankdata, 0, places) - 0.5) / len(rows))
    inputs, wanted = torch.from_numpy(rows).to(x), torch.from_numpy(target).to(x)

    def to_target(index: Tensor) -> Tensor:
        mean, log_scale = model.posterior_net(inputs[index].to(model.dtype))
        misfit = (mean - wanted[index].to(mean)).square().mean()
        return misfit + (log_scale - math.log(scale)).square().mean()

    def to_data(index: Tensor) -> Tensor:
        batch = inputs[index].to(model.dtype)
        with torch.no_grad():
            mean, log_scale = model.posterior_net(batch)
            z = mean + torch.exp(log_scale) * torch.randn_like(mean)
        return -model.likelihood_log_prob(batch, z).mean()

    fit_briefly(model.posterior_net, to_target, len(inputs), steps)
    # A likelihood that knows nothing of z yet would teach the encoder to forget.
    fit_briefly(model.likelihood, to_data, len(inputs), steps)
