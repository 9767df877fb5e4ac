"""The section of docs/benchmarks.md on what stands beside a flow."""

from __future__ import annotations

from typing import Any

from markdown_parts import mean_se, number, place, table
from variations import CHOOSING


def lines(content: dict[str, Any]) -> list[str]:
    """Gains, table by table, by numbers of rows."""
    found = [
        "## What stands beside a flow",
        "",
        "A mixture of Gaussians and a wide t of weight 1/N or more beside one plain flow (`nsf-autoregressive`), weighted by the validation "
        "rows ([how](model.md#what-stands-beside-the-model)). Nats a row ± the standard error of the paired difference, on rows that were "
        "neither given nor are test rows of any benchmark; one split, one seed. *The t alone*: of weight 1/N, without the mixture. *Over the "
        "mixture*: gain of all together on the mixture alone. Tables above the line were looked at while this was built, those below were not. "
        "The t has since been put where far tails are not drawn in; at 300 rows kin40k, protein, elevators, keggdirected, BSDS300 and skillcraft "
        "are measured with that (all together; *the t alone* is the earlier one), which cost .03, .06 and .02 nats on protein, keggdirected and "
        "skillcraft; the others are from before.",
        "",
    ]
    for rows in dict.fromkeys(run["rows"] for run in content["runs"]):
        here = sorted(
            (r for r in content["runs"] if r["rows"] == rows), key=lambda r: r["table"] not in CHOOSING
        )
        body, looked = [], True
        for r in here:
            if looked and r["table"] not in CHOOSING:
                body.append(["—"] * 7)
                looked = False
            w = r["weights"]
            body.append(
                [
                    r["table"],
                    str(r["columns"]),
                    number(r["alone"], 3),
                    mean_se(r["anywhere"], 3),
                    mean_se(r["stacked"], 3),
                    mean_se(r["over_mixture"], 3),
                    f"{100 * w['mixture']:.1f} % of {w['components']}, {100 * w['anywhere']:.1f} %",
                ]
            )
        header = ["", "D", "flow", "the t alone", "both beside it", "over the mixture", "mixture, t"]
        found += [f"n = {rows:,}:", "", *table(header, body), ""]
    return [*found, place(content), "", "`python benchmarks/stacking.py`", ""]
