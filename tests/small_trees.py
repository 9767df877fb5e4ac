"""Small trees of mixed features, their parameters far from the start, and sums by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modeflow.densities import Density, Feature
from modeflow.latents import ImportanceTree, Tree, TreeLatentModel, TreeOptions
from modeflow.models import TreeNVF

REAL, ANGLE, CODE = Feature(), Feature(circular=True), Feature(levels=3)
CELLS = Feature(cells=(-0.5, 0.1, 0.4, 2.0))
FLOW = {"layers": 2, "hidden_features": 8, "blocks": 1, "bins": 4}


def perturbed(model: TreeLatentModel, spread: float = 0.6, seed: int = 0) -> TreeLatentModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(spread * noise.to(parameter))
    return model


def leaves_model(features: Sequence[Feature], parents: Sequence[int], states: int = 3) -> TreeLatentModel:
    model = TreeOptions(states=states, likelihood="leaves").model(features, 1, _no_flow)
    model.prior.set_tree(Tree(tuple(parents)))
    return perturbed(model).double().eval()


def flow_model(
    features: Sequence[Feature], parents: Sequence[int], states: int = 3, spread: float = 0.3
) -> TreeLatentModel:
    torch.manual_seed(0)
    model = TreeNVF(features, states, flow_options=FLOW)
    model.prior.set_tree(Tree(tuple(parents)))
    return perturbed(model, spread).double().eval()


def holed_model(
    features: Sequence[Feature], parents: Sequence[int], states: int = 3, spread: float = 0.3, draws: int = 16
) -> ImportanceTree:
    """A flow with a proposal on another tree, whose parameters are others too."""
    torch.manual_seed(0)
    model = TreeNVF(features, states, flow_options=FLOW, proposal=True, draws=draws)
    assert isinstance(model, ImportanceTree)
    model.prior.set_tree(Tree(tuple(parents)))
    perturbed(model, spread)
    perturbed(model.proposal, 0.4, seed=1)
    return model.double().eval()


class SomeFeatures(Density):
    """The density of the first n features of a model that takes missing cells."""

    tempers = True

    def __init__(self, whole: Density, features: int) -> None:
        super().__init__((features,))
        self.whole, self.exactness = whole, whole.exactness

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        unknown = x.new_full((len(x), self.whole.event_shape[0] - x.shape[1]), math.nan)
        return self.whole.log_prob(torch.cat((x, unknown), 1))

    def _sample(self, n, context, generator, temperature=1.0) -> Tensor:
        return self.whole.draw_events(n, None, generator, temperature)[:, : self.event_shape[0]]


def _no_flow(context: int):
    raise AssertionError("leaves alone ask for no flow")


def rows_of(features: Sequence[Feature], n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for feature in features:
        if feature.levels:
            columns.append(torch.randint(feature.levels, (n,), generator=generator).double())
        else:
            columns.append(torch.randn(n, generator=generator, dtype=torch.float64).clamp(-3, 3))
    return torch.stack(columns, 1)


def leaf_by_hand(model: TreeLatentModel, feature: int, x: float, k: int) -> float:
    """``log p(x_f | z_f = k)`` from the parameters alone."""
    with torch.no_grad():
        return _leaf_by_hand(model, feature, x, k)


def _leaf_by_hand(model: TreeLatentModel, feature: int, x: float, k: int) -> float:
    if math.isnan(x):
        return 0.0
    leaves = model.likelihood.leaves
    kind = leaves.features[feature].kind
    which = next(i for i, columns in enumerate(leaves.columns) if feature in columns)
    leaf, j = leaves.kinds[which], leaves.columns[which].index(feature)
    if kind == "code":
        start = sum(leaf.levels[:j])
        logits = leaf.logits[start : start + leaf.levels[j], k]
        return float(logits[int(x)] - torch.logsumexp(logits, 0))
    mean, scale = float(leaf.mean[j, k]), float(leaf.scale()[j, k])

    def tail(edge: float) -> float:
        return 0.5 * math.erfc((edge - mean) / scale / math.sqrt(2))

    if kind == "cells":
        edges = (-math.inf, *leaves.features[feature].cells, math.inf)
        a, b = next((a, b) for a, b in itertools.pairwise(edges) if a <= x < b)
        if a + b < 2 * mean:  # the tail on the left, so that nothing cancels
            a, b = 2 * mean - b, 2 * mean - a
        return math.log(tail(a) - tail(b))
    turns = range(-12, 13) if kind == "circular" else (0,)
    total = sum(math.exp(-0.5 * ((x - mean + 2 * math.pi * w) / scale) ** 2) for w in turns)
    return math.log(total) - math.log(scale) - 0.5 * math.log(2 * math.pi)


def joint_by_hand(model: TreeLatentModel, row: Sequence[float]) -> dict[tuple[int, ...], float]:
    """``p(x, z)`` of every combination of states, one by one."""
    with torch.no_grad():
        return _joint_by_hand(model, row)


def _joint_by_hand(model: TreeLatentModel, row: Sequence[float]) -> dict[tuple[int, ...], float]:
    prior = model.prior
    tree, states = prior.tree, prior.n_states
    root, tables = torch.softmax(prior.root, 0), torch.softmax(prior.transitions, -1)
    root, tables = ((1 - 1e-6) * p + 1e-6 / states for p in (root, tables))
    features = len(tree)
    leaf = [[leaf_by_hand(model, f, float(row[f]), k) for k in range(states)] for f in range(features)]
    found = {}
    for z in itertools.product(range(states), repeat=features):
        log_p = math.log(float(root[z[tree.order[0]]]))
        log_p += sum(
            math.log(float(tables[e, z[parent], z[child]])) for e, (parent, child) in enumerate(tree.edges)
        )
        found[z] = math.exp(log_p + sum(leaf[f][z[f]] for f in range(features)))
    return found
