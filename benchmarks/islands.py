"""Islands that are no ellipses: are they found, kept, and counted, and how far is the density from the truth?

Three groups of sets:

- "plane": seven of two or three dimensions, fresh draws for every seed.
- "curved": rings, moons, swiss rolls and islands of 0 to d dimensions in d = 5 and d = 20, of known density
  (`curved_islands`): what is missing to it is the gap, a mean over test rows of a paired difference.
- "shapes": the 52 sets of ``shapes2d``, with their published labels. Rows labelled noise are fitted and
  scored, but take no part in agreement.

Everybody is given the same rows (1,500; 2,000 of 20 dimensions; of shapes at most two thirds) and scores
others once. NVF and flows of ours hold a tenth out by themselves, and the last tenth is held out for those of
others that need it. GaussianMixture and KMeans are told the number of islands, or choose it by BIC; HDBSCAN
has its default, and clusters of 1 % of the rows at least: a test row takes the cluster of the nearest row
that has one. Agreement is the adjusted Rand index. FFJORD trains for few epochs, in five dimensions only;
CIF's likelihood is a lower bound. Seconds are of the processor, one thread a fit. Results are kept as they
come, and what has one is not fitted again; a model whose library is not here is left out, and so are shapes.

Run: python benchmarks/islands.py [--groups plane curved shapes] [--models NVF ...] [--sets ...] [--seeds 3]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

import table_rivals
from common import earlier_runs, summary, write
from curved_islands import NOWHERE, PLACES, CurvedIslands, shape
from modeflow.data import toy
from modeflow.data.manifest import SHAPES2D
from modeflow.errors import DataError
from modeflow.estimators import NVF, FlowDensity
from modeflow.metrics import adjusted_rand

ROWS, TEST = 1500, 4000
#: Rows given in 20 dimensions.
MORE_ROWS = 2000
#: Epochs of FFJORD, whose every step is some fifty evaluations.
FFJORD_EPOCHS = 40
#: Nats below the truth from which a row is counted: few such rows can make a mean.
FAR = 10.0

Draw = tuple[np.ndarray, np.ndarray]


def spirals(n: int, seed: int) -> Draw:
    """Two arms, from a quarter of a turn and a half on."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.25, 1, n) * 3 * np.pi
    arm = rng.integers(0, 2, n)
    sign = np.where(arm == 0, 1, -1)
    return np.c_[np.cos(t) * t * sign, np.sin(t) * t * sign] / 3 + 0.1 * rng.normal(size=(n, 2)), arm


def dimensions(n: int, seed: int) -> Draw:
    """A circle, a ball and a square in three dimensions."""
    rng = np.random.default_rng(seed)
    which, angle = rng.integers(0, 3, n), rng.uniform(0, 2 * np.pi, n)
    circle = 2 * np.c_[np.cos(angle), np.sin(angle), 0 * angle]
    ball = 0.5 * rng.normal(size=(n, 3)) + [6, 0, 0]
    square = np.c_[rng.uniform(-1, 1, (n, 2)), np.full(n, 5.0)]
    return np.stack([circle, ball, square])[which, np.arange(n)] + 0.03 * rng.normal(size=(n, 3)), which


SETS: dict[str, tuple[int, Callable[[int, int], Draw]]] = {
    "two circles": (2, lambda n, s: make_circles(n, noise=0.05, factor=0.5, random_state=s)),
    "two moons": (2, lambda n, s: make_moons(n, noise=0.06, random_state=s)),
    "two spirals": (2, spirals),
    "three rings": (3, toy("rings:k=3").sample_with_labels),
    "circle, ball and square": (3, dimensions),
    "six shapes": (6, toy("shapes").sample_with_labels),
    "seven blobs": (7, lambda n, s: make_blobs(n, centers=7, center_box=(-10, 10), random_state=s)),
}
#: Sets of known density: kind, dimensions, and whether islands are turned: two show what turning costs.
CURVED = {f"{name}, d={d}": (name, d, True) for d in (5, 20) for name in PLACES}
CURVED |= {f"{name} along axes, d=5": (name, 5, False) for name in ("rings", "dimensions 0 to d")}


