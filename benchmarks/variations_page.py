"""The section of docs/benchmarks.md on what the defaults of a flow were chosen by."""

from __future__ import annotations

from typing import Any

import numpy as np

from markdown_parts import number, place, table
from variations import CHANGES, CHOOSING, CONFIRMING, ROWS

#: Errors by which a gain counts.
CLEAR = 2.0


def lines(content: dict[str, Any]) -> list[str]:
    """Every number of rows: gains of single changes, table by table, and those that were confirmed."""
    runs = content["runs"]
    found = [
        "## What the defaults were chosen by",
        "",
        "One setting of a plain flow (`nsf-autoregressive`, as estimators had it before, without weight decay) changed at a time: gain in "
        "nats a row ± the standard error of the paired difference, on 2,000 rows that were neither given nor are test rows of any "
        f"benchmark; one split, one seed. **Bold**: more than {CLEAR:.0f} errors, either way. A fit that ends elsewhere by its roundings "
        "alone differs by some tenths of a nat on protein and keggdirected: a single cell says little, a line more. *better*: on how many "
        "tables by more than that, and worse.",
        "",
    ]
    for tables, title in ((CHOOSING, "Looked for on"), (CONFIRMING, "Confirmed on")):
        for rows in ROWS:
            here = [r for r in runs if r["rows"] == rows and r["table"] in tables and "gain" in r]
            names = [t for t in tables if any(r["table"] == t for r in here)]
            body = []
            for change in CHANGES:
                mine = {r["table"]: r["gain"] for r in here if r["change"] == change}
                if len(mine) > 1 or (mine and len(names) == 1):
                    better, worse = (
                        sum(sign * g["mean"] > CLEAR * g["standard_error"] for g in mine.values())
                        for sign in (1, -1)
                    )
                    body.append([change, *(_cell(mine.get(t)) for t in names), f"{better}, {worse}"])
            if body:
                found += [
                    f"{title} these, n = {rows:,}:",
                    "",
                    *table(["", *names, "better, worse"], body),
                    "",
                ]
    spent = {
        c: [r["seconds"] for r in runs if r["change"] == c and r["rows"] == 300]
        for c in ("as it was", "weight decay 2")
    }
    if all(spent.values()):
        before, after = (float(np.mean(s)) for s in spent.values())
        found += [
            "Weight decay of the networks' matrices is what was taken, `2 min(1, (2000 / N)²)` of N training rows (of five columns or more): at 300 and 3,000 rows it "
            "gains on nearly every table, since few rows are otherwise learned by heart, and at 10,000 a tenth is the best of those tried. "
            "The average of weights is worth most of what estimators had already. Noise on the rows, dropout, other rates, widths and "
            f"depths gain on some tables what they lose on others. A fit to 300 rows takes {after:.0f} s instead of {before:.0f} s, since it "
            "is longer before it overfits.",
            "",
        ]
    return [*found, place(content), "", "`python benchmarks/variations.py`", ""]


def _cell(gain: dict[str, float] | None) -> str:
    if gain is None:
        return "–"
    text = f"{number(gain['mean'], 2)} ± {gain['standard_error']:.2f}"
    return f"**{text}**" if abs(gain["mean"]) > CLEAR * gain["standard_error"] else text
