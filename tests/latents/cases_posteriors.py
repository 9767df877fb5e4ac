"""The table of posteriors of a continuous z: a line here gives a new one its tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PosteriorCase:
    """What is to be expected of a posterior.

    Attributes:
        gap: nats by which its bound may miss the density of a linear-Gaussian model whose exact posterior is
            a Gaussian with correlated dimensions, after a short training; None where it cannot be that.
        sphere: whether z lies on the unit sphere; such have their tests in ``test_sphere.py``.
        chains: whether it is learned by chains, and not by a lower bound.
        of_means: whether it needs a likelihood that z moves through its mean alone.
        point: whether z is a function of x, and the density no bound; such have their tests in
            ``test_cores.py``.
    """

    gap: float | None = None
    sphere: bool = False
    of_means: bool = False
    chains: bool = False
    point: bool = False

    @property
    def apart(self) -> bool:
        """Whether it has tests of its own instead."""
        return self.sphere or self.point


POSTERIOR_CASES: dict[str, PosteriorCase] = {
    "gaussian": PosteriorCase(),
    "full-gaussian": PosteriorCase(gap=1e-3),
    "iaf": PosteriorCase(gap=1e-3),
    "maf": PosteriorCase(gap=1e-3),
    "nsf": PosteriorCase(gap=0.01),
    "planar": PosteriorCase(gap=0.02),
    "radial": PosteriorCase(gap=0.05),
    "laplace": PosteriorCase(gap=1e-9, of_means=True),
    "vmf": PosteriorCase(sphere=True),
    "power-spherical": PosteriorCase(sphere=True),
    "langevin": PosteriorCase(gap=1e-9, chains=True),
    "encoded-langevin": PosteriorCase(chains=True),
    "amortised-langevin": PosteriorCase(chains=True),
    "aef": PosteriorCase(point=True),
    "funnel": PosteriorCase(point=True),
}
