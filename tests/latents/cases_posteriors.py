"""The table of posteriors of a continuous z: a line here gives a new one its tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PosteriorCase:
    """What is to be expected of a posterior.

    Attributes:
        gap: nats by which its bound may miss the density of a linear-Gaussian model whose exact posterior is
            a Gaussian with correlated dimensions, after a short training; None where it cannot be that.
    """

    gap: float | None = None


POSTERIOR_CASES: dict[str, PosteriorCase] = {
    "gaussian": PosteriorCase(),
    "full-gaussian": PosteriorCase(gap=1e-3),
    "iaf": PosteriorCase(gap=1e-3),
}
