"""The k most probable sequences under independent positions, in order, without looking at all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import torch
from torch import Tensor

from modeflow.errors import ConfigError

__all__ = ["k_best"]

_IMPOSSIBLE = -1e30
#: Choices other than the best, ``(position, rank)``, the last one first.
Choices = tuple[tuple[int, int], "Choices"] | None


def _in_order(steps: list[list[float]]) -> Iterator[tuple[float, Choices]]:
    """Extra cost and choices of all sequences, the cheapest first.

    Arguments:
        steps: for each position, the extra cost of its ranks (that of rank 0 is 0), non-decreasing; positions
            in the order of the cost of their rank 1.

    A state is the choices made at positions up to i, of which i is not at rank 0. Three others follow from
    it: the next rank at i; rank 1 at i + 1 as well; and, from rank 1 at i, rank 1 at i + 1 instead. Each
    costs no less, and every sequence follows from exactly one.
    """
    yield 0.0, None
    if not steps or len(steps[0]) < 2:
        return
    count = 0  # breaks ties, so that choices are never compared
    heap: list[tuple[float, int, int, int, Choices]] = [(steps[0][1], count, 0, 1, None)]
    while heap:
        cost, _, i, rank, before = heapq.heappop(heap)
        here: Choices = ((i, rank), before)
        yield cost, here
        following = []
        if rank + 1 < len(steps[i]):
            following.append((cost - steps[i][rank] + steps[i][rank + 1], i, rank + 1, before))
        if i + 1 < len(steps):
            following.append((cost + steps[i + 1][1], i + 1, 1, here))
            if rank == 1:
                following.append((cost - steps[i][1] + steps[i + 1][1], i + 1, 1, before))
        for found, position, step, made in following:
            count += 1
            heapq.heappush(heap, (found, count, position, step, made))


def k_best(log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The k sequences with the largest :math:`\sum_j \log q_j(z_j)`, in order; O(k log k) after sorting.

    Arguments:
        log_q: log-probabilities, shape ``(B, L, V)``.
        k: how many; at most ``V ** L`` are there.

    Returns:
        sequences ``(B, k', L)`` and their log-probabilities ``(B, k')``, with ``k' = min(k, V ** L)``.

    Raises:
        ConfigError: if `k` is less than one.
    """
    if k < 1:
        raise ConfigError(f"the number of sequences must be 1 or more, received {k}")
    batch, length, n_codes = log_q.shape
    # More codes a position than sequences are never needed.
    kept = min(n_codes, k)
    # Impossible codes stay comparable: the difference of two infinities is not.
    values, codes = log_q.double().clamp_min(_IMPOSSIBLE).sort(dim=-1, descending=True, stable=True)
    values, codes = values[..., :kept].cpu(), codes[..., :kept]
    extra = values[..., :1] - values
    order = extra[..., min(1, kept - 1)].argsort(dim=-1, stable=True)
    wanted = min(k, n_codes**length) if length < 64 else k
    ranks = torch.zeros(batch, wanted, length, dtype=torch.long)
    total = values[..., 0].sum(-1, keepdim=True).repeat(1, wanted)
    for b in range(batch):
        places = order[b].tolist()
        rows = extra[b].tolist()
        for n, (cost, choices) in zip(range(wanted), _in_order([rows[p] for p in places]), strict=False):
            total[b, n] -= cost
            while choices is not None:
                (position, rank), choices = choices
                ranks[b, n, places[position]] = rank
    sequences = codes.unsqueeze(1).expand(-1, wanted, -1, -1).gather(3, ranks.to(codes.device).unsqueeze(-1))
    total[total <= _IMPOSSIBLE / 2] = float("-inf")
    return sequences.squeeze(-1), total.to(log_q)
