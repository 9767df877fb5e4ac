r"""Rows given the states of their features: leaves alone, or a flow over them.

.. math::
    p(x \mid z) = \prod_f p(u_f \mid z_f)\, \left|\det \frac{\partial T}{\partial x}\right|, \qquad
    u = (T(x_\mathrm{real}; c),\ x_\mathrm{other})

T maps the reals, given all other features (c: codes embedded, angles by cosine and sine); without a flow it
is the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.densities.leaves import Leaves
from modeflow.densities.row_flow import RowContext, ThroughFlow, identity_beyond
from modeflow.transforms.noise import open_uniform

__all__ = ["FlowOverLeaves", "LeafLikelihood", "RowContext", "identity_beyond"]


class LeafLikelihood(Density):
    """``p(x | z) = Π_f p(x_f | z_f)``, with the states z of all features as its context, ``(B, F)``.

    Arguments:
        leaves: the densities of the features.
    """

    tempers = True

    def __init__(self, leaves: Leaves) -> None:
        super().__init__((len(leaves),), len(leaves))
        self.leaves = leaves

    def straighten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the leaves see of rows, ``(B, F)``, and the log-determinant of the map there, ``(B,)``."""
        return self.leaves.hide_absent(x), x.new_zeros(x.shape[0])

    def sums_out(self, x: Tensor) -> Tensor:
        """Of which rows the missing cells are summed and integrated out exactly, ``(B,)``: of all."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def bend(self, u: Tensor) -> Tensor:
        """From what the leaves draw to rows: undo `straighten`."""
        return u

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        u, logabsdet = self.straighten(x)
        of_states = self.leaves.log_probs(u).gather(2, context.long().unsqueeze(-1))
        return of_states.sum((1, 2)) + logabsdet

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        assert context is not None
        u = open_uniform((len(context), len(self.leaves)), torch.float64, context.device, generator)
        drawn = self.leaves.sample(context.long(), u, temperature)
        return self.bend(self.leaves.hide_absent(drawn))


class FlowOverLeaves(LeafLikelihood, ThroughFlow):
    r"""The reals through a flow's transform, given the other features; leaves are its base.

    The flow integrates to one over all reals, whatever it is told: a row of which no real is there has the
    probability of its other features under the leaves, exactly, and missing ones among these are summed out
    (`sums_out`; for other rows with missing cells see `ImportanceTree`).

    .. math:: \int p(x_\mathrm{real}, x_\mathrm{other} \mid z)\, dx_\mathrm{real} =
        \prod_{f\ \mathrm{other}} p(x_f \mid z_f)

    One that does not exist in a row (`Feature.flag`) passes unchanged (`ThroughFlow`), and is left out by its
    leaf.

    Arguments:
        leaves: the densities of the features. context: what the flow is told of a row.
        flow: of the reals, given the context; its transform is used, its own base is not.

    Raises:
        ConfigError: a density that is no flow with an exact, bijective transform; or, where reals can be
            absent, one with other layers than splines and permutations.
    """

    def __init__(self, leaves: Leaves, context: RowContext, flow: Density) -> None:
        super().__init__(leaves)
        self.set_flow(leaves.features, context, flow)

    def straighten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.straightened(self.leaves.hide_absent(x))

    def sums_out(self, x: Tensor) -> Tensor:
        """Of which rows the missing cells are summed out exactly, ``(B,)``: without a real, or complete."""
        without_real = self.leaves.hide_absent(x)[:, self.reals].isnan().all(1)
        return without_real | ~self.leaves.missing(x).any(1)

    def bend(self, u: Tensor) -> Tensor:
        return self.bent(u)
