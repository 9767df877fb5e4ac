"""How cost grows: with rows, columns, states and depth; memory with depth; what the training loop adds.

Each measurement runs in a process of its own, so that its peak memory is its own. Pictures go to docs/images.

Run on an idle machine: python benchmarks/scaling.py [rows|columns|states|depth|memory|loop ...]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, write
from modeflow.data import toy
from modeflow.flows import NSF, Glow
from modeflow.models import DiscreteNVF
from modeflow.training import TrainConfig, Trainer, seeded
from modeflow.training.flat import FlatParameters
from modeflow.transforms import set_activations

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
COLUMNS = (2, 5, 10, 20, 50, 100, 200, 500)
STATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DEPTHS = (1, 2, 4, 8, 16, 32, 64)


def peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_ms(call: Callable[[], Any], repeats: int = 7) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[len(times) // 2]


def stepper(model: Any, x: torch.Tensor) -> Callable[[], None]:
    """A training step as the trainer takes it."""
    flat = FlatParameters(list(model.parameters()))
    flat.attach()
    optimizer = torch.optim.Adam(flat.vectors, lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        flat.zero_grad()
        model.objective(x, None, 0).value.backward()
        flat.clip(5.0)
        optimizer.step()

    return step


# -- one measurement each -----------------------------------------------------------------------


def rows(n: int) -> dict[str, Any]:
    """Densities of n rows, D = 2, and what memory they take beyond the rows themselves."""
    model = NSF(2, layers=4, hidden_features=32).eval()
    x = torch.randn(n, 2)
    model.log_prob(x[:10])
    before = peak()
    with torch.no_grad():
        ms = median_ms(lambda: model.log_prob(x), 3)
    return {"rows": n, "log_prob_ms": ms, "memory_mib": max(0.0, peak() - before)}


def columns(d: int) -> dict[str, Any]:
    """A training step and the densities of 256 rows."""
    model = NSF(d, layers=5, hidden_features=64)
    x = torch.randn(256, d)
    step = median_ms(stepper(model, x))
    model.eval()
    with torch.no_grad():
        return {"columns": d, "step_ms": step, "log_prob_ms": median_ms(lambda: model.log_prob(x))}


def states(k: int) -> dict[str, Any]:
    """On a trained model of k isolated modes: a training step, exact and pruned densities, and the gap."""
    d = 6
    x = torch.from_numpy(toy(f"gaussians:k={k},d={d}").sample(12_000, 0)).float()
    x = (x - x.mean(0)) / x.std(0)
    options = {"layers": 6, "hidden_features": 64}
    with seeded(0):
        model = DiscreteNVF(d, k, flow_options=options)
        plain = DiscreteNVF(d, 1, flow_options=options).eval()
        model.start(x[:8000], 0)
        config = TrainConfig(max_epochs=20, patience=None, device="cpu")
        Trainer(config, quiet=True).fit(model, x[:8000], x[8000:10_000])
    test, calls = x[10_000:], {}
    model.eval().calibrate(x[8000:10_000])
    with torch.no_grad():
        calls["plain"] = median_ms(lambda: plain.log_prob(test))
        calls["exact"] = median_ms(lambda: model.log_prob(test), 3)
        calls["pruned"] = median_ms(lambda: model.log_prob_pruned(test, 1e-6))
        exact, pruned = model.log_prob(test), model.log_prob_pruned(test, 1e-6)
    gap = exact.double() - pruned.log_prob.double()
    step, one = stepper(model, x[:512]), stepper(plain, x[:512])
    return {
        "states": k,
        "plain_ms": calls["plain"],
        "exact_over_plain": calls["exact"] / calls["plain"],
        "pruned_over_plain": calls["pruned"] / calls["plain"],
        "evaluations_per_row": pruned.evaluations,
        "gap_nats": float(gap.mean()),
        "largest_gap_nats": float(gap.max()),
        "step_over_plain": median_ms(step) / median_ms(one),
    }


def depth(layers: int) -> dict[str, Any]:
    """A training step and the densities of 512 rows, D = 6."""
    model = NSF(6, layers=layers, hidden_features=64)
    x = torch.randn(512, 6)
    step = median_ms(stepper(model, x))
    model.eval()
    with torch.no_grad():
        return {"layers": layers, "step_ms": step, "log_prob_ms": median_ms(lambda: model.log_prob(x))}


def memory(steps: int, kind: str) -> dict[str, Any]:
    """Peak memory of a training step of Glow at 3x32x32, one level of `steps` steps, batch of 32."""
    torch.manual_seed(0)
    model = Glow((3, 32, 32), levels=1, steps=steps, hidden_channels=64)
    set_activations(model, kind)
    x = torch.rand(32, 3, 32, 32)
    with torch.no_grad():
        model.train().log_prob(x)
    step = stepper(model, x)
    before = peak()
    ms = median_ms(step, 3)
    return {"steps": steps, "kind": kind, "step_ms": ms, "memory_mib": peak() - before}


def loop(_: int) -> dict[str, Any]:
    """What the trainer adds to forward, backward and optimiser, at the smallest size of `modeflow bench`."""
    x = torch.randn(12_800, 43)
    ratios = []
    for _repeat in range(9):
        model = NSF(43, layers=10, hidden_features=32, bins=4)
        config = TrainConfig(max_epochs=5, batch_size=128, device="cpu", learning_rate=1e-5)
        trainer = Trainer(config, quiet=True)
        trainer.fit(model, x, until_epoch=1)
        began = time.perf_counter()
        trainer.fit(model, x, until_epoch=5)
        trained = (time.perf_counter() - began) / 400
        batch = x[:128]
        step = stepper(model, batch)
        for _warm in range(20):
            step()
        began = time.perf_counter()
        for _step in range(400):
            step()
        bare = (time.perf_counter() - began) / 400
        ratios.append((1e3 * trained, 1e3 * bare, trained / bare))
    ratios.sort(key=lambda r: r[2])
    trained_ms, bare_ms, ratio = ratios[4]
    return {
        "trainer_ms": trained_ms,
        "bare_ms": bare_ms,
        "ratio": ratio,
        "low": ratios[0][2],
        "high": ratios[-1][2],
    }


MEASURES: dict[str, tuple[Callable[..., dict[str, Any]], list[tuple[Any, ...]]]] = {
    "rows": (rows, [(n,) for n in ROWS]),
    "columns": (columns, [(d,) for d in COLUMNS]),
    "states": (states, [(k,) for k in STATES]),
    "depth": (depth, [(n,) for n in DEPTHS]),
    "memory": (memory, [(n, k) for k in ("keep", "recompute", "invert") for n in (2, 4, 8, 16, 32)]),
    "loop": (loop, [(0,)]),
}


def apart(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} {arguments}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def draw(content: dict[str, Any]) -> None:
    """docs/images/scaling.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")

    def lines(axis: Any, name: str, x: str, series: dict[str, str], title: str, ylabel: str) -> None:
        for key, label in series.items():
            axis.plot([r[x] for r in content[name]], [r[key] for r in content[name]], "o-", ms=3, label=label)
        axis.set(xscale="log", yscale="log", title=title, xlabel=x, ylabel=ylabel)
        axis.legend(frameon=False, fontsize=8)

    both = {"step_ms": "training step", "log_prob_ms": "densities"}
    lines(axes[0, 0], "rows", "rows", {"log_prob_ms": "densities"}, "Rows (D = 2)", "milliseconds")
    lines(axes[0, 1], "columns", "columns", both, "Columns (256 rows)", "milliseconds")
    lines(axes[0, 2], "depth", "layers", both, "Layers (512 rows, D = 6)", "milliseconds")
    ratio = {
        "exact_over_plain": "exact",
        "pruned_over_plain": "pruned, 1e-6",
        "step_over_plain": "training step",
    }
    lines(axes[1, 0], "states", "states", ratio, "States", "times a plain flow")
    axis = axes[1, 1]
    for kind in ("keep", "recompute", "invert"):
        found = [r for r in content["memory"] if r["kind"] == kind]
        axis.plot([r["steps"] for r in found], [r["memory_mib"] for r in found], "o-", ms=3, label=kind)
    axis.set(
        xscale="log",
        yscale="log",
        title="Memory of a step (Glow, 3x32x32)",
        xlabel="steps of Glow",
        ylabel="MiB",
    )
    for side, marks in ((axis.xaxis, (2, 4, 8, 16, 32)), (axis.yaxis, (25, 50, 100, 200, 400))):
        side.set_major_locator(FixedLocator(marks))
        side.set_major_formatter("{x:.0f}")
        side.set_minor_locator(NullLocator())
    axis.legend(frameon=False, fontsize=8)
    axis = axes[1, 2]
    found = content["rows"]
    axis.plot([r["rows"] for r in found], [1e6 * r["log_prob_ms"] / r["rows"] for r in found], "o-", ms=3)
    axis.set(xscale="log", title="Cost of a row (D = 2)", xlabel="rows", ylabel="nanoseconds")
    axis.set_ylim(bottom=0)
    figure.savefig(IMAGES / "scaling.png", dpi=80)
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(2)
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(MEASURES[sys.argv[2]][0](*json.loads(sys.argv[3]))))
        return
    names = sys.argv[1:] or list(MEASURES)
    path = RESULTS / "scaling.json"
    content = {} if not path.exists() else json.loads(path.read_text(encoding="utf-8"))
    content = {name: content[name] for name in MEASURES if name in content}
    for name in names:
        if name not in MEASURES:
            sys.exit(f"no measurement is called '{name}' ({', '.join(MEASURES)})")
        content[name] = []
        for arguments in MEASURES[name][1]:
            content[name].append(apart(name, arguments))
            print(name, content[name][-1], flush=True)
    print(f"wrote {write('scaling', content)}")
    draw(content)


if __name__ == "__main__":
    main()
