"""All parameters in one buffer, and all gradients in another: one operation where there were hundreds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.native import applies, kernels_for
from modeflow.optimisers import AdamW

__all__ = ["FlatParameters", "decaying", "flatten", "learning_rates"]


class FlatParameters:
    """Parameters as views of one vector for every type of number and rate, from `attach` to `detach`.

    While attached, every parameter's data and gradient are views: what changes one changes the other.
    Gradients are zero, not None, where no gradient arrives.

    Arguments:
        parameters: of one device.
        rates: what the learning rate of each is multiplied by (`learning_rates`); one if None.
        decaying: which of them `decay` makes smaller (`decaying`); none if None.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rates: Sequence[float] | None = None,
        decaying: Sequence[bool] | None = None,
    ) -> None:
        of = [1.0] * len(parameters) if rates is None else list(rates)
        kinds = [(p.dtype, rate) for p, rate in zip(parameters, of, strict=True)]
        groups: dict[tuple[torch.dtype, float], list[nn.Parameter]] = {kind: [] for kind in kinds}
        for kind, p in zip(kinds, parameters, strict=True):
            groups[kind].append(p)
        self.groups = list(groups.values())
        #: What the learning rate of each vector is multiplied by.
        self.rates = [rate for _, rate in groups]
        #: One parameter for each type and rate, with its gradient: what an optimiser is given.
        self.vectors = [
            nn.Parameter(torch.cat([p.detach().reshape(-1) for p in group])) for group in self.groups
        ]
        for vector in self.vectors:
            vector.grad = torch.zeros_like(vector)
        falling = decaying or [False] * len(parameters)
        chosen = {id(p) for p, yes in zip(parameters, falling, strict=True) if yes}
        #: Of each vector one where an entry decays, zero elsewhere; None where nothing does.
        self.falling = [
            torch.cat([p.new_full((p.numel(),), float(id(p) in chosen)) for p in group])
            if any(id(p) in chosen for p in group)
            else None
            for group in self.groups
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def adam(
        self, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> torch.optim.Optimizer:
        """Adam over the vectors, a single fused operation each, at the rates that modules ask for.

        Arguments:
            learning_rate: of a module that asks for no other. betas: of its two averages.
        """
        groups = [
            {"params": [vector], "scale": rate, "lr": rate * learning_rate}
            for vector, rate in zip(self.vectors, self.rates, strict=True)
        ]
        # Decay is `decay`: what decays is not a matter of vectors.
        return AdamW(groups, lr=learning_rate, betas=betas, weight_decay=0.0, fused=True)

    @property
    def gradients(self) -> list[Tensor]:
        """The gradient of each vector."""
        return [vector.grad for vector in self.vectors if vector.grad is not None]

    def attach(self) -> None:
        """Make the parameters views, with the values that they have now."""
        for group, vector in zip(self.groups, self.vectors, strict=True):
            start = 0
            for p in group:
                here = slice(start, start + p.numel())
                view = _view(vector.data[here], p)
                view.copy_(p.data)
                assert vector.grad is not None
                p.data, p.grad = view, _view(vector.grad[here], p)
                # Where a native run of layers finds its block of the vector (accelerate/runs.py).
                p._flat = (vector, start)  # type: ignore[attr-defined]
                start += p.numel()

    def detach(self) -> None:
        """Give the parameters storage of their own, with the same values, and no gradient."""
        for group in self.groups:
            for p in group:
                p.data = p.data.clone()
                p.grad = None
                if hasattr(p, "_flat"):
                    del p._flat

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        torch._foreach_zero_(self.gradients)

    def decay(self, share: float) -> None:
        """Make the parameters that decay smaller by this share."""
        for vector, chosen in zip(self.vectors, self.falling, strict=True):
            if chosen is not None:
                vector.data.addcmul_(vector.data, chosen, value=-share)

    def native_norm(self) -> float:
        """The norm of all gradients by the native kernel, which must apply; as `clip` returns it."""
        return math.sqrt(sum(_squares(gradient) for gradient in self.gradients))

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients so that their norm is at most `limit`; returns the norm before, float64.

        Of squares summed in double precision: no finite gradient in single precision is too large for it.
        """
        norm = torch.linalg.vector_norm(torch.stack([_norm(g) for g in self.gradients]))
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        if norm.device.type == "cpu" and float(factor) == 1.0:
            return norm  # elsewhere, looking would wait for the device
        for gradient in self.gradients:
            gradient.mul_(factor)
        return norm


def flatten(model: nn.Module) -> FlatParameters:
    """The parameters of a model in one buffer, their gradients in another, for a training loop of your own.

    What the Trainer's steps are fast by, besides the kernels that need it: one operation where there were
    hundreds. Until `FlatParameters.detach`, or the end of a ``with`` block, the parameters are views of the
    buffers; the model is used, stored and evaluated as ever, but stays on its device and in its type.

    .. code-block:: python

        with flatten(model) as flat:
            optimizer = flat.adam(1e-3)
            for x in batches:
                flat.zero_grad()
                loss = -model.log_prob(x).mean()
                loss.backward()
                flat.clip(5.0)                      # the norm of all gradients
                flat.decay(1e-3 * 0.01)             # decoupled weight decay, of matrices of networks alone
                optimizer.step()

    Arguments:
        model: any module, on one device.

    Returns:
        the buffers, attached.

    Raises:
        ConfigError: where nothing is to be trained, or the parameters are flat already.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f"{type(model).__name__} has no parameters to train")
    if any(hasattr(p, "_flat") for p in parameters):
        raise ConfigError("the parameters are flat already: call detach() of what flatten returned first")
    if len(devices := {str(p.device) for p in parameters}) > 1:
        raise ConfigError(
            f"the parameters are on several devices ({', '.join(sorted(devices))}): move them first"
        )
    flat = FlatParameters(parameters, learning_rates(model, parameters), decaying(model, parameters))
    flat.attach()
    return flat


def learning_rates(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[float]:
    """What the learning rate of each parameter is multiplied by.

    A module may say so of its own parameters, not of those of modules in it, by `learning_rate_scale`: tables
    of probabilities bear, and want, many times the rate of the network beside them.
    """
    scales = {
        id(p): float(getattr(module, "learning_rate_scale", 1.0))
        for module in model.modules()
        for p in module.parameters(recurse=False)
    }
    return [scales[id(p)] for p in parameters]


def decaying(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Which parameters weight decay is for: the matrices of networks, linear and convolutional.

    Biases are not (of the first column of an autoregressive flow they are all that is learned), nor are
    tables of states, nor invertible linear maps, whose zero is no simpler map. A module in which nothing is
    to decay says so by ``decays = False``.
    """
    chosen: set[int] = set()

    def look(module: nn.Module) -> None:
        if not getattr(module, "decays", True):
            return
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
            chosen.add(id(module.weight))
        for child in module.children():
            look(child)

    look(model)
    return [id(p) in chosen for p in parameters]


def _view(part: Tensor, like: Tensor) -> Tensor:
    """A part of a vector in the shape of a parameter, and in its order (that of a convolution may differ)."""
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        out, channels, height, width = like.shape
        return part.view(out, height, width, channels).permute(0, 3, 1, 2)
    return part.view_as(like)


def _norm(gradient: Tensor) -> Tensor:
    if applies(gradient):
        return torch.tensor(math.sqrt(_squares(gradient)), dtype=torch.float64)
    return torch.linalg.vector_norm(gradient, dtype=torch.float64)


def _squares(gradient: Tensor) -> float:
    """The sum of squares in double precision, by the native kernel."""
    threads = torch.get_num_threads()
    return float(kernels_for(gradient).sum_of_squares(gradient.numel(), gradient.data_ptr(), threads))
