"""What a person would use for the density of a table of numbers, as its authors or its tutorials have it.

A contestant is given training and validation rows and a seed, and gives back the log-density of rows, nats in
the units of the data. All but ours get their columns standardised by the training rows. Those that end their
training by validation rows use these; the others are fitted to both.

- "GaussianMixture": scikit-learn's, full covariances, K by BIC.
- "KDE": Gaussian kernels, as wide as the rows lie (they are whitened), bandwidth by cross-validation.
- "zuko NSF": `zuko.flows.NSF` with its defaults (three autoregressive layers, 64 × 2 hidden units).
- "zuko NSF, large": six layers, 128 × 2 hidden units.
- "zuko NSF, our columns": zuko's flow behind modeflow's maps of columns and by its trainer, three or five
  layers by validation rows: what is left is the flow.
- "flowjax": its masked autoregressive flow with splines, otherwise its defaults; `fit_to_data` with a longer
  patience.
- "margarine": piecewise flows, a RealNVP for each cluster of k-means (scikit-learn's, 2 to 10 of at least 100
  rows by silhouette: margarine's own may end with one cluster, and then fails). It maps columns to bounded
  ranges, and has no density for rows beyond them.
- "cirkit": a hidden Chow-Liu tree of 64 states a column with Gaussian leaves.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Scores = Callable[[np.ndarray], np.ndarray]


@dataclass
class Fitted:
    """A contestant after its fit.

    Attributes:
        scores: log-density of rows ``(N, D)``, nats.
        parameters: how many numbers were learned. extra: what was chosen.
        trace: of a training, seconds of the processor and the mean log-density of validation rows by then.
    """

    scores: Scores
    parameters: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    trace: list[tuple[float, float]] = field(default_factory=list)


class Units:
    """Columns of mean zero and deviation one, and back: of the training rows."""

    def __init__(self, rows: np.ndarray) -> None:
        self.mean, self.scale = rows.mean(0), np.maximum(rows.std(0), 1e-12)
        self.volume = -float(np.log(self.scale).sum())

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = (rows - self.mean) / self.scale
        return found


def mixture(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """scikit-learn's Gaussian mixture by BIC."""
    from sklearn.mixture import GaussianMixture

    rows = np.concatenate([train, validation])
    units = Units(rows)
    u, found = units(rows), {}
    for k in (1, 2, 3, 4, 6, 8, 12, 16, 25, 32, 48, 64):
        if k > max(1, len(u) // (2 * u.shape[1])):
            break
        fitted = GaussianMixture(k, random_state=seed, reg_covar=1e-6, max_iter=200).fit(u)
        found[k] = (float(fitted.bic(u)), fitted)
        if k >= 8 and min(bic for bic, _ in found.values()) < found[k][0] - 0.02 * abs(found[k][0]):
            break
    k = min(found, key=lambda each: found[each][0])
    best, d = found[k][1], u.shape[1]
    return Fitted(
        lambda x: best.score_samples(units(x)) + units.volume,
        k * (d + d * (d + 1) // 2) + k - 1,
        {"states": k},
    )


def kde(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """Gaussian kernels on whitened rows; the bandwidth by five folds of at most 2,500 rows, scaled to all."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    rows = np.concatenate([train, validation])
    units = Units(rows)
    u = units(rows)
    values, vectors = np.linalg.eigh(np.cov(u.T) + 1e-9 * np.eye(u.shape[1]))
    white = vectors / np.sqrt(values)
    w, volume = u @ white, units.volume - 0.5 * float(np.log(values).sum())
    some = np.random.default_rng(seed).permutation(len(w))[:2500]
    grid = {"bandwidth": np.geomspace(0.03, 2.0, 22)}
    search = GridSearchCV(KernelDensity(rtol=1e-4), grid, cv=5).fit(w[some])
    shrunk = (0.8 * len(some) / len(w)) ** (1 / (w.shape[1] + 4))
    width = search.best_params_["bandwidth"] * shrunk
    fitted = KernelDensity(bandwidth=width, rtol=1e-4).fit(w)
    return Fitted(lambda x: fitted.score_samples(units(x) @ white) + volume, 1, {"bandwidth": width})


def _trained(
    model: nn.Module,
    log_prob: Callable[[Tensor], Tensor],
    train: np.ndarray,
    validation: np.ndarray,
    seed: int,
    steps: int,
    patience: int,
) -> tuple[Scores, list[tuple[float, float]]]:
    """The loop of a tutorial: Adam at 1e-3, 256 rows a step, the weights of the best epoch."""
    units = Units(train)
    x, held = (torch.from_numpy(units(rows)).float() for rows in (train, validation))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    best, kept, since, trace = -math.inf, copy.deepcopy(model.state_dict()), 0, []
    began, done = time.process_time(), 0
    while done < steps and since < patience:
        for part in torch.randperm(len(x), generator=generator).split(256):
            optimizer.zero_grad()
            loss = -log_prob(x[part]).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            done += 1
        with torch.no_grad():
            value = float(torch.cat([log_prob(part) for part in held.split(2048)]).mean())
        since += 1
        if value > best:
            best, kept, since = value, copy.deepcopy(model.state_dict()), 0
        trace.append((time.process_time() - began, value + units.volume))
    model.load_state_dict(kept)

    def scores(rows: np.ndarray) -> np.ndarray:
        u = torch.from_numpy(units(rows)).float()
        with torch.no_grad():
            found = torch.cat([log_prob(part) for part in u.split(2048)])
        return np.asarray(found.double().numpy() + units.volume)

    return scores, trace


def _zuko(layers: int, hidden: int) -> Callable[..., Fitted]:
    def fit(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
        import zuko

        torch.manual_seed(seed)
        flow = zuko.flows.NSF(train.shape[1], transforms=layers, hidden_features=(hidden, hidden))
        batches = math.ceil(len(train) / 256)
        scores, trace = _trained(
            flow,
            lambda x: flow().log_prob(x),
            train,
            validation,
            seed,
            max(20_000, 30 * batches),
            max(20, 500 // batches),
        )
        return Fitted(scores, sum(p.numel() for p in flow.parameters()), {"epochs": len(trace)}, trace)

    return fit


def zuko_on_our_columns(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """zuko's flow, with all that is around ours."""
    from common import ZukoNSF
    from modeflow.densities import Preprocessed
    from modeflow.domains import TableDomain
    from modeflow.estimators import FlowDensity
    from modeflow.estimators.fitting import FitData
    from modeflow.estimators.settings import Settings
    from modeflow.training import Trainer, seeded

    estimator = FlowDensity()
    domain, values = TableDomain.learn(estimator, train)
    settings = Settings.of(estimator, seed)
    data = FitData(values, domain.validation(validation), None, None, domain)
    best: tuple[float, Any, dict[str, Any]] = (-math.inf, None, {})
    for layers in (3, 5):
        with seeded(seed):
            columns = domain.preprocessing()
            domain.fit_preprocessing(columns, data.rows, None, settings.bare)
            model = Preprocessed(columns, ZukoNSF(train.shape[1], layers, 64, 8), draws=1)
        history = Trainer(settings.training(*values.shape), quiet=True).fit(model, data.rows, data.held)
        if history.best_validation > best[0]:
            best = history.best_validation, model, {"layers": layers}
    model = best[1].double().eval()

    def scores(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts = [model.log_prob(x) for x in domain.to_tensor(rows).split(2048)]
        return np.asarray(torch.cat(parts).numpy())

    return Fitted(scores, sum(p.numel() for p in model.parameters()), best[2])


def flowjax(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """flowjax's autoregressive flow of splines."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from flowjax.train import fit_to_data

    rows = np.concatenate([train, validation])
    units = Units(rows)
    first, second = jax.random.split(jax.random.key(seed))
    flow = masked_autoregressive_flow(
        first,
        base_dist=Normal(jnp.zeros(rows.shape[1])),
        transformer=RationalQuadraticSpline(knots=8, interval=5),
    )
    options: dict[str, Any] = {"max_patience": 20, "max_epochs": 400, "show_progress": False}
    flow, _ = fit_to_data(second, flow, jnp.asarray(units(rows), dtype=jnp.float32), **options)
    log_prob = eqx.filter_jit(lambda x: flow.log_prob(x))
    size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(flow, eqx.is_inexact_array)))
    return Fitted(
        lambda x: np.asarray(log_prob(jnp.asarray(units(x), dtype=jnp.float32)), float) + units.volume, size
    )


def margarine(train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """margarine's piecewise flows."""
    import jax
    import jax.numpy as jnp
    from margarine.estimators.clustered import cluster
    from margarine.estimators.realnvp import RealNVP
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    rows = np.concatenate([train, validation])
    units = Units(rows)
    seen = units(rows)
    trials = [KMeans(k, n_init=3, random_state=seed).fit_predict(seen) for k in range(2, 11)]
    large = [labels for labels in trials if np.bincount(labels).min() >= 100] or trials[:1]
    labels = max(large, key=lambda each: float(silhouette_score(seen, each)))
    model = cluster(
        jnp.asarray(seen), base_estimator=RealNVP, clusters=jnp.asarray(labels), in_size=rows.shape[1]
    )
    model.train(key=jax.random.key(seed), learning_rate=1e-3, epochs=300, patience=20)

    def scores(x: np.ndarray) -> np.ndarray:
        found = np.asarray(model.log_prob(jnp.asarray(units(x))), float)
        return np.where(np.isfinite(found), found, -np.inf) + units.volume

    return Fitted(scores, 0, {"clusters": int(model.cluster_number)})


def cirkit(train: np.ndarray, validation: np.ndarray, seed: int, states: int = 64) -> Fitted:
    """The circuit of a hidden Chow-Liu tree of the columns, by cirkit."""
    from modeflow.densities import Feature
    from modeflow.latents.tree import chow_liu
    from trees import cirkit_circuit

    units = Units(train)
    tree = chow_liu(torch.from_numpy(units(train)), (Feature(),) * train.shape[1])
    torch.manual_seed(seed)
    circuit = cirkit_circuit(tree.parents, states)
    batches = math.ceil(len(train) / 256)
    scores, trace = _trained(
        circuit,
        lambda x: circuit(x).squeeze(),
        train,
        validation,
        seed,
        max(5_000, 10 * batches),
        max(20, 500 // batches),
    )
    return Fitted(scores, sum(p.numel() for p in circuit.parameters()), {"states": states}, trace)


#: By name, with the module that each needs.
RIVALS: dict[str, tuple[str, Callable[..., Fitted]]] = {
    "GaussianMixture": ("sklearn", mixture),
    "KDE": ("sklearn", kde),
    "zuko NSF": ("zuko", _zuko(3, 64)),
    "zuko NSF, large": ("zuko", _zuko(6, 128)),
    "zuko NSF, our columns": ("zuko", zuko_on_our_columns),
    "flowjax": ("flowjax", flowjax),
    "margarine": ("margarine", margarine),
    "cirkit": ("cirkit", cirkit),
}


def installed() -> dict[str, Callable[..., Fitted]]:
    """The rivals whose libraries are here."""
    return {name: fit for name, (module, fit) in RIVALS.items() if find_spec(module)}
