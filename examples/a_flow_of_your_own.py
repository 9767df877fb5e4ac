"""A layer of your own: write it, check it, stack it, and let it be the likelihood of a model with states.

Run: python examples/a_flow_of_your_own.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.data import toy
from modeflow.densities import Flow, StandardNormal
from modeflow.latents import (
    CategoricalEncoder,
    CategoricalPrior,
    DiscreteLatentModel,
    IslandStart,
    build_objective,
)
from modeflow.testing import check_density, check_transform
from modeflow.training import TrainConfig, Trainer
from modeflow.transforms import Composite, ConditionalAffine, Transform


class Sinh(Transform):
    """``u = asinh(x e^s) / e^s``: heavy tails become light ones; one number s a column."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        y = x * scale
        return torch.asinh(y) / scale, -0.5 * torch.log1p(y.square()).sum(-1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        return torch.sinh(u * scale) / scale, torch.log(torch.cosh(u * scale)).sum(-1)


def flow(features: int, context_features: int) -> Flow:
    """What every context has of its own (shift, scale, rotation), then the layer."""
    layers = Composite([ConditionalAffine(features, context_features), Sinh(features)])
    return Flow(layers, StandardNormal(features), context_features)


# Inverse, log-determinant against autograd, mass, gradients, both precisions, saving, compiling.
check_transform(lambda: Sinh(2), event_shape=2)
check_density(lambda: flow(2, 3), event_shape=2, context_features=3)

torch.manual_seed(0)
rows = torch.from_numpy(toy("ring:k=3").sample(2000, seed=0)).float()
model = DiscreteLatentModel(
    CategoricalPrior(3), flow(2, 3), CategoricalEncoder(2, 3, (32,)), build_objective("marginal")
)
model.starter = IslandStart()
model.start(rows, seed=0)  # each state on an island
history = Trainer(TrainConfig(max_epochs=30, batch_size=100, learning_rate=0.01), quiet=True).fit(
    model, rows[:1600], rows[1600:]
)
print(f"log-density of held-out rows: {history.best_validation:.3f} nats")
print("states:", model.state_probs().numpy().round(2))
