"""Densities computed anew from the parts of a fitted model, by other means than the estimators use.

One state at a time through the public `Density.log_prob`, the Jacobian of the standardisation by finite
differences, probabilities of whole numbers by the midpoint rule, pixels by scipy: what a fit reports must
agree with these.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logsumexp, softmax
from torch import Tensor
from torch.nn import functional as F

from modeflow import load_estimator

#: Midpoints of the unit interval over which the probability of a whole number is integrated.
POINTS = 64


def split_rows(n: int, seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of training, validation and test, as `split_table` documents them."""
    order = np.random.default_rng(seed).permutation(n)
    count = round(share * n)
    return order[2 * count :], order[count : 2 * count], order[:count]


def standardised(transform: Any, x: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """A transform's values (float64) and ``log|det|`` of its Jacobian by central differences."""
    n, d = x.shape
    size = 1e-6 * (x.std(0) + 1e-12)
    columns = []
    for j in range(d):
        step = np.zeros(d)
        step[j] = size[j]
        up, down = (transform(torch.from_numpy(x + sign * step))[0].double() for sign in (1, -1))
        columns.append((up - down) / (2 * size[j]))
    jacobian = torch.stack(columns, 2).numpy()
    assert jacobian.shape == (n, d, d)
    return transform(torch.from_numpy(x))[0].double(), np.linalg.slogdet(jacobian)[1]


@torch.no_grad()
def joint_at(estimator: Any, x: np.ndarray) -> np.ndarray:
    """``log π_k + log p(x | k)`` of rows as they are (whole numbers with their noise), ``(N, K)``."""
    model = copy.deepcopy(estimator.model_).double().eval()
    u, logabsdet = standardised(model.transform, x)
    inner = model.model
    logits = inner.prior.logits.numpy()
    active = np.flatnonzero(inner.prior.active.numpy())
    log_pi = logits[active] - logsumexp(logits[active])
    columns = []
    for place, k in enumerate(active):
        context = F.one_hot(torch.full((len(x),), int(k)), len(logits)).double()
        given = None if len(logits) == 1 else context
        columns.append(log_pi[place] + inner.likelihood.log_prob(u, given).numpy())
    return np.stack(columns, 1) + logabsdet[:, None]


def log_joint(estimator: Any, x: np.ndarray) -> np.ndarray:
    """``log p(x, z = k)`` in the units of the data, ``(N, K)``: integrated over the cell of a whole number.

    With one column of whole numbers at most, of step 1.
    """
    names = estimator.schema_.integer_columns
    if not names:
        return joint_at(estimator, x)
    (place,) = [estimator.schema_.columns.index(name) for name in names]
    offsets = (np.arange(POINTS) + 0.5) / POINTS - 0.5
    noisy = np.repeat(x, POINTS, 0)
    noisy[:, place] += np.tile(offsets, len(x))
    values = joint_at(estimator, noisy).reshape(len(x), POINTS, -1)
    return logsumexp(values, 1) - math.log(POINTS)


def log_density(estimator: Any, x: np.ndarray) -> np.ndarray:
    """``log p(x)``, nats, ``(N,)``."""
    return np.asarray(logsumexp(log_joint(estimator, x), 1))


@torch.no_grad()
def log_weights(estimator: Any, x: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """``log p(x, z) - log q(z | x)`` of a continuous latent with a standard normal prior, ``(N, draws)``."""
    model = copy.deepcopy(estimator.model_).double().eval()
    u, logabsdet = standardised(model.transform, x)
    inner = model.model
    q = inner.encoder(u)
    mean, log_scale = q.location, q.log_scale
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for _ in range(draws):
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        z = mean + log_scale.exp() * noise
        normal = torch.distributions.Normal(0.0, 1.0)
        posterior = torch.distributions.Normal(mean, log_scale.exp())
        value = inner.likelihood.log_prob(u, z) + normal.log_prob(z).sum(1) - posterior.log_prob(z).sum(1)
        columns.append(value.numpy())
    return np.stack(columns, 1) + logabsdet[:, None]


@torch.no_grad()
def pixel_log_probs(bins: Any, images: np.ndarray, context: Tensor | None) -> np.ndarray:
    """``log P(image | c)`` of a mixture of discretised logistics, by numpy; images ``(N, H, W, C)``."""
    n = images.transpose(0, 3, 1, 2).astype(np.float64)
    weight, mean, log_scale = (p.double().numpy() for p in bins.parameters_at(context))
    top = bins.levels - 1
    grid = (n / top * 2 - 1)[:, None]
    upper = expit((grid + 1 / top - mean) / np.exp(log_scale))
    lower = expit((grid - 1 / top - mean) / np.exp(log_scale))
    upper = np.where(n[:, None] == top, 1.0, upper)
    lower = np.where(n[:, None] == 0, 0.0, lower)
    floor = 1e-4  # the share of the uniform distribution that every mixture holds
    probs = (1 - floor) * (weight * (upper - lower)).sum(1) + floor / bins.levels
    return np.asarray(np.log(probs).reshape(len(n), -1).sum(1))


def posterior(joint: np.ndarray) -> np.ndarray:
    """Bayes' rule, ``(N, K)``."""
    return np.asarray(softmax(joint, 1))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error over rows."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def saved(run: Any) -> Any:
    """The estimator in the file of a run folder."""
    return load_estimator(run.path / "model.safetensors")


def same_rows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tables hold the same rows, in any order."""
    return sorted(map(tuple, a.tolist())) == sorted(map(tuple, b.tolist()))


def shared_rows(a: np.ndarray, b: np.ndarray) -> int:
    """How many rows, by value, are in both tables."""
    return len({tuple(row) for row in a.tolist()} & {tuple(row) for row in b.tolist()})
