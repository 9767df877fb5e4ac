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
        return self.leaves.hide_absent(x), x.new_zeros(len(x))

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
        drawn = self.leaves.sample(context.long(), generator, temperature)
        return self.bend(self.leaves.hide_absent(drawn))


class RowContext(nn.Module):
    """What a flow of the reals is told of the other features; each says whether it is there.

    Codes are embedded (a code that is missing has a vector of its own), angles are given by cosine and sine,
    values in cells as they are.

    Arguments:
        features: of a row.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self.codes = [i for i, f in enumerate(features) if f.kind == "code"]
        self.angles = [i for i, f in enumerate(features) if f.kind == "circular"]
        self.cells = [i for i, f in enumerate(features) if f.kind == "cells"]
        levels = [features[i].levels for i in self.codes]
        self.embeddings = nn.ModuleList(nn.Embedding(n + 1, embedding_width(n)) for n in levels)
        #: Width of the context.
        self.features = sum(map(embedding_width, levels)) + 3 * len(self.angles) + 2 * len(self.cells)

    def forward(self, x: Tensor) -> Tensor | None:
        """The context of rows ``(B, F)``, ``(B, features)``; None where there is nothing to say."""
        if not self.features:
            return None
        parts = []
        for embedding, i in zip(self.embeddings, self.codes, strict=True):
            last = embedding.num_embeddings - 1  # type: ignore[operator]
            parts.append(embedding(torch.where(x[:, i].isnan(), float(last), x[:, i]).long()))
        for columns, of_value in ((self.angles, (torch.cos, torch.sin)), (self.cells, (_same,))):
            if columns:
                there = ~x[:, columns].isnan()
                value = torch.where(there, x[:, columns], 0.0)
                parts += [there.to(x.dtype), *(torch.where(there, f(value), 0.0) for f in of_value)]
        return torch.cat(parts, 1)


def embedding_width(levels: int) -> int:
    """Numbers that a code of so many levels is embedded in."""
    return min(8, math.ceil(levels / 2))


def _same(x: Tensor) -> Tensor:
    return x


class FlowOverLeaves(LeafLikelihood):
    r"""The reals through a flow's transform, given the other features; leaves are its base.

    The flow integrates to one over all reals, whatever it is told: a row of which no real is there has the
    probability of its other features under the leaves, exactly, and missing ones among these are summed out.

    .. math:: \int p(x_\mathrm{real}, x_\mathrm{other} \mid z)\, dx_\mathrm{real} =
        \prod_{f\ \mathrm{other}} p(x_f \mid z_f)

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
        #: What stands for reals that are not there: beyond the splines where some can be absent.
        self.outside = 0.0 if flags == [None] * len(flags) else identity_beyond(flow.transform) + 1.0

    def straighten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.leaves.hide_absent(x)
        real = x[:, self.reals]
        there = self._there(x, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        u, logabsdet = self.transform(filled, self.context(x))
        if there is not None:
            logabsdet = torch.where(there.any(1), logabsdet, 0.0)
        return self._join(x, u[:, self.placed.argsort()], there), logabsdet

    def sums_out(self, x: Tensor) -> Tensor:
        """Of which rows the missing cells are summed out exactly, ``(B,)``: without a real, or complete."""
        x = self.leaves.hide_absent(x)
        there = ~x[:, self.reals].isnan()
        rest = [i for i in range(len(self.leaves)) if i not in self.reals]
        complete = (there | self._absent(x)).all(1) & ~x[:, rest].isnan().any(1)
        return complete | ~there.any(1)

    def _absent(self, x: Tensor) -> Tensor:
        """Of which reals a flag says that they do not exist, ``(B, R)``."""
        flags = [self.leaves.features[i].flag for i in self.reals]
        found = [torch.zeros_like(x[:, 0]) if flag is None else x[:, flag] for flag in flags]
        return torch.stack(found, 1) > 0

    def bend(self, u: Tensor) -> Tensor:
        real = u[:, self.reals]
        there = self._there(u, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        x = self.transform.inverse(filled[:, self.placed], self.context(u))[0]
        return self._join(u, x, there)

    def _there(self, x: Tensor, real: Tensor) -> Tensor | None:
        """Which reals are there; None for all.

        Raises:
            DataError: one that is missing beside others, though no flag says that it does not exist.
        """
        there = ~real.isnan()
        if bool(there.all()):
            return None
        unknown = ~there & ~self._absent(x) & there.any(1, keepdim=True)
        if bool(unknown.any()):
            row, j = (int(at) for at in unknown.nonzero()[0])
            raise DataError(
                f"feature {self.reals[j]} is missing in row {row + 1} of the batch: leaves take "
                "missing cells, the flow only rows without any real; fit with likelihood='leaves', or "
                "fill or drop such rows"
            )
        return there

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
