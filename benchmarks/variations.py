"""What the defaults of a flow were chosen by: one setting changed at a time, on tables and rows kept for it.

Of each table 300, 3,000 or 10,000 rows are given as in `tables.py` (first split), a tenth of them for
validation; the gain of a change is measured on 2,000 rows that are neither given nor test rows of any
benchmark, paired by rows. Changes are looked for on one half of the tables (`CHOOSING`); what is clearly
better there on the whole is measured on the other half (`CONFIRMING`, `--confirm NAME ...`), and is taken
only if it is so there, too.
The flow is the first that is tried by default, alone (one state). Results are kept as they come.

Run: python benchmarks/variations.py [--rows 300 3000] [--jobs 2] [--only NAME ...] [--confirm NAME ...]
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from common import RESULTS, earlier_runs, in_groups, workers, write
from modeflow.bench.machine import machine
from modeflow.estimators import FlowDensity
from modeflow.estimators.settings import Settings
from tables import dealt, paired, parted

CHOOSING = ("kin40k", "protein", "elevators", "keggdirected", "bsds300-patches")
CONFIRMING = ("power-head", "bike", "pumadyn32nm", "sml", "skillcraft", "miniboone-val")
ROWS = (300, 3_000, 10_000)
#: Rows that changes are measured on; fewer say too little.
OTHERS, FEWEST = 2_000, 500

#: What the changes are made to, where it is not what estimators have today.
BEFORE: dict[str, Any] = {"flow": "nsf-autoregressive", "weight_decay": 0.0}
#: By name: parameters of the estimator, options of the flow after "flow_options"; "noise" is ours here.
CHANGES: dict[str, dict[str, Any]] = {
    "as it was": {},
    "tail bound 3": {"flow_options": {"tail_bound": 3.0}},
    "tail bound 8": {"flow_options": {"tail_bound": 8.0}},
    "4 bins": {"flow_options": {"bins": 4}},
    "16 bins": {"flow_options": {"bins": 16}},
    "32 units": {"flow_options": {"hidden_features": 32}},
    "128 units": {"flow_options": {"hidden_features": 128}},
    "3 layers": {"flow_options": {"layers": 3}},
    "9 layers": {"flow_options": {"layers": 9}},
    "1 block": {"flow_options": {"blocks": 1}},
    "order reversed": {"flow_options": {"mixing": "reverse"}},
    "permuted": {"flow_options": {"mixing": "permutation"}},
    "dropout 0.1": {"flow_options": {"dropout": 0.1}},
    "dropout 0.3": {"flow_options": {"dropout": 0.3}},
    "rate 0.0005": {"learning_rate": 5e-4},
    "rate 0.001": {"learning_rate": 1e-3},
    "rate 0.004": {"learning_rate": 4e-3},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 0.2": {"weight_decay": 0.2},
    "weight decay 0.5": {"weight_decay": 0.5},
    "weight decay 1": {"weight_decay": 1.0},
    "weight decay 2": {"weight_decay": 2.0},
    "weight decay 4": {"weight_decay": 4.0},
    "batch 32": {"batch_size": 32},
    "batch 256": {"batch_size": 256},
    "patience 45": {"patience": 45},
    "cosine": {"schedule": "cosine", "patience": None, "max_epochs": None},
    "no average of weights": {"ema": None},
    "average 0.98": {"ema": 0.98},
    "noise 0.03": {"noise": 0.03},
    "noise 0.1": {"noise": 0.1},
    "noise 0.2": {"noise": 0.2},
    "coupling": {"flow": "nsf-coupling"},
}
#: Copies of each row where there is noise, and steps of a cosine to its end.
_COPIES, _COSINE_STEPS = 8, 4_000


def parts_of(name: str, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Training and validation rows of the first split, and other rows that are not test rows."""
    _, rest = dealt(name, 0)
    others = rest[rows : rows + OTHERS]
    return None if len(others) < FEWEST else (*parted(rest[:rows]), others)


def scores_file(change: str, name: str, rows: int, processor: str) -> Path:
    """Where the scores of the other rows are kept."""
    maker = processor.split()[0]
    return RESULTS / "scores" / f"variation-{name}-{rows}-{change.replace(' ', '_')}-{maker}.npy"


