"""What `latent_models.py` measures of a fitted model: bounds, use of z, reconstructions, samples."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.latents import LatentModel
from modeflow.latents.posteriors import Approximate
from modeflow.metrics.image_features import small_features
from modeflow.metrics.images import frechet_distance
from modeflow.training import seeded

__all__ = ["of_samples", "of_z", "scored", "validated", "wrong_pixels"]

#: Rows whose q(z|x) is made at once, and rows times draws that are decoded at once.
BLOCK, AT_ONCE = 1000, 50_000
#: Draws where validation is scored, each time the same.
QUICK = 8
#: Groups of test images whose means are kept.
GROUPS = 40
#: Variance over rows of the mean of a number of z, above which it is active (Burda et al. 2016).
ACTIVE = 0.01
#: Draws of z for each of two means.
MEAN_DRAWS = 32
#: Samples for the Fréchet distance.
SAMPLES = 2000


def taken(q: Approximate, index: Tensor) -> Approximate:
    """q of some of its rows, in any number; of a posterior by chains, its proposal's."""
    q = q.proposal
    some = copy.copy(q)
    for name, value in vars(q).items():
        if isinstance(value, Tensor) and value.dim():
            setattr(some, name, value[index])
        elif isinstance(value, Approximate):
            setattr(some, name, taken(value, index))
    return some


def weights(model: Any, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """``log p(x, z_s) - log q(z_s | x)`` and ``log p(x | z_s)`` of every draw, ``(B, S)``, float64, nats."""
    found = []
    for block in x.split(BLOCK):
        q = model.approximate_posterior(block)
        for index in torch.arange(len(block), device=x.device).split(max(1, AT_ONCE // draws)):
            many = index.repeat_interleave(draws)
            z, log_q = taken(q, many).rsample_and_log_prob()
            likelihood = model.likelihood_log_prob(block[many], z)
            joint = likelihood + model.prior.log_prob(z) - log_q
            found.append(torch.stack([joint, likelihood]).double().view(2, len(index), draws))
    both = torch.cat(found, 1)
    return both[0], both[1]


def iwae(log_weights: Tensor) -> Tensor:
    """The importance-weighted bound of every row, nats."""
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])


def validated(model: Any, x: Tensor) -> Tensor:
    """What early stopping looks at: the bound by a few draws, or what the model has for it."""
    if model.describe().kind != "continuous":
        return torch.cat([model.validation_log_prob(part) for part in x.split(BLOCK)])
    with seeded(0):  # the same noise every time; the training's is left alone
        return iwae(weights(model, x, QUICK)[0])


def _mean(values: Tensor) -> dict[str, float]:
    """Mean over rows, and its standard error."""
    return {"value": float(values.mean()), "standard_error": float(values.std()) / math.sqrt(len(values))}


def _groups(values: Tensor) -> list[float]:
    """Means of groups of rows, for paired differences between models."""
    return [round(float(part.mean()), 4) for part in values.chunk(GROUPS)]


def scored(model: Any, x: Tensor, draws: int, constant: float = 0.0) -> dict[str, Any]:
    """The log-likelihood of test rows, and of a continuous z its parts.

    `test`: the bound, or the exact value; `groups`: its means by groups of rows; `elbo`; `distortion`,
    ``-E log p(x | z)``, and `rate`, what z costs, which add up to minus the ELBO. `constant` is added to the
    first three, of a map of the data.
    """
    if model.describe().kind != "continuous":
        parts = [model.log_prob_and_cost(part) for part in x.split(BLOCK // 4)]
        values, cost = (torch.cat(each).double() for each in zip(*parts, strict=True))
        values = values + constant
        test = {**_mean(values), "kind": model.exactness}
        return {"test": test, "groups": _groups(values), "rate": float(cost.mean())}
    log_weights, likelihood = weights(model, x, draws)
    values, elbo = iwae(log_weights) + constant, log_weights.mean(1) + constant
    return {
        "test": {**_mean(values), "kind": model.exactness, "draws": draws},
        "groups": _groups(values),
        "elbo": _mean(elbo),
        "distortion": -float(likelihood.mean()),
        "rate": float(likelihood.mean() - log_weights.mean()),
    }


def spread_of_means(model: Any, x: Tensor) -> Tensor:
    """Variance over rows of the mean of q(z|x), ``(L,)``: the covariance of two means by draws of their own.

    The variance of one such mean has that of its draws in it, more than what is looked for.
    """
    sums = [[], []]  # type: list[list[Tensor]]
    for block in x.split(BLOCK):
        q = model.approximate_posterior(block)
        for half in sums:
            half.append(sum(q.rsample_and_log_prob()[0] for _ in range(MEAN_DRAWS)) / MEAN_DRAWS)
    one, other = (torch.cat(half) for half in sums)
    return ((one - one.mean(0)) * (other - other.mean(0))).mean(0)


def of_z(model: Any, x: Tensor, small: bool) -> dict[str, Any]:
    """How much of z is used: numbers that are active, or codes; of a `small` model its mutual information."""
    kind = model.describe().kind
    if kind == "codes":
        return {"codes": model.measure(x)["codes"]}
    if kind == "discrete":
        used = torch.bincount(model.read(x), minlength=model.n_states) / len(x)
        return {"states_used": int((used > 0.1 / model.n_states).sum())}
    if kind != "continuous":
        return {}
    found: dict[str, Any] = {"dimensions": model.latent_features}
    if model.encoder.support == "space":
        found["active"] = int((spread_of_means(model, x) > ACTIVE).sum())
    if small:
        measured = model.measure(x)["continuous"]
        found |= {key: measured[key] for key in ("kl", "mutual_information")}
    return found


def wrong_pixels(model: LatentModel, x: Tensor) -> dict[str, float]:
    """Pixels of an image that differ from its reconstruction, both rounded."""
    back = torch.cat([model.reconstruct(part) for part in x.split(BLOCK)])
    return _mean(((back > 0.5).to(x) != x).flatten(1).sum(1).double())


def of_samples(model: LatentModel, x: Tensor) -> float:
    """Fréchet distance of samples to as many test images, in the features of `FEATURES`; it is not FID."""
    count = min(SAMPLES, len(x))
    drawn = model.sample(count, generator=torch.Generator().manual_seed(0))

    def features(images: Tensor) -> np.ndarray:
        return small_features(images.cpu().view(-1, 28, 28, 1).numpy(), levels=2)

    return float(frechet_distance(features(x[:count]), features(drawn)))
