"""Parameters of a run that lie in one vector (`modeflow.training.flat`), in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block"]


@dataclass(frozen=True, eq=False)
class Block:
    """Where the parameters lie, and so where their gradients belong.

    Attributes:
        vector: that holds them.
        pieces: of the vector, from its beginning to its end: the place of the piece in the kernel's order, -1
            of what no parameter of the run has, and its length.
        start: place in the vector where they begin, if they follow one another in the kernel's order.
    """

    vector: Tensor
    pieces: Sequence[tuple[int, int]]
    start: int | None

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Block | None:
        """That of the parameters, in the kernel's order; None where they are not all in one vector."""
        flat: tuple[Tensor, int] | None = getattr(parameters[0], "_flat", None)
        if flat is None:
            return None
        vector, begin, size = flat[0], flat[0].data_ptr(), flat[0].element_size()
        places, at = [], 0
        for p in parameters:
            there, place = getattr(p, "_flat", (None, 0))
            # A parameter may have been given other storage since.
            if there is not vector or p.data_ptr() != begin + place * size:
                return None
            places.append((place, at, p.numel()))
            at += p.numel()
        pieces: list[tuple[int, int]] = []
        reached = 0
        for place, at, length in sorted(places):
            if place < reached:
                return None  # one that is used twice
            if place > reached:
                pieces.append((-1, place - reached))
            if pieces and pieces[-1][0] >= 0 and sum(pieces[-1]) == at:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
            else:
                pieces.append((at, length))
            reached = place + length
        if reached < vector.numel():
            pieces.append((-1, vector.numel() - reached))
        known = [place for place, (at, _) in enumerate(pieces) if at >= 0]
        start = sum(length for _, length in pieces[: known[0]]) if len(known) == 1 else None
        return cls(vector, pieces, start)

    def spread(self, gradients: Tensor) -> Tensor:
        """Gradients in the kernel's order as one of the vector."""
        return torch.cat(
            [
                gradients.narrow(0, at, length) if at >= 0 else gradients.new_zeros(length)
                for at, length in self.pieces
            ]
        )
