"""Tables of numbers: test log-likelihood of NVF and of what a person would use instead, on the same rows.

Of each table, split and number of rows n (300; 3,000; all, at most 20,000) every contestant is given the
same n rows, a tenth of them (30 at least) for validation, and scores the same test rows (a tenth of the
table, at most 3,000) once. Constant and duplicated columns are dropped, and those in which one value has 97 %
of the rows. Where values repeat (fewer than nine in ten are distinct: whole numbers, hundredths, zeros) each
is spread evenly over the half ways to its neighbours, by the same draws for all: a density on ties is
unbounded, and who spikes there more would seem better. Ours have their defaults; `table_rivals.py` says what
the others do. Beside the tables that defaults were chosen by there are some that took no part (`UNSEEN`).

Given are nats a row, in the units of the data; differences are paired by rows. Seconds are of the processor,
one thread a fit, choices included; for trainings there is also when a validation likelihood was reached
(`trace`). Results are kept as they come, and what has a result is not measured again.

Run: python benchmarks/tables.py [--rows 300 3000] [--tables kin40k anomaly/cover ...] [--models NVF KDE ...]
     [--splits 0 1 2] [--jobs 2] [--fresh] [--show]
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from scipy.stats import rankdata

from common import RESULTS, data_file, earlier_runs, n_parameters, workers, write
from modeflow.bench.machine import machine
from modeflow.data import load_dataset
from modeflow.estimators import NVF, FlowDensity
from table_rivals import RIVALS, Fitted, installed

TABLES = (
    "kin40k", "protein", "pumadyn32nm", "power-head", "elevators", "bike", "keggdirected", "skillcraft",
    "sml", "miniboone-val", "bsds300-patches",
)  # fmt: skip
#: Tables that no default was chosen by (until pol and landsat showed that choosing is not enough): of the
#: anomaly sets those with 1,400 rows or more and under 50 columns, each of 20 values or more (satellite has
#: landsat's rows, http and smtp are hardly more than repeated ones); all rows, odd ones too.
UNSEEN = (
    "pol", "anomaly/aloi", "anomaly/cover", "anomaly/landsat", "anomaly/mammography", "anomaly/pageblocks",
    "anomaly/shuttle", "anomaly/thyroid", "anomaly/waveform", "anomaly/yeast",
)  # fmt: skip
ALL = (*TABLES, *UNSEEN)
#: Names that say what is not the published table.
SHOWN = {
    "miniboone-val": "miniboone (3,284 rows, small-data variant)",
    "bsds300-patches": "BSDS300 patches (re-cut)",
}
ROWS = (300, 3_000, 20_000)
TEST, VALIDATION_SHARE, VALIDATION = 3_000, 0.1, 30
SPLITS = (0, 1, 2)
#: Share of distinct values below which a column has ties; share of one value above which it says nothing.
DISTINCT, CONSTANT = 0.9, 0.97
#: Ours, with their defaults; of the second, five fits averaged.
ENSEMBLE = "NVF × 5"  # takes no part in ranks: it is ours once more, for more time
OURS = {"NVF": NVF, ENSEMBLE: partial(NVF, ensemble=5), "plain flow": FlowDensity}
MODELS = (*OURS, *RIVALS)
_SEED = 20_26


# -- rows ---------------------------------------------------------------------------------------------


def patches(rows: int) -> np.ndarray:
    """Patches of grey pictures as papers have them: 8 × 8, dithered, without their mean and last pixel."""
    with np.load(data_file("images/bsds300_gray.npz")) as parts:
        pictures = parts["train"]
    rng = np.random.default_rng(_SEED)
    which = rng.integers(0, len(pictures), rows)
    top = rng.integers(0, pictures.shape[1] - 7, rows)
    left = rng.integers(0, pictures.shape[2] - 7, rows)
    cut = [pictures[i, t : t + 8, c : c + 8] for i, t, c in zip(which, top, left, strict=True)]
    found = (np.stack(cut).reshape(rows, 64) + rng.random((rows, 64))) / 256
    return np.asarray((found - found.mean(1, keepdims=True))[:, :-1])


def spread(column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column in which values repeat, each spread evenly over the half ways to its neighbours."""
    values, place = np.unique(column, return_inverse=True)
    if len(values) > DISTINCT * len(column):
        return column
    half = np.diff(values) / 2
    below, above = np.append(half[0], half), np.append(half, half[-1])
    u = rng.random(len(column))
    return np.asarray(column + u * (below + above)[place] - below[place])


