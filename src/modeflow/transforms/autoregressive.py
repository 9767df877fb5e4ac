"""Masked autoregressive layers: feature d is mapped with parameters from the features before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.accelerate import (
    Conditioned,
    constant,
    description_of,
    native_autoregressive_inverse,
    plain,
    unhooked,
)
from modeflow.native import applies
from modeflow.nets.description import defines
from modeflow.nets.stepwise import Layers, Stepwise, in_steps
from modeflow.transforms.base import Transform
from modeflow.transforms.elementwise import Elementwise

__all__ = ["MaskedAutoregressive"]


class MaskedAutoregressive(Transform):
    r"""``u_d = f(x_d; θ_d(x_{<d}, c))``: density in one pass, sampling in D passes.

    .. math:: \log|\det| = \sum_d \log f'(x_d;\ \theta_d(x_{<d}, c))

    Arguments:
        conditioner: a MADE, ``(B, D) [, (B, C)] -> (B, D, elementwise.n_params)``, output d a function
            of the inputs before d.
        elementwise: the map of each feature.
        context_features: width of the context.

    Reference:
        Papamakarios et al., *Masked Autoregressive Flow*, 2017, https://arxiv.org/abs/1705.07057
    """

    one_pass_inverse = False

    def __init__(self, conditioner: nn.Module, elementwise: Elementwise, context_features: int = 0) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.elementwise = elementwise
        self.context_features = context_features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        u, logderivative = self.elementwise(x, self.conditioner(x, context))
        return u, logderivative.sum(-1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        layers = None if torch.is_grad_enabled() else self._layers(context)
        if layers is not None:
            return self._stepwise(layers, u)
        features = u.shape[1]
        total = u.new_zeros(u.shape[0])
        # Columns not yet known are never seen by output d; zeros stand in for them.
        unknown = u.new_zeros(features, u.shape[0]).unbind(0)
        columns: list[Tensor] = []
        for d in range(features):
            x = torch.stack((*columns, *unknown[d:]), dim=1)
            params = self.conditioner(x, context)[:, d]
            column, logderivative = self.elementwise.inverse(u[:, d], params)
            columns.append(column)
            total = total + logderivative
        return torch.stack(columns, dim=1), total

    def _layers(self, context: Tensor | None) -> Layers | None:
        """The conditioner's layers, where to evaluate them one by one is to evaluate the conditioner."""
        net = self.conditioner
        # Past the network's own `forward`: only where that is known to be what its layers say.
        if not defines(net, "stepwise_layers") or not plain(net) or not unhooked(net):
            return None
        layers = net.stepwise_layers(context)  # type: ignore[operator]
        return layers if layers is not None and in_steps(net, layers) else None

    def _stepwise(self, layers: Layers, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same, each hidden unit evaluated once: the arithmetic of one pass. Without gradients."""
        elementwise = self.elementwise
        map_ = description_of(elementwise)
        fitting = layers.native and u.shape[1] == layers.features and layers.params == elementwise.n_params
        fitting = fitting and applies(u, layers.final.weight)
        if map_ is not None and map_.n_params == layers.params and fitting:
            return native_autoregressive_inverse(layers, map_, u)
        steps = Stepwise(layers, u.shape[0])
        total = u.new_zeros(u.shape[0])
        for d in range(u.shape[1]):
            column, logderivative = elementwise.inverse(u[:, d], steps.params(d))
            steps.put(d, column)
            total = total + logderivative
        return steps.x.clone(), total

    def native_description(self) -> Conditioned | None:
        elementwise, network = description_of(self.elementwise), description_of(self.conditioner)
        if elementwise is None or network is None or elementwise.n_params != self.elementwise.n_params:
            return None
        features = network.inputs
        return Conditioned(
            features,
            self.context_features,
            seen=features,
            moved=features,
            index=constant(torch.arange(features).repeat(2)),
            autoregressive=True,
            map=elementwise,
            network=network,
        )
