"""What the states cost while training: a step of NVF over one of the plain flow (against K: scaling.py).

Steps of the two models are interleaved; medians over repetitions, with an A/A pair (the plain flow twice)
that shows the noise. Run it on an idle machine: python benchmarks/cost.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from common import n_parameters, write
from modeflow.data import toy
from modeflow.models import DiscreteNVF
from modeflow.training import seeded

SHAPES = (
    {"features": 2, "batch": 256, "layers": 4, "hidden_features": 32},
    {"features": 6, "batch": 512, "layers": 6, "hidden_features": 64},
    {"features": 10, "batch": 512, "layers": 10, "hidden_features": 128},
    {"features": 6, "batch": 512, "layers": 10, "hidden_features": 256},
)


def rows(features: int, n: int = 4000) -> torch.Tensor:
    """Eight Gaussians, standardised."""
    x = torch.from_numpy(toy(f"gaussians:k=8,d={features}").sample(n, 0)).float()
    return (x - x.mean(0)) / x.std(0)


def trainer_step(features: int, k: int, objective: str, options: dict[str, Any]) -> Any:
    """One optimiser step as the trainer makes it."""
    x = rows(features)
    with seeded(0):
        model = DiscreteNVF(features, k, flow_options=options, objective=objective)
        model.start(x, 0)
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step(index: torch.Tensor) -> None:
        loss = model.objective(x.index_select(0, index), None, 0)
        optimiser.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0, foreach=True)
        optimiser.step()

    return step, n_parameters(model)


def steps(repeats: int) -> list[dict[str, Any]]:
    table = []
    for shape in SHAPES:
        options = {k: shape[k] for k in ("layers", "hidden_features")}
        d = shape["features"]
        variants = {
            "plain": trainer_step(d, 1, "truncated", options),
            "plain again": trainer_step(d, 1, "truncated", options),
            "NVF, truncated": trainer_step(d, 8, "truncated", options),
            "NVF, Gumbel ELBO": trainer_step(d, 8, "elbo", options),
            "NVF, exact marginal": trainer_step(d, 8, "marginal", options),
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(repeats):
            index = torch.randint(4000, (shape["batch"],))
            for name, (step, _size) in variants.items():
                began = time.perf_counter()
                step(index)
                times[name].append(time.perf_counter() - began)
        medians = {name: float(np.median(v[3:])) for name, v in times.items()}
        line = {
            **shape,
            "states": 8,
            "milliseconds": {name: round(1e3 * t, 3) for name, t in medians.items()},
            "ratio_to_plain": {name: round(t / medians["plain"], 3) for name, t in medians.items()},
            "parameters": {name: size for name, (_, size) in variants.items()},
        }
        table.append(line)
        print(shape, line["ratio_to_plain"], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(2)
    content = {"training_step": steps(args.repeats)}
    print(f"wrote {write('cost', content)}")


if __name__ == "__main__":
    main()
