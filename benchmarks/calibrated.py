"""Is the spread of q(z|x) that of p(z|x)? Reverse divergence, forward divergences, transport score climbing.

Two models whose posteriors are known, z in two dimensions and x in three, both with noise of scale 0.5 and
fixed: *linear*, ``x = W z + e``, whose posterior is a Gaussian of correlation -0.64; *bent*, where W z goes
through a fixed random network of 16 tanh units, whose posterior is by quadrature (301 x 301 points of z in
±6). q is a diagonal Gaussian by one network (64, 64), and only q is fitted: 3,000 steps of Adam on batches of
128 out of 1,000 rows of the model, at a rate that falls from 0.003 along half a cosine. On 2,000 other rows,
with the z that they were drawn with:

* *variance*: that of q over that of p(z|x), geometric mean over rows and dimensions; 1 is calibrated;
* *coverage*: how often the middle 90 % of q, in each dimension, holds the z of the row;
* *forward*: KL(p(z|x) || q), the mean of log p(z|x) - log q(z|x) at the z of the row, nats;
* *best*: the same of the diagonal Gaussian with the mean and variances of p(z|x), the best of the family.

Run: OMP_NUM_THREADS=1 python benchmarks/calibrated.py. Results are kept after every fit, not measured again.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from common import earlier_runs, write
from modeflow.densities import Flow, GaussianDecoder, StandardNormal
from modeflow.densities.base import Density
from modeflow.inference import transport_score_climbing
from modeflow.latents import (
    ContinuousELBO,
    ContinuousLatentModel,
    ContinuousObjective,
    GaussianPosterior,
    WakePhase,
    WakeSleep,
)
from modeflow.nets import MLP
from modeflow.optimisers import Adam
from modeflow.transforms import Transform

L, D, NOISE, ROWS, TEST, STEPS, BATCH, RATE, SEEDS = 2, 3, 0.5, 1_000, 2_000, 3_000, 128, 3e-3, 2
W = torch.tensor([[0.9, 0.6], [0.3, 0.7], [0.5, 0.1]])
SIDE, REACH = 301, 6.0
OBJECTIVES: dict[str, ContinuousObjective | None] = {
    "reverse divergence (ELBO)": ContinuousELBO(),
    "wake, 8 draws": WakePhase(),
    "asleep": WakeSleep(sleep_share=1.0, train_draws=1),
    "transport score climbing": None,
}


class Fixed(nn.Module):
    """A fixed map of z: W z, or a random network on top of it."""

    def __init__(self, bent: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.inner = torch.randn(16, D, generator=generator) / math.sqrt(D) if bent else None
        self.shift = torch.randn(16, generator=generator)
        self.outer = 3 * torch.randn(D, 16, generator=generator) / 4

    def forward(self, z: Tensor) -> Tensor:
        mean = z @ W.T
        if self.inner is None:
            return mean
        return torch.tanh(2 * mean @ self.inner.T + self.shift) @ self.outer.T


class OfEncoder(Transform):
    """``(z - m(x)) / s(x)`` of a Gaussian posterior, as a layer of a flow: the same q for the climb."""

    def __init__(self, encoder: GaussianPosterior) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q = self.encoder(context)
        return (x - q.location) * torch.exp(-q.log_scale), -q.log_scale.sum(1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q = self.encoder(context)
        return q.location + torch.exp(q.log_scale) * u, q.log_scale.sum(1)


def rows(likelihood: Density, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the model, and the z that each was drawn with."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, L, generator=generator)
    return likelihood.sample(1, z, generator)[0], z


@torch.no_grad()
def posterior(likelihood: Density, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances of p(z|x) by quadrature, ``(B, L)`` each, and its log-density at z, ``(B,)``."""
    side = torch.linspace(-REACH, REACH, SIDE)
    grid = torch.cartesian_prod(side, side)
    mean, prior = likelihood.predictor(grid).double(), StandardNormal(L).log_prob(grid).double()
    constant = -D * math.log(NOISE) - 0.5 * D * math.log(2 * math.pi)
    found = []
    for part in x.double().split(100):
        misfit = (part.unsqueeze(1) - mean).square().sum(2) / NOISE**2
        log_joint = prior - 0.5 * misfit + constant  # (100, points)
        share = torch.softmax(log_joint, 1)
        centre = share @ grid.double()
        spread = share @ grid.double().square() - centre.square()
        total = torch.logsumexp(log_joint, 1) + 2 * (side[1] - side[0]).double().log()
        found.append(torch.cat([centre, spread, total.unsqueeze(1)], 1))
    centre, spread, total = torch.cat(found).split([L, L, 1], 1)
    at = likelihood.log_prob(x, z).double() + StandardNormal(L).log_prob(z).double() - total.squeeze(1)
    return centre, spread, at


