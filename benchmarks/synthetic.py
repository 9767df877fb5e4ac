"""Synthetic tables: rows of our models and of others, scored as the field does, beside what is published.

Five mixed tables (adult, default, shoppers, magic, beijing), the splits and scores of TabSyn, TabDiff and
TabPC (`modeflow.metrics.synthetic`), as many rows drawn as there are to train on. Every score is given
against the training rows, as published ones are, and for as many trained and held-out rows: what the first
has more than the second is memory. One table is drawn from each fitted model; seeds are of fit and draw.
The protocol's DCR score needs another fit, to a half of the rows: `--dcr`.

"real rows (a half)" are one half of the training rows as samples of the other: what a perfect model has, of
half as many rows. GaussianCopula and CTGAN are SDV's (2.0 or later) with their defaults, where it is there.

Run: python benchmarks/synthetic.py [--tables magic shoppers] [--methods ...] [--seeds 0 1 2] [--dcr] [--show]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from concurrent.futures import as_completed
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
import torch

from common import RESULTS, earlier_runs, summary, workers, write
from mixed_tables import METRICS, PUBLISHED, TABLES, MixedTable, load, ranks, read_published
from modeflow.errors import ModeflowError
from modeflow.estimators import NVF
from modeflow.metrics import synthetic

#: Fits to a table and draws rows: (training rows, categorical columns, number of rows, seed).
FitAndSample = Callable[[pl.DataFrame, tuple[str, ...], int, int], pl.DataFrame]
REAL = "real rows (a half)"


# -- contestants --------------------------------------------------------------------------------------


def independent_columns(train: pl.DataFrame, categorical: tuple[str, ...], n: int, seed: int) -> pl.DataFrame:
    """Each column drawn from its own training values, with replacement: no dependence at all."""
    rng = np.random.default_rng(seed)
    return train.select(pl.col(name).gather(rng.integers(0, len(train), n)) for name in train.columns)


def modeflow_rows(train: pl.DataFrame, categorical: tuple[str, ...], n: int, seed: int) -> pl.DataFrame:
    """Rows of `NVF` with its defaults; which columns are categories is said as to the others."""
    options: dict[str, Any] = {"columns": dict.fromkeys(categorical, "categorical")}
    known = NVF().get_params(deep=False)
    estimator = NVF(random_state=seed, **{k: v for k, v in options.items() if k in known})
    rows: pl.DataFrame = estimator.fit(train).sample(n)[0]
    return rows


def _sdv(name: str) -> FitAndSample:
    def fit_and_sample(train: pl.DataFrame, categorical: tuple[str, ...], n: int, seed: int) -> pl.DataFrame:
        import pandas as pd
        from sdv import single_table
        from sdv.metadata import Metadata

        # SDV draws from the global generators.
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        kinds = {c: {"sdtype": "categorical" if c in categorical else "numerical"} for c in train.columns}
        metadata = Metadata.load_from_dict({"tables": {"table": {"columns": kinds}}, "relationships": []})
        model = getattr(single_table, name)(metadata)
        model.fit({"table": pd.DataFrame(train.to_dict(as_series=False))})
        rows = model.sample(n)
        return pl.DataFrame((rows["table"] if isinstance(rows, dict) else rows).to_dict("list"))

    return fit_and_sample


CONTESTANTS: dict[str, FitAndSample] = {
    "modeflow": modeflow_rows,
    "independent columns": independent_columns,
    "SDV GaussianCopula": _sdv("GaussianCopulaSynthesizer"),
    "SDV CTGAN": _sdv("CTGANSynthesizer"),
}
METHODS = (REAL, *CONTESTANTS)


# -- runs ---------------------------------------------------------------------------------------------


def drawn(table: MixedTable, method: str, train: pl.DataFrame, seed: int) -> pl.DataFrame:
    """As many rows of a method as it has to train on."""
    rows = CONTESTANTS[method](train, table.categorical, len(train), seed)
    return rows.select(train.columns)


def scored(
    table: MixedTable, train: pl.DataFrame, fake: pl.DataFrame, seed: int, n_jobs: int | None = None
) -> dict[str, Any]:
    """Scores of synthetic rows, against training and held-out rows, and where they are worst."""
    layout = table.layout
    apart = ["near_copies"] if layout.numeric_distances else []
    found = synthetic.report(
        train,
        fake,
        table.test,
        table.categorical,
        target=table.target,
        measures=[name for name in synthetic.MEASURES if name not in apart],
        log_target=layout.regression,
        seed=seed,
        n_jobs=n_jobs,
    )
    near = found.near_copies
    if near is None:
        numeric = [name for name in train.columns if name not in table.categorical]
        near = synthetic.near_copies(*(rows.select(numeric) for rows in (train, fake, table.test)))
    scores = {**found.scores(), "dcr002": near.dcr002, "dcr005": near.dcr005}
    # That of the protocol is of another fit, to a half of the rows.
    scores.pop("dcr")
    assert found.train.shape and found.train.mutual_information and found.train_part and found.test
    return {
        "scores": scores,
        "train_part": found.train_part.scores(),
        "held_out": found.test.scores(),
        "rows_compared": list(found.test.rows),
        "train_share": found.train_share.to_dict() if found.train_share else None,
        "near_copies": near.to_dict(),
        "worst_columns": found.train.shape.worst(3),
        "worst_pairs": found.train.mutual_information.worst(3),
    }


def measure(name: str, method: str, seed: int, kind: str = "scores") -> dict[str, Any]:
    """One fit and its scores (`kind` "scores"), or the protocol's DCR score of a fit to a half ("dcr")."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = load(name)
    train = table.halves[0] if kind == "dcr" else table.train
    began, processor = time.perf_counter(), time.process_time()
    if method == REAL:
        order = np.random.default_rng(seed).permutation(len(train))
        train, fake = train[order[::2]], train[order[1::2]]
    else:
        fake = drawn(table, method, train, seed)
    seconds = {"wall": time.perf_counter() - began, "processor": time.process_time() - processor}
    run = {
        "table": name,
        "method": method,
        "seed": seed,
        "kind": kind,
        "rows": len(train),
        "seconds": seconds,
    }
    if kind == "dcr":
        share = synthetic.train_share(train, fake, table.halves[1], table.categorical)
        return {**run, "scores": {"dcr": share.share}, "train_share": share.to_dict()}
    return {**run, **scored(table, train, fake, seed, n_jobs=1)}


