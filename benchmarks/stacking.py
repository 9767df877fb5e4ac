"""What stands beside a flow (`modeflow.estimators.stacking`): what it gains on rows kept for such questions.

Of each table 300 or 3,000 rows are given as in `tables.py` (first split), a tenth of them for validation;
densities are compared on 2,000 rows that are neither given nor test rows of any benchmark, paired by rows.
It was looked for on one half of the tables (`variations.CHOOSING`), the others confirm. The flow is the first
that is tried by default, alone (one state).

Run: python benchmarks/stacking.py [--rows 300 3000] [--tables ...]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from common import earlier_runs, write
from modeflow.densities import Beside
from modeflow.estimators import FlowDensity
from variations import CHOOSING, CONFIRMING, parts_of

ROWS = (300, 3_000)


def _gain(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    d = one - other
    return {"mean": float(d.mean()), "standard_error": float(d.std(ddof=1) / np.sqrt(len(d)))}


def measure(name: str, rows: int) -> dict[str, Any] | None:
    """One table: the flow alone, with rows from anywhere, and with all that stands beside it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = parts_of(name, rows)
    if parts is None:
        return None
    train, validation, others = parts
    began = time.process_time()
    flow = FlowDensity("nsf-autoregressive", stacking=True, random_state=0).fit(train, validation=validation)
    spent = time.process_time() - began
    model = flow._scorer()
    with torch.no_grad():
        u, logabsdet = model.encode(torch.from_numpy(np.ascontiguousarray(others)))
        alone = (model.model.log_prob(u) + logabsdet).numpy()
        beside = model.beside
        assert beside is not None
        normal = torch.isinf(beside.freedom)
        share = beside.log_weights[normal].exp().sum().log()
        weights = torch.where(normal, beside.log_weights - share, -torch.inf)
        places = (beside.means, beside.whiten, beside.freedom, float(beside.tail))
        mixture = (Beside(weights, *places).log_prob(u) + logabsdet).numpy()
        far = torch.where(normal, -torch.inf, 0.0)
        wide = (Beside(far, *places).log_prob(u) + logabsdet).numpy()
    stacked = flow.score_samples(others)
    one = 1 / len(train)
    return {
        "table": name,
        "rows": rows,
        "columns": train.shape[1],
        "alone": float(alone.mean()),
        "anywhere": _gain(np.logaddexp(np.log1p(-one) + alone, np.log(one) + wide), alone),
        "stacked": _gain(stacked, alone),
        "over_mixture": _gain(stacked, mixture),
        "weights": None if flow.stacking_ is None else flow.stacking_.to_dict(),
        "seconds": round(spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), choices=ROWS)
    parser.add_argument("--tables", nargs="+", default=[*CHOOSING, *CONFIRMING])
    args = parser.parse_args()
    runs = earlier_runs("stacking", units="nats per row")
    done = {(r["table"], r["rows"]) for r in runs}
    for rows in args.rows:
        for name in args.tables:
            if (name, rows) in done or (run := measure(name, rows)) is None:
                continue
            runs.append(run)
            write("stacking", {"units": "nats per row", "runs": runs})
            print(run, flush=True)


if __name__ == "__main__":
    main()