# -- sets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What a model is given and asked.

    Attributes:
        given, test: rows. labels: islands of the test rows, or None; `NOWHERE` is no island.
        count: islands, or None. truth: log-density of the test rows, or None.
    """

    given: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None
    count: int | None
    truth: np.ndarray | None = None


def plane(name: str, seed: int) -> Case:
    """One of the seven."""
    count, draw = SETS[name]
    x, label = draw(ROWS + TEST, seed)  # of one call: the blobs' centres are drawn with it
    order = np.random.default_rng(seed).permutation(len(x))
    given, test = order[:ROWS], order[ROWS:]
    return Case(x[given], x[test], np.asarray(label)[test], count)


def curved(name: str, seed: int) -> Case:
    """One of known density; seeds turn and place its parts too."""
    kind, dim, turned = CURVED[name]
    islands = CurvedIslands(kind, dim, seed, turned=turned)
    rows = ROWS if dim == 5 else MORE_ROWS
    x, label = islands.sample(rows + TEST, seed)
    test = x[rows:]
    return Case(x[:rows], test, label[rows:], islands.count, islands.log_prob(test))


def published(name: str, seed: int) -> Case:
    """One of the two-dimensional shapes; the seed splits it."""
    split = shape(name, ROWS, TEST, seed)
    return Case(split.given, split.test, split.labels, split.count)


# -- models -------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """Of a model on the test rows: log-densities and islands (None where it has none), and its states."""

    scores: np.ndarray | None = None
    islands: np.ndarray | None = None
    states: int | None = None


def _nvf(case: Case, seed: int, **options: Any) -> Answer:
    fitted = NVF(random_state=seed, **options).fit(case.given)
    if options:  # of a tree, which has states of every column
        return Answer(fitted.score_samples(case.test))
    return Answer(fitted.score_samples(case.test), fitted.predict(case.test), int(fitted.n_states_))


def _flow(case: Case, seed: int, **options: Any) -> Answer:
    return Answer(FlowDensity(random_state=seed, **options).fit(case.given).score_samples(case.test))


def _mixture(case: Case, seed: int, known: bool) -> Answer:
    most = max(30, (case.count or 0) + 20)
    trials = [
        GaussianMixture(k, n_init=3, random_state=seed).fit(case.given)
        for k in ([case.count] if known else range(1, most + 1))
    ]
    fitted = min(trials, key=lambda each: each.bic(case.given))
    return Answer(fitted.score_samples(case.test), fitted.predict(case.test), int(fitted.n_components))


def _kmeans(case: Case, seed: int) -> Answer:
    fitted = KMeans(case.count, n_init=10, random_state=seed).fit(case.given)
    return Answer(None, fitted.predict(case.test), case.count)


def _hdbscan(case: Case, seed: int, share: float = 0.0) -> Answer:
    size = max(5, round(share * len(case.given)))
    found = HDBSCAN(min_cluster_size=size, copy=True).fit_predict(case.given)
    some = found >= 0
    if not some.any():
        return Answer(None, np.zeros(len(case.test), int), 0)
    nearest = KNeighborsClassifier(1).fit(case.given[some], found[some])
    return Answer(None, nearest.predict(case.test), int(found.max()) + 1)


def _rival(case: Case, seed: int, fit: Callable[..., table_rivals.Fitted]) -> Answer:
    held = len(case.given) // 10
    return Answer(fit(case.given[:-held], case.given[-held:], seed).scores(case.test))


MODELS: dict[str, Callable[[Case, int], Answer]] = {
    "NVF": _nvf,
    "GaussianMixture": partial(_mixture, known=True),
    "GaussianMixture by BIC": partial(_mixture, known=False),
    "KMeans": _kmeans,
    "HDBSCAN": _hdbscan,
    "HDBSCAN, 1 %": partial(_hdbscan, share=0.01),
    "zuko NSF": partial(_rival, fit=table_rivals.RIVALS["zuko NSF"][1]),
    "Gaussian-mixture base": partial(_flow, flow="gmm-base"),
    "NVF, tree": partial(_nvf, latent="tree"),
    "margarine": partial(_rival, fit=table_rivals.margarine),
    "CIF": partial(_flow, flow="cif"),
    "FFJORD": partial(_flow, flow="ffjord", max_epochs=FFJORD_EPOCHS),
}
#: Models that need the number of islands.
TOLD = ("GaussianMixture", "KMeans")


@dataclass(frozen=True)
class Group:
    """Sets that are drawn in one way, and who is fitted to them."""

    sets: Sequence[str]
    case: Callable[[str, int], Case]
    models: Sequence[str]
    once: Sequence[str] = ()  # fitted for the first seed alone
    seeds: int = 1_000


GROUPS = {
    "plane": Group(list(SETS), plane, list(MODELS)[:3]),
    "curved": Group(list(CURVED), curved, list(MODELS), list(MODELS)[7:]),
    "shapes": Group(list(SHAPES2D), published, list(MODELS)[:7], seeds=1),
}


def wanted(group: str, name: str, model: str, seed: int) -> bool:
    """Whether this fit belongs to the benchmark."""
    own = GROUPS[group]
    if model not in own.models or seed >= own.seeds or (model in own.once and seed):
        return False
    if "along axes" in name:
        return model in ("NVF", "GaussianMixture", "GaussianMixture by BIC", "zuko NSF")
    return not (model == "FFJORD" and not name.endswith("d=5"))


def fit(group: str, name: str, seed: int, model: str) -> dict[str, Any] | None:
    """One model on one draw; None where it asks for a number of islands that nobody knows."""
    torch.set_num_threads(1)
    case = GROUPS[group].case(name, seed)
    run: dict[str, Any] = {"set": name, "islands": case.count, "seed": seed, "model": model}
    if model in TOLD and case.count is None:
        return None
    began = time.process_time()
    try:
        answer = MODELS[model](case, seed)
    except Exception as error:  # a rival that fails is a result, and is shown as one
        return {**run, "failed": f"{type(error).__name__}: {error}"[:200]}
    if answer.states is not None:
        run["states"] = answer.states
    if answer.islands is not None and case.labels is not None:
        some = case.labels != NOWHERE
        run["agreement"] = adjusted_rand(answer.islands[some], case.labels[some])
    if answer.scores is not None:
        inside = np.isfinite(answer.scores)
        run["test"] = float(answer.scores[inside].mean()) if inside.any() else math.nan
        if not inside.all():
            run["outside"] = int((~inside).sum())
        if case.truth is not None:
            missing = (case.truth - answer.scores)[inside]
            run["gap"] = float(missing.mean())
            run["gap_error"] = float(missing.std(ddof=1) / math.sqrt(len(missing)))
            run["gap_median"] = float(np.median(missing))
            run["far"] = int((missing > FAR).sum())
    return {
        **run,
        "rows": len(case.given),
        "test_rows": len(case.test),
        "seconds": time.process_time() - began,
    }


# -- tables -------------------------------------------------------------------------------------------


def compared(runs: list[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    """Per set and model, means over the seeds, and the numbers of states."""
    rows = []
    for name in GROUPS[group].sets:
        for model in GROUPS[group].models:
            mine = sorted(
                (r for r in runs if (r["set"], r["model"]) == (name, model)), key=lambda r: r["seed"]
            )
            fine = [r for r in mine if "failed" not in r]
            if not mine:
                continue
            line: dict[str, Any] = {
                "set": name,
                "islands": mine[0]["islands"],
                "model": model,
                "draws": len(mine),
            }
            if len(fine) < len(mine):
                line["failed"] = [r["failed"] for r in mine if "failed" in r]
            for key in ("agreement", "test", "gap", "gap_median", "seconds"):
                if found := [r[key] for r in fine if key in r]:
                    line[key] = summary(found)
            if errors := [r["gap_error"] for r in fine if "gap_error" in r]:
                line["gap_error"] = float(np.mean(errors))
            for key in ("states", "outside", "far"):
                if found := [r[key] for r in fine if key in r]:
                    line[key] = found
            rows.append(line)
    return rows


def content(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept."""
    return {
        "rows": ROWS,
        "test_rows": TEST,
        "table": compared(runs, "plane"),
        "curved": compared(runs, "curved"),
        "shapes": compared(runs, "shapes"),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = earlier_runs("islands", rows=ROWS, test_rows=TEST)
    done = {(r["set"], r["seed"], r["model"]) for r in runs}
    names = [m for m in args.models if m not in table_rivals.RIVALS or m in table_rivals.installed()]
    every = [
        (group, name, seed, model)
        for group in args.groups
        for seed in range(args.seeds)
        for name in GROUPS[group].sets
        for model in names
        if wanted(group, name, model, seed) and (not args.sets or name in args.sets)
    ]
    absent = set()
    for group, name, seed, model in every:
        if group in absent or (name, seed, model) in done:
            continue
        try:
            run = fit(group, name, seed, model)
        except DataError as error:
            print(f"{group}: left out: {error}", flush=True)
            absent.add(group)
            continue
        if run is None:
            continue
        runs.append(run)
        write("islands", content(runs))
        told = [f"{key} {run[key]:.3f}" for key in ("agreement", "test", "gap", "seconds") if key in run]
        print(
            f"{name:26}{seed}  {model:24}K {run.get('states', '-'):>3}  {run.get('failed', '')}",
            *told,
            flush=True,
        )


if __name__ == "__main__":
    main()