# -- what is shown ------------------------------------------------------------------------------------


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per table and method, mean and standard error over seeds of every score."""
    lines = []
    for name in TABLES:
        for method in METHODS:
            mine = [r for r in runs if (r["table"], r["method"]) == (name, method)]
            line: dict[str, Any] = {"table": name, "method": method}
            for part in ("scores", "train_part", "held_out"):
                names = dict.fromkeys(metric for r in mine for metric in r.get(part, {}))
                line[part] = {m: summary([r[part][m] for r in mine if m in r.get(part, {})]) for m in names}
            if mine:
                lines.append({**line, "seeds": sorted({r["seed"] for r in mine})})
    return lines


def ranked(lines: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, int]]]:
    """Mean ranks among the published methods, by metric; real rows take no part."""
    scores = {key: entry.value for key, entry in read_published().items()}
    for line in lines:
        if line["method"] != REAL:
            for metric, entry in line["scores"].items():
                scores[line["table"], line["method"], metric] = entry["mean"]
    tables = tuple(dict.fromkeys(line["table"] for line in lines))
    return {metric: ranks(scores, metric, tables) for metric in METRICS}


def content(settings: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is stored: the runs, their means, published scores and mean ranks among all."""
    lines = compared(runs)
    published: dict[str, dict[str, dict[str, float]]] = {}
    for (name, method, metric), found in read_published().items():
        published.setdefault(name, {}).setdefault(metric, {})[method] = found.value
    mean_ranks = {
        metric: {method: {"rank": rank, "tables": count} for method, (rank, count) in each.items()}
        for metric, each in ranked(lines).items()
    }
    return {
        "settings": settings,
        "table": lines,
        "published": published,
        "ranks": mean_ranks,
        "runs": runs,
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print a table for every data set, ours and published, and the mean ranks."""
    published = read_published()
    short = [
        metric.replace("_detection", "").replace("nmi_l1_weighted_complement", "wnmi") for metric in METRICS
    ]
    head = f"{'':30}" + "".join(f"{name[:9]:>10}" for name in short)
    for name in dict.fromkeys(line["table"] for line in lines):
        print(f"\n{name}\n{head}{'xgb, as many trained | held out':>34}")
        for line in (each for each in lines if each["table"] == name):
            cells = "".join(_cell(line["scores"].get(metric, {}).get("mean")) for metric in METRICS)
            part, held = (line[k].get("xgb_detection", {}).get("mean") for k in ("train_part", "held_out"))
            print(f"{line['method']:30}{cells}{_cell(part):>24}{_cell(held)}  {len(line['seeds'])} seeds")
        for method in PUBLISHED:
            entries = [published.get((name, method, metric)) for metric in METRICS]
            status = {entry.status for entry in entries if entry}
            cells = "".join(_cell(entry.value if entry else None) for entry in entries)
            print(f"  {method[:28]:28}{cells}  {', '.join(sorted(status)) or 'not published'}")
    by_metric = ranked(lines)
    tables = len(dict.fromkeys(line["table"] for line in lines))
    print(f"\nmean rank over {tables} tables (of how many, where fewer)\n{head}")
    order = by_metric["xgb_detection"]
    for method in sorted(order, key=lambda m: order[m][0]):
        cells = ""
        for metric in METRICS:
            rank, count = by_metric[metric].get(method, (None, 0))
            text = "-" if rank is None else f"{rank:.1f}"
            cells += f"{text + (f' ({count})' if 0 < count < tables else ''):>10}"
        print(f"{method[:30]:30}{cells}")


def _cell(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:10.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--dcr", action="store_true", help="also fit to a half of the rows, for the DCR score"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what has results")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    settings = {"rows": "as many as train", "tables_per_model": 1, "classifier": _version()}
    runs = earlier_runs("synthetic", settings=settings)
    try:
        read_published()
    except ModeflowError as error:
        raise SystemExit(str(error)) from error
    methods = [m for m in args.methods if not m.startswith("SDV") or find_spec("sdv")]
    kinds = ("scores", "dcr") if args.dcr else ("scores",)
    wanted = [
        (t, m, s, k)
        for s in args.seeds
        for t in args.tables
        for m in methods
        for k in kinds
        if not (m == REAL and k == "dcr")
    ]
    if args.show:
        wanted = []
    if args.fresh:
        runs = [r for r in runs if _key(r) not in wanted]
    done = {_key(r) for r in runs}
    for name in set(args.methods) - set(methods):
        print(f"{name}: left out, sdv is not installed")
    with workers(args.jobs) as pool:
        jobs = {pool.submit(measure, *each): each for each in wanted if each not in done}
        for future in as_completed(jobs):
            name, method, seed, kind = jobs[future]
            try:
                run = future.result()
            except ModeflowError as error:
                print(f"{name:10}{method:24}{seed}  refused: {error}", flush=True)
                continue
            runs.append(run)
            runs.sort(key=lambda r: (list(TABLES).index(r["table"]), METHODS.index(r["method"]), r["seed"]))
            write("synthetic", content(settings, runs))
            found = run["scores"].get("xgb_detection", run["scores"].get("dcr"))
            print(
                f"{name:10}{method:24}{seed}  {kind} {found:.4f} {run['seconds']['wall']:.0f} s", flush=True
            )
    show(compared(runs))
    print(f"{len(runs)} results in {RESULTS / 'synthetic.json'}")


def _key(run: dict[str, Any]) -> tuple[str, str, int, str]:
    return run["table"], run["method"], run["seed"], run["kind"]


def _version() -> str:
    import xgboost

    return f"xgboost {xgboost.__version__}"


if __name__ == "__main__":
    main()
