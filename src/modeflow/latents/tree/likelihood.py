r"""Rows given the states of their features: leaves alone, or a flow over them.

.. math::
    p(x \mid z) = \prod_f p(u_f \mid z_f)\, \left|\det \frac{\partial T}{\partial x}\right|, \qquad
    u = (T(x_\mathrm{real}; c),\ x_\mathrm{other})

T maps the reals, given all other features (c: codes embedded, angles by cosine and sine); without a flow it
is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.features import Feature
from modeflow.densities.flow import Flow
from modeflow.densities.leaves import Leaves
from modeflow.errors import ConfigError, DataError
from modeflow.transforms import Composite, MaskedAutoregressive, Permutation, RQSplineElementwise, Transform
from modeflow.transforms.coupling import Coupling
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

    def summable(self, x: Tensor) -> Tensor:
        """Rows of which cells that are missing can be summed and integrated out exactly, ``(B,)``."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def straighten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the leaves see of rows, ``(B, F)``, and the log-determinant of the map there, ``(B,)``."""
        return self.leaves.hide_absent(x), x.new_zeros(len(x))

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


class RowContext(nn.Module):
    """What a flow of the reals is told of the other features.

    Codes are embedded, angles given by cosine and sine, values in cells as they are. What a flag can say is
    absent also tells whether it is there.

    Arguments:
        features: of a row.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self.codes = [i for i, f in enumerate(features) if f.kind == "code"]
        self.angles = [i for i, f in enumerate(features) if f.kind == "circular"]
        self.cells = [i for i, f in enumerate(features) if f.kind == "cells"]
        self.optional = [i for i, f in enumerate(features) if f.kind != "real" and f.flag is not None]
        levels = [features[i].levels for i in self.codes]
        self.embeddings = nn.ModuleList(nn.Embedding(n, embedding_width(n)) for n in levels)
        #: Width of the context.
        self.features = (
            sum(map(embedding_width, levels)) + 2 * len(self.angles) + len(self.cells) + len(self.optional)
        )

    def forward(self, x: Tensor) -> Tensor | None:
        """The context of rows ``(B, F)``, ``(B, features)``; None where there is nothing to say."""
        if not self.features:
            return None
        there = ~x.isnan()
        value = torch.where(there, x, 0.0)
        parts = [
            embedding(value[:, i].long()) for embedding, i in zip(self.embeddings, self.codes, strict=True)
        ]
        angle = value[:, self.angles]
        parts += [angle.cos(), angle.sin(), value[:, self.cells], there[:, self.optional].to(x.dtype)]
        return torch.cat(parts, 1)


def embedding_width(levels: int) -> int:
    """Numbers that a code of so many levels is embedded in."""
    return min(8, math.ceil(levels / 2))


class FlowOverLeaves(LeafLikelihood):
    r"""The reals through a flow's transform, given the other features; leaves are its base.

    Cells may be missing only where no real of the row is known: the flow is then integrated out, whatever it
    is, and its base says all of the other features (`summable`; for other rows see `ImportanceTree`).

    A real that does not exist in a row (`Feature.flag`) is put beyond the interval of the splines, where all
    layers are the identity: it passes them unchanged, contributes nothing to the determinant, and is left out
    by its leaf. So the density of what is there is exact.

    Arguments:
        leaves: the densities of the features. context: what the flow is told of a row.
        flow: of the reals, given the context; its transform is used, its own base is not.

    Raises:
        ConfigError: a density that is no flow with an exact, bijective transform; or, where reals can be
            absent, one with other layers than splines and permutations.
    """

    placed: Tensor

    def __init__(self, leaves: Leaves, context: RowContext, flow: Density) -> None:
        super().__init__(leaves)
        self.reals = [i for i, f in enumerate(leaves.features) if f.kind == "real"]
        if not isinstance(flow, Flow) or not flow.transform.bijective or flow.transform.exactness != "exact":
            raise ConfigError(
                f"a tree of states is the base of a flow of bijective layers, such as 'nsf-autoregressive'; "
                f"received {type(flow).__name__}: choose another flow, or likelihood='leaves'"
            )
        if flow.event_shape != (len(self.reals),) or flow.context_features != context.features:
            raise ConfigError(
                f"expected a flow of {len(self.reals)} reals with context_features={context.features}, "
                f"received {flow.event_shape} and {flow.context_features}"
            )
        self.context, self.transform = context, flow.transform
        # Its permutations are undone at the end, so that a leaf sees its own feature.
        placed = torch.arange(len(self.reals)).unsqueeze(0)
        for layer in _layers(flow.transform):
            if isinstance(layer, Permutation):
                placed = placed.index_select(1, layer.order)
        self.register_buffer("placed", placed[0])
        flags = [leaves.features[i].flag for i in self.reals]
        #: What stands for reals that are absent; anything where none can be.
        self.outside = 0.0 if flags == [None] * len(flags) else identity_beyond(flow.transform) + 1.0

    def summable(self, x: Tensor) -> Tensor:
        unknown = self.leaves.hide_absent(x)[:, self.reals].isnan()
        return unknown.all(1) | ~self.leaves.missing(x).any(1)

    def straighten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.leaves.hide_absent(x)
        real = x[:, self.reals]
        there = self._there(x, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        u, logabsdet = self.transform(filled, self.context(x))
        if there is not None:
            logabsdet = torch.where(there.any(1), logabsdet, 0.0)
        return self._join(x, u[:, self.placed.argsort()], there), logabsdet

    def bend(self, u: Tensor) -> Tensor:
        real = u[:, self.reals]
        there = self._there(u, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        x = self.transform.inverse(filled[:, self.placed], self.context(u))[0]
        return self._join(u, x, there)

    def _there(self, x: Tensor, real: Tensor) -> Tensor | None:
        """Which reals are there; None for all.

        Raises:
            DataError: a cell that is missing beside a real, though no flag says that it does not exist.
        """
        if not bool(x.isnan().any()):
            return None
        mixed = ~self.summable(x)
        if bool(mixed.any()):
            row = int(mixed.nonzero()[0, 0])
            feature = int(self.leaves.missing(x)[row].nonzero()[0, 0])
            raise DataError(
                f"feature {feature} is missing in row {row + 1} of the batch, which a flow cannot integrate "
                "out: fit with likelihood='leaves' (exact), with proposal=True (a lower bound), or drop such "
                "rows"
            )
        return ~real.isnan()

    def _join(self, x: Tensor, real: Tensor, there: Tensor | None) -> Tensor:
        if there is not None:
            real = torch.where(there, real, torch.nan)
        if len(self.reals) == x.shape[1]:
            return real
        joined = x.clone()
        joined[:, self.reals] = real
        return joined


def _layers(transform: Transform) -> Iterable[nn.Module]:
    return transform.transforms if isinstance(transform, Composite) else [transform]


def identity_beyond(transform: Transform) -> float:
    """The bound beyond which every layer of a transform is the identity, feature by feature.

    Raises:
        ConfigError: if there are layers of which that is not known.
    """
    bound = 0.0
    for layer in _layers(transform):
        if isinstance(layer, (MaskedAutoregressive, Coupling)):
            map_ = layer.elementwise
            if isinstance(map_, RQSplineElementwise):
                bound = max(bound, map_.tail_bound)
                continue
        elif isinstance(layer, Permutation):
            continue
        raise ConfigError(
            f"reals that can be absent need a flow of splines and permutations alone, which are the identity "
            f"far out; this one has {type(layer).__name__}: use flow='nsf-autoregressive' with flow_options "
            "mixing='reverse' and context_affine='none', or likelihood='leaves'"
        )
    return bound
