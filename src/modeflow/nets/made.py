"""Autoregressive conditioners: masked networks in which output d sees inputs before d only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.description import (
    Dense,
    DenseBlock,
    DenseNetwork,
    dense,
    dense_block,
    dense_network,
    residual_network,
)
from modeflow.nets.mlp import Activation, linear, start_near_zero
from modeflow.nets.randomness import Dropout
from modeflow.nets.stepwise import Layers, count_until

__all__ = ["MADE", "MaskedLinear", "ResidualMADE"]


def hidden_degrees(features: int, width: int, context_features: int) -> Tensor:
    """Degrees of a hidden layer, spread evenly over the inputs, in increasing order.

    A unit of degree m sees the inputs 1..m and feeds the outputs m+1..D. With a context there are units
    of degree 0 too: they see the context alone, so that even the first output depends on it
    non-linearly. Spreading evenly (rather than cyclically) lets a layer narrower than D still reach the
    last inputs.
    """
    lowest = 0 if context_features else min(1, features - 1)
    return torch.linspace(lowest, features - 1, width).round().long()


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a fixed 0/1 mask, shape ``(out, in)``."""

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        # Rebuilt from the arguments at load time, hence not part of the state.
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        # Masked weights never act; zeroing them keeps norms and counts honest.
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)

    def native_description(self) -> Dense:
        return Dense(self, masked=True)


def _input_mask(degrees: Tensor, features: int, widths: Sequence[int] | int = 1) -> Tensor:
    return degrees[:, None] >= _ranks(features, widths)[None, :]


def _ranks(features: int, widths: Sequence[int] | int) -> Tensor:
    """The feature, from 1, that each of the numbers belongs to: so many each."""
    return torch.arange(1, features + 1).repeat_interleave(torch.as_tensor(widths))


def _headed(network: DenseNetwork | None, features: int, params: int) -> DenseNetwork | None:
    """The network, if it has so many inputs, and gives so many parameters of each."""
    fits = network is not None and (network.inputs, network.outputs) == (features, features * params)
    return network if fits else None


def _output_mask(features: int, params: Sequence[int] | int, degrees: Tensor) -> Tensor:
    return _ranks(features, params)[:, None] > degrees[None, :]