def fit_q(name: str, encoder: GaussianPosterior, likelihood: Density, x: Tensor, seed: int) -> None:
    """Fit q alone."""
    objective = OBJECTIVES[name]
    prior = StandardNormal(L)
    if objective is None:
        flow = Flow(OfEncoder(encoder), prior, D)

        def joint(z: Tensor, given: Tensor) -> Tensor:
            return likelihood._log_prob(given, z) + prior._log_prob(z, None)

        given = {"batch_size": BATCH, "learning_rate": RATE}
        transport_score_climbing(joint, flow, x=x, steps=STEPS, options=given, random_state=seed)
        return
    model = ContinuousLatentModel(prior, likelihood, encoder, objective)
    optimiser = Adam(encoder.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        index = torch.randint(len(x), (BATCH,), generator=generator)
        optimiser.zero_grad()
        model.objective(x[index]).value.backward()
        optimiser.step()


def _mean(values: Tensor) -> dict[str, float]:
    rows_of = values.double().flatten(1).mean(1)  # dimensions of a row are not independent
    return {"value": float(rows_of.mean()), "standard_error": float(rows_of.std()) / math.sqrt(len(rows_of))}


def measured(
    encoder: GaussianPosterior, x: Tensor, z: Tensor, known: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Any]:
    """What the module says, of test rows."""
    _, spread, at = known
    with torch.no_grad():
        q = encoder(x)
        ratio = 2 * q.log_scale.double() - spread.log()
        inside = ((z - q.location).abs() < 1.6448536 * q.log_scale.exp()).double()
        forward = at - q.log_prob(z).double()
    return {
        "log_variance_ratio": _mean(ratio),
        "coverage": _mean(inside),
        "forward": _mean(forward.unsqueeze(1)),
    }


def main() -> None:
    torch.set_num_threads(1)
    settings = {"rows": ROWS, "test": TEST, "steps": STEPS, "batch": BATCH, "rate": RATE, "noise": NOISE}
    runs = earlier_runs("calibrated", settings=settings)
    for kind in ("linear", "bent"):
        likelihood = GaussianDecoder(D, L, (), scale=NOISE, net=Fixed(kind == "bent"))
        for seed in range(SEEDS):
            x, _ = rows(likelihood, ROWS, seed)
            test, z = rows(likelihood, TEST, 1000 + seed)
            known = posterior(likelihood, test, z)
            best = known[2] + 0.5 * (
                (z - known[0]).square() / known[1] + known[1].log() + math.log(2 * math.pi)
            ).sum(1)
            for name in OBJECTIVES:
                if any((r["model"], r["objective"], r["seed"]) == (kind, name, seed) for r in runs):
                    continue
                torch.manual_seed(seed)
                encoder = GaussianPosterior(L, lambda outputs: MLP(D, outputs, (64, 64)))
                began = time.process_time()
                fit_q(name, encoder, likelihood, x, seed)
                seconds = time.process_time() - began
                run = {"model": kind, "objective": name, "seed": seed, "seconds": round(seconds, 1)}
                run |= {**measured(encoder, test, z, known), "best": _mean(best.unsqueeze(1))}
                runs.append(run)
                write("calibrated", {"settings": settings, "runs": runs})
                print(run, flush=True)


if __name__ == "__main__":
    main()
