"""A flow of the reals of mixed rows, given their other features; what it is told of these."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.features import Feature, missing
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError, DataError
from modeflow.nets.tracing import tracing
from modeflow.transforms import Composite, MaskedAutoregressive, Permutation, RQSplineElementwise, Transform
from modeflow.transforms.coupling import Coupling

__all__ = ["RowContext", "ThroughFlow", "identity_beyond"]


class RowContext(nn.Module):
    """What a network is told of the features of a row that are no reals.

    Codes are embedded, angles given by cosine and sine, values in cells as they are. What a flag can say is
    absent also tells whether it is there.

    Arguments:
        features: of a row. known: indices of those that are told; None for all.
    """

    def __init__(self, features: Sequence[Feature], known: Collection[int] | None = None) -> None:
        super().__init__()
        told = [(i, f) for i, f in enumerate(features) if known is None or i in known]
        self.codes = [i for i, f in told if f.kind == "code"]
        self.angles = [i for i, f in told if f.kind == "circular"]
        self.cells = [i for i, f in told if f.kind == "cells"]
        self.optional = [i for i, f in told if f.kind != "real" and f.flag is not None]
        levels = [features[i].levels for i in self.codes]
        self.embeddings = nn.ModuleList(nn.Embedding(n, embedding_width(n)) for n in levels)
        #: Width of the context.
        self.features = (
            sum(map(embedding_width, levels)) + 2 * len(self.angles) + len(self.cells) + len(self.optional)
        )

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor | None:
        """The context of rows ``(B, F)``, ``(B, features)``, after what else is `given`, ``(B, C)``.

        None where there is nothing to say.
        """
        if not self.features:
            return given
        there = ~x.isnan()
        value = torch.where(there, x, 0.0)
        parts = [
            embedding(value[:, i].long()) for embedding, i in zip(self.embeddings, self.codes, strict=True)
        ]
        angle = value[:, self.angles]
        parts += [angle.cos(), angle.sin(), value[:, self.cells], there[:, self.optional].to(x.dtype)]
        return torch.cat(parts if given is None else [given, *parts], 1)


def embedding_width(levels: int) -> int:
    """Numbers that a code of so many levels is embedded in."""
    return min(8, math.ceil(levels / 2))


class ThroughFlow(Density):
    r"""The reals of rows through a flow's transform, given the other features, and a context if there is one.

    A real that does not exist in a row (`Feature.flag`) is put beyond the interval of the splines, where all
    layers are the identity: it passes them unchanged, contributes nothing to the determinant, and is left out
    by who scores the result. So the density of what is there is exact.
    """

    placed: Tensor
    columns: tuple[Feature, ...]
    #: What to do where a cell is missing, and what the flow is where another is wanted.
    remedy = "fit with likelihood='leaves' (exact), or proposal=True (a lower bound), or drop such rows"
    other_flow = "a tree of states is the base of a flow of bijective layers, such as 'nsf-autoregressive'"
    instead = "choose another flow, or likelihood='leaves'"

    def set_flow(
        self, features: Sequence[Feature], context: RowContext, flow: Density, given: int = 0
    ) -> None:
        """The flow, whose transform is used; its own base is not.

        Arguments:
            features: of a row. context: what the flow is told of it.
            flow: of the reals; its context is that of this density, `given` numbers, and then of the row.

        Raises:
            ConfigError: a density that is no flow with an exact, bijective transform; or, where reals can be
                absent, one with other layers than splines and permutations.
        """
        self.columns = tuple(features)
        self.reals = [i for i, f in enumerate(features) if f.kind == "real"]
        if not isinstance(flow, Flow) or not flow.transform.bijective or flow.transform.exactness != "exact":
            raise ConfigError(f"{self.other_flow}; received {type(flow).__name__}: {self.instead}")
        width = given + context.features
        if flow.event_shape != (len(self.reals),) or flow.context_features != width:
            raise ConfigError(
                f"expected a flow of {len(self.reals)} reals with context_features={width}, "
                f"received {flow.event_shape} and {flow.context_features}"
            )
        self.context, self.transform = context, flow.transform
        # Its permutations are undone at the end, so that every number stands where its feature does.
        placed = torch.arange(len(self.reals)).unsqueeze(0)
        for layer in _layers(flow.transform):
            if isinstance(layer, Permutation):
                placed = placed.index_select(1, layer.order)
        self.register_buffer("placed", placed[0])
        flags = [features[i].flag for i in self.reals]
        #: What stands for reals that are not there: beyond the splines where some can be absent.
        self.outside = 0.0 if flags == [None] * len(flags) else identity_beyond(flow.transform) + 1.0

    def straightened(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rows with their reals mapped, NaN where there is none, and the log-determinant, ``(B,)``.

        Arguments:
            x: rows ``(B, F)``, NaN where a flag says that there is no value. given: ``(B, given)``.
        """
        real = x[:, self.reals]
        there = self._there(x, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        u, logabsdet = self.transform(filled, self.context(x, given))
        if there is not None:  # over all reals of a row the flow integrates to one
            logabsdet = torch.where(there.any(1), logabsdet, 0.0)
        return self._join(x, u[:, self.placed.argsort()], there), logabsdet

    def bent(self, u: Tensor, given: Tensor | None = None) -> Tensor:
        """Undo `straightened`."""
        real = u[:, self.reals]
        there = self._there(u, real)
        filled = real if there is None else torch.where(there, real, self.outside)
        x = self.transform.inverse(filled[:, self.placed], self.context(u, given))[0]
        return self._join(u, x, there)

    def _there(self, x: Tensor, real: Tensor) -> Tensor | None:
        """Which reals are there; None for all.

        Raises:
            DataError: a feature that is missing beside a real, though no flag says that it does not exist.
        """
        if tracing() and self.outside == 0.0:  # none can be absent, and none is missing
            return None
        if not tracing() and not bool(x.isnan().any()):
            return None
        there = ~real.isnan()
        if not tracing():
            refuse_missing(x, self.columns, range(len(self.columns)), self.remedy, there.any(1))
        return there

    def _join(self, x: Tensor, real: Tensor, there: Tensor | None) -> Tensor:
        if there is not None:
            real = torch.where(there, real, torch.nan)
        if len(self.reals) == x.shape[1]:
            return real
        joined = x.clone()
        joined[:, self.reals] = real
        return joined


def refuse_missing(
    x: Tensor, features: Sequence[Feature], which: Sequence[int], remedy: str, rows: Tensor | None = None
) -> None:
    """Raise `DataError` where one of the features `which` is missing, and no flag says that it is absent.

    Arguments:
        x: rows, ``(B, F)``. features: of a row. rows: those that are looked at, ``(B,)``; None for all.
    """
    unknown = missing(x, features)[:, list(which)]
    if rows is not None:
        unknown = unknown & rows.unsqueeze(1)
    if bool(unknown.any()):
        place, row = (int(i) for i in unknown.mT.nonzero()[0])
        raise DataError(
            f"feature {which[place]} is missing in row {row + 1} of the batch: leaves take missing cells, "
            f"the flow only rows without any real; {remedy}"
        )


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
