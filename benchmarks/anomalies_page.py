"""The section of docs/benchmarks.md on odd rows."""

from __future__ import annotations

from typing import Any

from anomalies import DEVELOPMENT, METHODS, PROTOCOLS, SETS
from markdown_parts import place, table

_PARTS = {"all": "all", "development": "looked at", "others": "not looked at"}


def lines(content: dict[str, Any]) -> list[str]:
    """Means and mean ranks by protocol; AUROC set by set."""
    s, rows, runs = content["settings"], content["table"], content["runs"]
    found = [
        "## Odd rows",
        "",
        "Detectors on the classical sets of ADBench ([Han et al. 2022](https://arxiv.org/abs/2206.09426)): 70 % of the rows are for "
        "training, 30 % are ranked, with the same share of odd ones in both; nobody sees a label. *Contaminated* is that benchmark's "
        "protocol: odd rows are among those for training. *One class*: they are taken out. "
        f"At most {s['rows']:,} rows of a set, drawn with the same share of odd ones; sets below 1,000 rows are not filled up with copies, "
        "as they are there, for then training rows are ranked. Rivals have PyOD's defaults on columns scaled to [0, 1]; the Gaussian "
        "mixture is scikit-learn's, with 1, 2, 4 or 8 full covariances by BIC. Ours is `NVFOutlier` as it comes (numbers with noise, along "
        f"their principal axes), a share of {s['calibration']} of the training rows kept for p-values; *columns* is the same with a density of the "
        f"columns as they are, a tree of {s['states']} states a column, at most {s['max_epochs']} epochs. How numbers are seen was chosen on half of the "
        "sets (*looked at*: every third, as of old, and every fourth of the others, named before), with one seed; on the others the choice was run once. "
        "AUROC and AUPR are means over sets; a rank is that among the contestants of this table (1 is best), by AUROC of a set, with the "
        "standard error over sets. Seconds of the processor, one thread, fitting and scoring.",
        "",
    ]
    for protocol in PROTOCOLS:
        here = [r for r in rows if r["protocol"] == protocol]
        if not here:
            continue
        by = {(r["part"], r["method"]): r for r in here}
        parts = [part for part in _PARTS if any(r["part"] == part for r in here)]
        counts = {part: next(r["sets"] for r in here if r["part"] == part) for part in parts}
        header = ["", "AUROC", "AUPR"]
        header += [f"rank, {_PARTS[part]} ({counts[part]} sets)" for part in parts] + [
            "rank by AUPR",
            "seconds",
        ]
        best = {part: min(by[part, m]["rank_auroc"] for m in METHODS) for part in parts}
        body = []
        for method in METHODS:
            row = by["all", method]
            ranks = []
            for part in parts:
                r = by[part, method]
                error = "" if r["rank_error"] is None else f" ± {r['rank_error']:.2f}"
                text = f"{r['rank_auroc']:.2f}{error}"
                ranks.append(f"**{text}**" if r["rank_auroc"] == best[part] else text)
            body.append(
                [
                    method,
                    f"{row['auroc']:.3f}",
                    f"{row['aupr']:.3f}",
                    *ranks,
                    f"{row['rank_aupr']:.2f}",
                    f"{row['seconds']:.1f}",
                ]
            )
        found += [f"**{protocol.capitalize()}**", "", *table(header, body), ""]
    found += ["AUROC by set, contaminated / one class (means over seeds; \\* looked at):", ""]
    body = []
    for name in SETS:
        of_set = [r for r in runs if r["set"] == name]
        if not of_set:
            continue
        by_method = ({r["seed"] for r in of_set if r["method"] == method} for method in METHODS)
        common = set.intersection(*(found for found in by_method if found))
        of_set = [r for r in of_set if r["seed"] in common]
        first = next((r for r in of_set if r["protocol"] == PROTOCOLS[0]), of_set[0])
        mark = "\\*" * (name in DEVELOPMENT)
        title = f"{name}{mark} (n={sum(first['rows']):,}, d={first['columns']})"
        seeds = len({r["seed"] for r in of_set})
        cells = []
        for method in METHODS:
            both = []
            for protocol in PROTOCOLS:
                values = [r["auroc"] for r in of_set if (r["protocol"], r["method"]) == (protocol, method)]
                both.append(f"{sum(values) / len(values):.3f}" if values else "–")
            cells.append(" / ".join(both))
        body.append([title, str(seeds), *cells])
    found += [*table(["set", "seeds", *METHODS], body), ""]
    partly = [
        name for name in SETS if 0 < len({r["method"] for r in runs if r["set"] == name}) < len(METHODS)
    ]
    if partly:
        found += [f"Without all contestants, and so in no mean above: {', '.join(partly)}.", ""]
    missing = [name for name in SETS if not any(r["set"] == name for r in runs)]
    if missing:
        found += [f"Not measured yet: {', '.join(missing)}.", ""]
    return [*found, place(content), "", "`python benchmarks/anomalies.py`", ""]