def fit(change: str, name: str, rows: int) -> dict[str, Any] | None:
    """Fit the flow with one change and score the other rows."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = parts_of(name, rows)
    if parts is None:
        return None
    train, validation, others = parts
    given = {**BEFORE, **CHANGES[change]}
    batch = Settings.of(FlowDensity(), 0).batch_size(len(train))
    if noise := given.pop("noise", 0.0):
        rng = np.random.default_rng(0)
        train = np.repeat(train, _COPIES, 0)
        train = train + noise * train.std(0) * rng.standard_normal(train.shape)
        given["batch_size"] = batch
    if "max_epochs" in given:
        given["max_epochs"] = math.ceil(_COSINE_STEPS / math.ceil(len(train) / batch))
    began = time.process_time()
    estimator = FlowDensity(**in_groups(given), random_state=0).fit(train, validation=validation)
    scores = estimator.score_samples(others)
    processor = machine()["processor"]
    file = scores_file(change, name, rows, processor)
    file.parent.mkdir(exist_ok=True, parents=True)
    np.save(file, scores.astype(np.float32))
    return {
        "table": name,
        "rows": rows,
        "change": change,
        "columns": train.shape[1],
        "processor": processor,
        "others": float(scores.mean()),
        "seconds": round(time.process_time() - began, 2),
        "epochs": estimator.training_["best_epoch"],
    }


def gains(runs: list[dict[str, Any]]) -> None:
    """Give every run its gain on the flow as it was, on the same processor, where the scores are kept.

    A fit has other roundings on another kind of processor, and so ends elsewhere.
    """
    for run in runs:
        place = run["table"], run["rows"], run["processor"]
        files = [scores_file(change, *place) for change in (run["change"], "as it was")]
        if run["change"] != "as it was" and (gain := paired(*files)):
            run["gain"] = gain


def show(runs: list[dict[str, Any]]) -> None:
    """Print the gains, a line a change."""
    for rows in ROWS:
        here = [r for r in runs if r["rows"] == rows]
        names = [t for t in (*CHOOSING, *CONFIRMING) if any(r["table"] == t for r in here)]
        if not names:
            continue
        print(f"\nn = {rows}\n{'':22}" + "".join(f"{t[:13]:>16}" for t in names) + f"{'seconds':>10}")
        for change in CHANGES:
            mine = {r["table"]: r for r in here if r["change"] == change}
            if not mine:
                continue
            cells = ""
            for t in names:
                gain = mine.get(t, {}).get("gain")
                text = f"{mine[t]['others']:.3f}" if t in mine else "-"
                if gain:
                    text = f"{gain['mean']:+.3f} ±{gain['standard_error']:.3f}"
                cells += f"{text:>16}"
            print(f"{change:22}{cells}{np.mean([r['seconds'] for r in mine.values()]):10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), choices=ROWS)
    parser.add_argument("--tables", nargs="+", default=list(CHOOSING), choices=(*CHOOSING, *CONFIRMING))
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=CHANGES)
    parser.add_argument("--confirm", nargs="+", default=[], choices=CHANGES, help="on the other tables")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    runs = earlier_runs("variations", units="nats per row")
    tables, changes = args.tables, args.only
    if args.confirm:
        tables, changes = CONFIRMING, ["as it was", *args.confirm]
    wanted = [(c, t, n) for n in args.rows for t in tables for c in changes if not args.show]
    here = machine()["processor"]
    done = {(r["change"], r["table"], r["rows"]) for r in runs if r["processor"] == here}
    wanted = [each for each in wanted if each not in done]
    with workers(args.jobs) as pool:
        jobs = [pool.submit(fit, *each) for each in wanted]
        for future in as_completed(jobs):
            if (run := future.result()) is None:
                continue
            runs.append(run)
            gains(runs)
            write("variations", {"units": "nats per row", "runs": runs})
            print(f"{run['table']:16}{run['rows']:6}  {run['change']:22}{run['others']:10.4f}", flush=True)
    show(runs)


if __name__ == "__main__":
    main()
