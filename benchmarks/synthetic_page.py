"""The section of docs/benchmarks.md on synthetic rows."""

from __future__ import annotations

import math
from typing import Any

from markdown_parts import place, table

#: Scores that are shown, and their names.
SHOWN = {
    "xgb_detection": "XGB two-sample",
    "shape": "Shape",
    "trend": "Trend",
    "nmi_l1_weighted_complement": "wNMI",
    "alpha_precision": "α-precision",
    "beta_recall": "β-recall",
    "dcr002": "nearer than 2 % of test rows, %",
}
OURS = "modeflow"


def lines(content: dict[str, Any]) -> list[str]:
    """Ours beside the published, table by table, and the mean ranks."""
    tables = list(dict.fromkeys(line["table"] for line in content["table"]))
    ours = {line["table"]: line for line in content["table"] if line["method"] == OURS}
    found = [
        "## Synthetic rows",
        "",
        "As many rows drawn as there are to train on, by `NVF()` with its defaults (models are chosen by validation likelihood, never by "
        "a score), scored as TabSyn, TabDiff and TabPC do ([protocol](data.md#mixed-tables); `modeflow.metrics.synthetic`), on their splits. "
        "*XGB two-sample*: 1 − how far a boosted classifier tells synthetic from training rows (1: not at all). Published scores are "
        "against training rows, where memory counts as quality; *held out* is the same score against test rows, and *as many trained* "
        "against as many training rows: what the second has more than the first is memory. Published figures are means over five models, "
        "taken over from the repository of TabPC and not measured here; the number of our fits is given, so that one is one draw.",
        "",
    ]
    header = [
        "XGB two-sample",
        "fits",
        "ours",
        "held out",
        "as many trained",
        "best published",
        "second",
        "minutes a fit",
    ]
    body = []
    for name in tables:
        if name not in ours:
            continue
        scores = ours[name]
        published = content["published"][name]["xgb_detection"]
        rivals = sorted(((value, method) for method, value in published.items()), reverse=True)
        runs = [r for r in content["runs"] if (r["table"], r["method"], r["kind"]) == (name, OURS, "scores")]
        minutes = sum(r["seconds"]["processor"] for r in runs) / 60 / len(runs)
        body.append(
            [
                name,
                str(len(scores["seeds"])),
                _mean(scores["scores"]["xgb_detection"]),
                *(_mean(scores[part]["xgb_detection"]) for part in ("held_out", "train_part")),
                *(f"{value:.3f} ({method})" for value, method in rivals[:2]),
                f"{minutes:.0f}",
            ]
        )
    found += [*table(header, body), ""]
    header = ["", *SHOWN.values()]
    body = [
        [name, *(_mean(ours[name]["scores"].get(metric)) for metric in SHOWN)]
        for name in tables
        if name in ours
    ]
    found += ["The other scores of our rows, against training rows:", "", *table(header, body), ""]
    ranks = {metric: content["ranks"][metric] for metric in SHOWN if metric in content["ranks"]}
    methods = sorted(ranks["xgb_detection"], key=lambda m: ranks["xgb_detection"][m]["rank"])
    body = [
        [
            f"**{method}**" if method == OURS else method,
            *(_rank(of.get(method), len(tables)) for of in ranks.values()),
        ]
        for method in methods
    ]
    found += [f"Mean rank over {len(tables)} tables:", "", *table(["", *SHOWN.values()], body), ""]
    return [*found, place(content), ""]


def _mean(entry: dict[str, float] | None) -> str:
    if entry is None:
        return "–"
    error = entry["standard_error"]
    return f"{entry['mean']:.3f}" + (f" ± {error:.3f}" if error is not None and math.isfinite(error) else "")


def _rank(entry: dict[str, float] | None, tables: int) -> str:
    if entry is None:
        return "–"
    fewer = f" (of {entry['tables']:.0f})" if entry["tables"] < tables else ""
    return f"{entry['rank']:.1f}{fewer}"