class MADE(nn.Module):
    r"""Masked autoencoder: ``(B, D) [, (B, C)] -> (B, D, params)``, output d a function of x_{<d} and c.

    The context bypasses the masks: it is added, through a linear map, to the first hidden layer and to
    the output, so every output may depend on all of it.

    Reference:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
        https://arxiv.org/abs/1502.03509
    """

    def __init__(
        self,
        features: int,
        params: int,
        hidden_features: Sequence[int] = (64, 64),
        context_features: int = 0,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        self.features, self.params = features, params
        self.context_features = context_features
        self.activation = activation
        degrees = [hidden_degrees(features, h, context_features) for h in hidden_features]
        masks = [_input_mask(degrees[0], features)] if degrees else []
        masks += [b[:, None] >= a[None, :] for a, b in pairwise(degrees)]
        self.hidden = nn.ModuleList(MaskedLinear(m) for m in masks)
        self.until = [count_until(d, features) for d in degrees]
        last = degrees[-1] if degrees else torch.arange(1, features + 1)
        self.final = MaskedLinear(_output_mask(features, params, last))
        self.context_hidden: nn.Linear | None = None
        self.context_final: nn.Linear | None = None
        if context_features:
            if degrees:
                self.context_hidden = linear(context_features, hidden_features[0])
            self.context_final = linear(context_features, features * params)
            start_near_zero(self.context_final)
        start_near_zero(self.final)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = x
        for i, layer in enumerate(self.hidden):
            h = layer(h)
            if i == 0 and self.context_hidden is not None:
                h = h + self.context_hidden(context)
            h = self.activation(h)
        out = self.final(h)
        if self.context_final is not None:
            out = out + self.context_final(context)
        return out.unflatten(-1, (self.features, self.params))

    def native_description(self) -> DenseNetwork | None:
        if self.activation is not F.relu:
            return None
        hidden = [dense(layer) for layer in self.hidden]
        if hidden:
            hidden[0] = dense(self.hidden[0], context=self.context_hidden)
        final = dense(self.final, context=self.context_final)
        return _headed(dense_network([*hidden, final], self.context_features), self.features, self.params)

    def stepwise_layers(self, context: Tensor | None = None) -> Layers:
        """The network as `Stepwise` reads it."""
        first = None if self.context_hidden is None else self.context_hidden(context)
        final = None if self.context_final is None else self.context_final(context)
        hidden: list[nn.Linear] = list(self.hidden)  # type: ignore[arg-type]
        return Layers(
            self.features, self.params, False, self.activation, hidden, self.final, self.until, first, final
        )


class MaskedResidualBlock(nn.Module):
    """``h + W2 a(W1 a(h))`` with masks, the update gated by the context where there is one."""

    def __init__(self, degrees: Tensor, gate_features: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        mask = degrees[:, None] >= degrees[None, :]
        self.activation = activation
        self.linear1 = MaskedLinear(mask)
        self.linear2 = MaskedLinear(mask)
        with torch.no_grad():
            self.linear2.weight.uniform_(-1e-3, 1e-3).mul_(self.linear2.mask)
            self.linear2.bias.uniform_(-1e-3, 1e-3)
        self.dropout = Dropout(dropout) if dropout > 0 else None
        self.gate = linear(gate_features, len(degrees)) if gate_features else None

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        update = self.activation(self.linear1(self.activation(h)))
        if self.dropout is not None:
            update = self.dropout(update)
        update = self.linear2(update)
        if self.gate is not None:
            update = update * torch.sigmoid(self.gate(context))
        return h + update

    def native_description(self) -> DenseBlock | None:
        if self.gate is not None or self.activation is not F.relu:
            return None
        return dense_block(self.linear1, self.linear2)


class ResidualMADE(nn.Module):
    """Residual MADE ``(B, D) [, (B, C)] -> (B, D, params)``, output d a function of x_{<d} and c.

    The context bypasses the masks: it is added to the first hidden layer and to the output and, with
    ``gate=True``, gates the update of every block.

    Arguments:
        features: D.
        params: outputs of each feature, or a list of how many each has: the output is then flat,
            ``(..., sum of params)``.
        hidden_features, blocks, activation, dropout: of the hidden layers.
        context_features: width of the context. gate: as above.
        inputs: how many numbers say what each feature is, one unless given; x is ``(B, sum of inputs)``.
        direct: a masked linear map from the inputs to the outputs beside the hidden layers, so that a layer
            narrower than D hides none of them.

    Reference:
        Nash and Durkan, *Autoregressive Energy Machines*, 2019, https://arxiv.org/abs/1904.05626
    """

    def __init__(
        self,
        features: int,
        params: int | Sequence[int],
        hidden_features: int = 64,
        context_features: int = 0,
        blocks: int = 2,
        activation: Activation = F.relu,
        dropout: float = 0.0,
        gate: bool = False,
        inputs: Sequence[int] | None = None,
        direct: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.params = features, params
        self.context_features = context_features
        widths = 1 if inputs is None else tuple(inputs)
        self.inputs = None if inputs is None else tuple(inputs)
        degrees = hidden_degrees(features, hidden_features, context_features)
        self.initial = MaskedLinear(_input_mask(degrees, features, widths))
        self.activation = activation
        self.gated = gate and context_features > 0
        self.until = count_until(degrees, features)
        self.blocks = nn.ModuleList(
            MaskedResidualBlock(degrees, context_features if gate else 0, activation, dropout)
            for _ in range(blocks)
        )
        self.final = MaskedLinear(_output_mask(features, params, degrees))
        self.direct: MaskedLinear | None = None
        if direct:
            self.direct = MaskedLinear(_output_mask(features, params, _ranks(features, widths)), bias=False)
            start_near_zero(self.direct)
        self.context_initial: nn.Linear | None = None
        self.context_final: nn.Linear | None = None
        if context_features:
            self.context_initial = linear(context_features, hidden_features)
            self.context_final = linear(context_features, self.final.out_features)
            start_near_zero(self.context_final)
        start_near_zero(self.final)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.initial(x)
        if self.context_initial is not None:
            h = h + self.context_initial(context)
        for block in self.blocks:
            h = block(h, context)
        out = self.final(h)
        if self.direct is not None:
            out = out + self.direct(x)
        if self.context_final is not None:
            out = out + self.context_final(context)
        return out.unflatten(-1, (self.features, self.params)) if isinstance(self.params, int) else out

    def native_description(self) -> DenseNetwork | None:
        if self.gated or self.activation is not F.relu or self.inputs is not None or self.direct is not None:
            return None
        if not isinstance(self.params, int):
            return None
        first = dense(self.initial, context=self.context_initial)
        final = dense(self.final, context=self.context_final)
        network = residual_network(first, self.blocks, final, self.context_features)
        return _headed(network, self.features, self.params)

    def stepwise_layers(self, context: Tensor | None = None) -> Layers | None:
        """The network as `Stepwise` reads it; None where a context gates the blocks, or units are dropped."""
        if self.gated or (self.training and any(b.dropout is not None for b in self.blocks)):
            return None
        first = None if self.context_initial is None else self.context_initial(context)
        final = None if self.context_final is None else self.context_final(context)
        hidden: list[nn.Linear] = [self.initial]
        for block in self.blocks:
            hidden += [block.linear1, block.linear2]  # type: ignore[list-item]
        until = [self.until] * len(hidden)
        return Layers(
            self.features,
            self.params,
            True,
            self.activation,
            hidden,
            self.final,
            until,
            first,
            final,
            self.inputs,
            self.direct,
        )