def rows_of(name: str) -> np.ndarray:
    """The whole table, without ties and without columns that are nearly constant."""
    if name == "bsds300-patches":
        return patches(ROWS[-1] + TEST)
    columns = load_dataset(name).table.values.T
    rng = np.random.default_rng(_SEED)
    kept = [c for c in columns if np.unique(c, return_counts=True)[1].max() < CONSTANT * len(c)]
    return np.column_stack([spread(c, rng) for c in kept])


def dealt(name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
    """The test rows of a table, and all others in the order in which they are given."""
    values = rows_of(name)
    order = np.random.default_rng([_SEED, split]).permutation(len(values))
    n_test = min(TEST, len(values) // 10)
    return values[order[:n_test]], values[order[n_test:]]


def parted(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows of those that are given."""
    held = max(VALIDATION, round(VALIDATION_SHARE * len(given)))
    return given[held:], given[:held]


def split_of(name: str, rows: int, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Training, validation and test rows; None where the table has hardly more rows than the size before."""
    test, rest = dealt(name, split)
    if rows > len(rest) and ROWS[ROWS.index(rows) - 1] > 0.8 * len(rest):
        return None
    return *parted(rest[:rows]), test


def scores_file(model: str, name: str, rows: int, split: int) -> Path:
    """Where the scores of test rows are kept for paired differences; too many to be published."""
    return RESULTS / "scores" / f"{name.replace('/', '-')}-{rows}-{split}-{model}.npy"


# -- contestants --------------------------------------------------------------------------------------


def ours(kind: Any, train: np.ndarray, validation: np.ndarray, seed: int) -> Fitted:
    """One of our estimators with its defaults."""
    began, at = time.process_time(), time.monotonic()
    estimator = kind(random_state=seed).fit(train, validation=validation)
    spent = time.process_time() - began
    share = spent / (time.monotonic() - at)  # of the processor: a history has seconds of the clock
    seconds = [share * row["seconds"] for row in estimator.history_]
    before = spent - (seconds[-1] if seconds else 0.0)  # choosing, which comes first
    trace = [
        (before + s, row["validation"])
        for s, row in zip(seconds, estimator.history_, strict=True)
        if "validation" in row
    ]
    chosen = [c for c in estimator.selection_ if c["chosen"]]
    extra = {
        "states": int(estimator.n_states_),
        "flow": chosen[0]["flow"] if chosen else estimator.flow_,
        "epochs": estimator.training_["best_epoch"],
        "second": _second(estimator.training_.get("second"), share),
        "choosing_seconds": round(before, 1),
        "clock": "processor",
    }
    return Fitted(estimator.score_samples, n_parameters(estimator.model_), extra, trace)


def _second(told: dict[str, Any] | None, share: float) -> dict[str, Any] | None:
    """What the second fit was, whether it stays, and what it took, which is part of choosing."""
    if told is None:
        return None
    seconds = round(share * told["training"]["seconds"], 1)
    return {"what": told["words"], "flow": told["flow"], "kept": told["kept"], "seconds": seconds}


def fit(model: str, name: str, rows: int, split: int) -> dict[str, Any] | None:
    """Fit one contestant to one split of a table and score the test rows once."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = split_of(name, rows, split)
    if parts is None:
        return None
    train, validation, test = parts
    began = time.process_time()
    if model in OURS:
        fitted = ours(OURS[model], train, validation, split)
    else:
        fitted = installed()[model](train, validation, split)
    learned = time.process_time() - began
    scores = np.asarray(fitted.scores(test), float)
    file = scores_file(model, name, rows, split)
    file.parent.mkdir(exist_ok=True)
    np.save(file, scores.astype(np.float32))
    kept = {tuple(each) for each in fitted.trace[:: max(1, len(fitted.trace) // 60)]}
    return {
        "table": name,
        "rows": rows,
        "split": split,
        "model": model,
        "given": {"train": len(train), "validation": len(validation), "test": len(test)},
        "columns": train.shape[1],
        "processor": machine()["processor"],
        "test": float(scores.mean()),
        "test_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "outside": int((~np.isfinite(scores)).sum()),
        "parameters": fitted.parameters,
        "seconds": {"fit": round(learned, 2), "all": round(time.process_time() - began, 2)},
        "trace": [(round(s, 2), round(v, 4)) for s, v in sorted(kept)],
        **fitted.extra,
    }


# -- what is shown ------------------------------------------------------------------------------------


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every table, size and model: mean over the splits, rank, and NVF minus it, paired by rows."""
    lines = []
    for name in ALL:
        for rows in ROWS:
            here = [r for r in runs if (r["table"], r["rows"]) == (name, rows)]
            splits = sorted({r["split"] for r in here if r["model"] == "NVF"})
            means = {}
            for model in MODELS:
                mine = {r["split"]: r for r in here if r["model"] == model and r["split"] in splits}
                if splits and len(mine) == len(splits):
                    means[model] = [mine[s] for s in splits]
            values = {m: float(np.mean([r["test"] for r in each])) for m, each in means.items()}
            ranked = [m for m in values if m != ENSEMBLE]
            ranks = dict(zip(ranked, rankdata([-values[m] for m in ranked]).tolist(), strict=True))
            for model, each in means.items():
                lines.append(
                    {
                        "table": name,
                        "rows": rows,
                        "model": model,
                        "columns": each[0]["columns"],
                        "splits": len(each),
                        "test": values[model],
                        "spread": float(np.std([r["test"] for r in each], ddof=1)) if len(each) > 1 else None,
                        "rank": ranks.get(model),
                        "behind": _paired(each) if model != "NVF" else None,
                        "seconds": float(np.mean([r["seconds"]["all"] for r in each])),
                        "states": [r.get("states") for r in each],
                        "flow": [r.get("flow") for r in each],
                        "second": [r.get("second") for r in each],
                        "outside": sum(r["outside"] for r in each),
                    }
                )
    return lines


def difference(run: dict[str, Any], other: dict[str, Any]) -> dict[str, float] | None:
    """Mean of one run's scores minus another's, row by row, and its standard error; None where not kept."""
    return paired(*(scores_file(r["model"], r["table"], r["rows"], r["split"]) for r in (run, other)))


def paired(*files: Path) -> dict[str, float] | None:
    """The same of scores in two files."""
    if not all(file.exists() for file in files):
        return None
    d = np.load(files[0]).astype(float) - np.load(files[1])
    if not np.isfinite(d).all():  # a rival has no density there
        return {"mean": 1e9, "standard_error": 0.0}
    return {"mean": float(d.mean()), "standard_error": float(d.std(ddof=1) / math.sqrt(len(d)))}


def _paired(runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """How far runs are behind NVF's, with an error: the larger of that over rows and that over splits."""
    parts = [run["behind"] for run in runs if run.get("behind")]
    if len(parts) < len(runs):
        return None
    each = np.array([part["mean"] for part in parts])
    over_rows = math.sqrt(sum(part["standard_error"] ** 2 for part in parts)) / len(parts)
    over_splits = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else 0.0
    return {"mean": float(each.mean()), "standard_error": max(over_rows, over_splits)}


def beside(runs: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Differences to NVF of the runs that a new one is compared with."""
    here = [r for r in runs if all(r[key] == new[key] for key in ("table", "rows", "split"))]
    first = next((r for r in here if r["model"] == "NVF"), None)
    for run in here:
        if first is not None and run is not first and (new is first or new is run):
            run["behind"] = difference(first, run)


def show(lines: list[dict[str, Any]]) -> None:
    """Print a block for every number of rows."""
    for rows, tables in ((rows, tables) for tables in (TABLES, UNSEEN) for rows in ROWS):
        here = [line for line in lines if line["rows"] == rows and line["table"] in tables]
        if not here:
            continue
        print(f"\nn = {rows}\n{'':18}" + "".join(f"{m[:15]:>17}" for m in MODELS))
        for name in dict.fromkeys(line["table"] for line in here):
            mine = {line["model"]: line for line in here if line["table"] == name}
            cells = ""
            for m in MODELS:
                if m not in mine:
                    cells += f"{'-':>17}"
                elif m == "NVF":
                    cells += f"{mine[m]['test']:>17.3f}"
                else:
                    d = mine[m]["behind"]
                    cells += f"{d['mean']:>+10.3f} ±{d['standard_error']:5.3f}" if d else f"{'?':>17}"
            print(f"{name[:17]:18}{cells}   {mine['NVF']['flow']} {mine['NVF']['states']}")
        ranks = {m: [line["rank"] for line in here if line["model"] == m and line["rank"]] for m in MODELS}
        print(
            f"{'mean rank':18}" + "".join(f"{np.mean(r) if r else math.nan:>17.2f}" for r in ranks.values())
        )
        spent = {m: [line["seconds"] for line in here if line["model"] == m] for m in MODELS}
        print(
            f"{'mean seconds':18}"
            + "".join(f"{np.mean(r) if r else math.nan:>17.1f}" for r in spent.values())
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), choices=ROWS)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=ALL)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--splits", nargs="+", type=int, default=list(SPLITS))
    parser.add_argument("--fresh", action="store_true", help="measure again what has results")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    settings = {"test": TEST, "validation_share": VALIDATION_SHARE, "units": "nats per row"}
    runs = earlier_runs("tables", settings=settings)
    here = {*OURS, *installed()}
    wanted = [
        (m, t, n, s)
        for n in args.rows for s in args.splits for t in args.tables for m in args.models if m in here
    ]  # fmt: skip
    if args.show:
        wanted = []
    if args.fresh:
        runs = [r for r in runs if _key(r) not in wanted]
    done = {_key(r) for r in runs}
    order = {name: i for i, name in enumerate(ALL)}
    with workers(args.jobs) as pool:
        jobs = {pool.submit(fit, *each): each for each in wanted if each not in done}
        for future in as_completed(jobs):
            try:
                run = future.result()
            except Exception as error:  # a rival's own failure is a result, too
                print(f"{jobs[future]} failed: {type(error).__name__}: {error}", flush=True)
                continue
            if run is None:
                continue
            runs.append(run)
            runs.sort(key=lambda r: (order[r["table"]], r["rows"], r["split"], MODELS.index(r["model"])))
            beside(runs, run)
            write("tables", {"settings": settings, "table": compared(runs), "runs": runs})
            print(
                f"{run['table']:16}{run['rows']:6}{run['split']:3}  {run['model']:18}{run['test']:10.4f} "
                f"± {run['test_se']:.4f} K={run.get('states', '-')} {run['seconds']['all']:.0f} s",
                flush=True,
            )
    show(compared(runs))
    print(f"{len(runs)} results in {RESULTS / 'tables.json'}")


def _key(run: dict[str, Any]) -> tuple[str, str, int, int]:
    return run["model"], run["table"], run["rows"], run["split"]


if __name__ == "__main__":
    main()
