"""What states say of rows, in numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["use_of_states"]


def use_of_states(exact: Tensor, said: Tensor, prior: Tensor) -> dict[str, float | int | None]:
    r"""Means over rows, nats; None for one that is no number.

    * ``mutual_information``, ``H(E p(z|x)) - E H(p(z|x))``: at most the logarithm of ``states``;
    * ``kl``, ``E KL(p(z|x) || p(z))``;
    * ``gap``, ``E KL(q(z|x) || p(z|x))``: by how much the evidence lower bound of the encoder misses the
      density, and its ``gap_error``; ``rows``, how many.

    Arguments:
        exact: ``log p(z | x)``. said: ``log q(z | x)``, ``(B, A)`` each. prior: ``log p(z)``, ``(A,)``.
    """
    exact, said, prior = exact.double(), said.double(), prior.double()
    shares, n = exact.exp(), len(exact)
    entropy = torch.special.entr(shares).sum(-1).mean()
    difference = torch.where(said > -torch.inf, said - exact, torch.zeros_like(said))
    gap = (said.exp() * difference).sum(-1)
    found = {
        "mutual_information": float(torch.special.entr(shares.mean(0)).sum() - entropy),
        "kl": float(-(shares @ prior).mean() - entropy),
        "gap": float(gap.mean()),
        "gap_error": float(gap.std()) / math.sqrt(n) if n > 1 else math.nan,
    }
    plain = {name: value if math.isfinite(value) else None for name, value in found.items()}
    return {**plain, "states": exact.shape[1], "rows": n}
