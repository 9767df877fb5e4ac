r"""A step of AdamW on flat parameters, once their gradients are there.

With the gradient g scaled to a norm of at most c, the rate η, the decay λ of what decays (`decaying`), and
the average a of the weights,

.. math::
    \theta \leftarrow \theta - \eta\lambda\theta, \quad
    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \\
    \theta \leftarrow
        \theta - \frac{\eta}{1 - \beta_1^n} \frac{m}{\sqrt{v / (1 - \beta_2^n)} + \epsilon}, \quad
    a \leftarrow a + (1 - \rho)(\theta - a)

Each is an operation of PyTorch on every vector, or all are one pass of a native kernel. That one rounds as
PyTorch's does, up to which product of a sum is fused with it.

Reference:
    Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, 2019, https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modeflow.native import applies, kernels, kernels_for
from modeflow.training.flat import FlatParameters

__all__ = ["Steps"]


class Steps:
    """The steps of a training.

    Arguments:
        flat: the parameters. optimizer: what `FlatParameters.adam` returned: its state is that of the steps.
        limit: largest norm of the gradient; None for none.
        weight_decay: λ.
    """

    def __init__(
        self,
        flat: FlatParameters,
        optimizer: torch.optim.Optimizer,
        limit: float | None,
        weight_decay: float,
    ) -> None:
        self.flat, self.optimizer = flat, optimizer
        self.limit = limit or math.inf
        self.weight_decay = weight_decay

    def norm(self) -> Tensor | float:
        """The norm of the gradient, before it is clipped; for `take`."""
        return self.flat.native_norm() if self._native() else self.flat.clip(self.limit)

    def take(self, norm: Tensor | float, rate: float, averages: Sequence[Tensor] | None, kept: float) -> None:
        """Make a step with the gradients that are there.

        Arguments:
            norm: what `norm` returned. rate: η of a module that asks for no other.
            averages: of each vector, or None. kept: ρ.
        """
        if isinstance(norm, float):
            self._take_natively(norm, rate, averages, kept)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if self.weight_decay:
            # Decoupled, and for all alike, however fast they learn.
            self.flat.decay(rate * self.weight_decay)
        self.optimizer.step()
        if averages is not None:
            torch._foreach_lerp_(list(averages), [v.data for v in self.flat.vectors], 1 - kept)

    def _native(self) -> bool:
        # An older build of the kernels has no such pass, and none is told to skip a step (`Watch`).
        told = getattr(self.optimizer, "found_inf", None) is not None
        return hasattr(kernels, "AdamStep") and not told and all(map(applies, self.flat.vectors))

    def _take_natively(
        self, norm: float, rate: float, averages: Sequence[Tensor] | None, kept: float
    ) -> None:
        threads = torch.get_num_threads()
        scale = min(1.0, self.limit / (norm + 1e-6))
        for place, (vector, group) in enumerate(
            zip(self.flat.vectors, self.optimizer.param_groups, strict=True)
        ):
            state = self.optimizer.state[vector]
            if not state:  # as PyTorch's fused step begins
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(vector), torch.zeros_like(vector)
            steps = float(state["step"].add_(1))
            beta1, beta2 = group["betas"]
            decays = self.flat.falling[place] if self.weight_decay else None
            assert vector.grad is not None
            kernels_for(vector).adam(
                step=kernels.AdamStep(
                    beta1=beta1,
                    beta2=beta2,
                    eps=group["eps"],
                    size=rate * group["scale"] / (1 - beta1**steps),
                    root=math.sqrt(1 - beta2**steps),
                    scale=scale,
                    share=rate * self.weight_decay,
                    pull=1 - kept,
                ),
                n=vector.numel(),
                gradient=vector.grad.data_ptr(),
                decays=0 if decays is None else decays.data_ptr(),
                parameters=vector.data_ptr(),
                first=state["exp_avg"].data_ptr(),
                second=state["exp_avg_sq"].data_ptr(),
                average=0 if averages is None else averages[place].data_ptr(),
                threads=threads,
            )
