"""What a tree of states costs beside its matrix products alone, and beside cirkit's same circuit.

The circuit is a hidden Chow-Liu tree of 15 real columns with 128 states each, in single precision. Its matrix
products are three a message (up, down, pair counts). A training step is loss, gradient and Adam on 512 rows;
scored are 8,192 rows without gradients. All contenders take turns in one process, on one thread and on two;
given are medians over the turns, by the clock and of the processor time of all threads: other work on the
machine spoils the latter least, where threads sleep while they wait (``OMP_WAIT_POLICY=passive``).

cirkit is left out where it is not installed, and pyjuice always: it compiles its circuits for a CUDA device
only (`TensorCircuit` asks for `torch.cuda.current_device()`), so there is nothing to time on a processor.

Run: OMP_WAIT_POLICY=passive python benchmarks/trees.py [--rounds 40]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import n_parameters, write
from modeflow.models import TreeNVF
from modeflow.native import native_kernels, use_native

FEATURES, STATES, BATCH, SCORED = 15, 128, 512, 8192
#: Of every column the one that it depends on: a tree of some depth.
PARENTS = (-1, *((j - 1) // 2 for j in range(1, FEATURES)))
PYJUICE = "compiles circuits for a CUDA device only"


def rows_of_tree() -> Tensor:
    """Rows whose columns depend on one another along the tree."""
    rows = torch.randn(SCORED, FEATURES)
    for j in range(1, FEATURES):
        rows[:, j] = 0.8 * rows[:, PARENTS[j]] + 0.6 * rows[:, j]
    return rows


def ours(rows: Tensor) -> nn.Module:
    model = TreeNVF(FEATURES, STATES, likelihood="leaves")
    model.start(rows, 0)
    undirected = {tuple(sorted(edge)) for edge in model.prior.tree.edges}
    if undirected != {(parent, child) for child, parent in enumerate(PARENTS) if parent >= 0}:
        raise SystemExit("the tree that was found is not the one that the rows have")
    return model


def cirkit_circuit(parents: Sequence[int], states: int) -> nn.Module:
    """The same circuit in cirkit, folded and optimised as its default pipeline does it."""
    from cirkit.pipeline import PipelineContext
    from cirkit.symbolic.circuit import Circuit
    from cirkit.symbolic.layers import GaussianLayer, HadamardLayer, Layer, SumLayer
    from cirkit.templates.utils import Parameterization, parameterization_to_factory
    from cirkit.utils.scope import Scope

    weights = parameterization_to_factory(Parameterization(activation="softmax", initialization="normal"))
    layers: list[Layer] = []
    inputs: dict[Layer, list[Layer]] = {}

    def add(layer: Layer, of: list[Layer]) -> Layer:
        layers.append(layer)
        if of:
            inputs[layer] = of
        return layer

    def message(place: int) -> Layer:
        below = [message(child) for child, parent in enumerate(parents) if parent == place]
        here = add(GaussianLayer(Scope([place]), states), [])
        if below:
            here = add(HadamardLayer(states, 1 + len(below)), [here, *below])
        return add(SumLayer(states, 1 if parents[place] < 0 else states, weight_factory=weights), [here])

    top = message(parents.index(-1))
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    return context.compile(Circuit(layers, inputs, [top]))


def training(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One training step: loss, gradient, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def contenders(rows: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Of each contender what is timed."""
    batch = rows[:BATCH]
    evidence = torch.rand(FEATURES - 1, BATCH, STATES)
    tables = torch.rand(FEATURES - 1, STATES, STATES)

    def products() -> None:
        torch.bmm(evidence, tables.mT)
        torch.bmm(evidence, tables)
        torch.bmm(evidence.mT, evidence)

    def of_ours(native: bool) -> dict[str, Callable[[], object]]:
        model: Any = ours(rows)
        learn = training(model, lambda: model.objective(batch).value)

        def step() -> None:
            with use_native(native):
                learn()

        @torch.no_grad()
        def score() -> None:
            with use_native(native):
                model.log_prob(rows)

        return {"step": step, "score": score}

    found = {"matrix products": {"step": products}, "modeflow": of_ours(True)}
    if native_kernels() != "none":
        found["modeflow, PyTorch"] = of_ours(False)
    if importlib.util.find_spec("cirkit") is not None:
        peer = cirkit_circuit(PARENTS, STATES)
        if n_parameters(peer) != n_parameters(ours(rows)):
            raise SystemExit("cirkit's circuit has not the parameters of ours")

        @torch.no_grad()
        def score() -> None:
            for part in rows.split(BATCH):
                peer(part)

        found["cirkit"] = {"step": training(peer, lambda: -peer(batch).mean()), "score": score}
    return found


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Milliseconds of every call, and of the processor, which take turns; the first turns are not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 3):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            if turn >= 3:
                found[name].append((1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - used)))
    return {name: (np.array(values)[:, 0], np.array(values)[:, 1]) for name, values in found.items()}


def left_out() -> dict[str, str]:
    """Peers that are not timed, and why."""
    missing = {"pyjuice": PYJUICE}
    if importlib.util.find_spec("cirkit") is None:
        missing["cirkit"] = "is not installed"
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    rows = rows_of_tree()
    everyone = contenders(rows)
    table = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for measure, count in (("step", rounds), ("score", max(3, rounds // 4))):
            calls = {name: timings[measure] for name, timings in everyone.items() if measure in timings}
            times = timed(calls, count)
            wall_base, used_base = times["matrix products" if measure == "step" else "modeflow"]
            for name, (wall, used) in times.items():
                entry = {
                    "threads": threads,
                    "measure": measure,
                    "contender": name,
                    "ms": round(float(np.median(wall)), 2),
                    "processor_ms": round(float(np.median(used)), 2),
                    # To the products in a step, to ours in scoring.
                    "ratio": round(float(np.median(wall) / np.median(wall_base)), 2),
                    "processor_ratio": round(float(np.median(used) / np.median(used_base)), 2),
                }
                if measure == "score":
                    entry["rows_per_second"] = round(1e3 * SCORED / float(np.median(wall)))
                    entry["rows_per_processor_second"] = round(1e3 * SCORED / float(np.median(used)))
                table.append(entry)
                print(entry, flush=True)
    for name, reason in left_out().items():
        print(f"left out: {name}, which {reason}")
    content = {
        "features": FEATURES,
        "states": STATES,
        "batch": BATCH,
        "scored": SCORED,
        "rounds": rounds,
        "native_kernels": native_kernels(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "active"),
        "left_out": left_out(),
        "table": table,
    }
    print(write("tree", content))


if __name__ == "__main__":
    main()
