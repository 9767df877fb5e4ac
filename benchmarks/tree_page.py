"""What a tree of states costs, for docs/speed.md."""

from __future__ import annotations

from typing import Any

from markdown_parts import place, table


def tree(content: dict[str, Any]) -> list[str]:
    """The table, and what was left out."""
    body = []
    for entry in content["table"]:
        if entry["measure"] != "step":
            continue
        same = [
            e
            for e in content["table"]
            if e["measure"] == "score" and all(e[key] == entry[key] for key in ("threads", "contender"))
        ]
        scored = (
            [f"{same[0][key]:,}" for key in ("rows_per_second", "rows_per_processor_second")]
            if same
            else ["", ""]
        )
        times = [
            f"{entry[key]:.1f} ({entry[ratio]:.2f})"
            for key, ratio in (("ms", "ratio"), ("processor_ms", "processor_ratio"))
        ]
        body.append([str(entry["threads"]), entry["contender"], *times, *scored])
    without = "; ".join(f"{name} {reason}" for name, reason in content["left_out"].items())
    return [
        f"**A tree of states**: a hidden Chow-Liu tree of {content['features']} real columns with {content['states']} states each. A training "
        f"step is loss, gradient and Adam on {content['batch']} rows; in brackets, times as long as its matrix products alone (three a "
        f"message). Contenders take turns in one process, {content['rounds']} times; medians. "
        "The machine had other work meanwhile, which the clock counts; the processor time, of all threads, does not.",
        "",
        *table(
            ["threads", "", "step, ms", "processor ms", "rows scored a second", "a processor second"], body
        ),
        "",
        f"Kernels for {content['native_kernels']}. cirkit is given the same circuit, folded and optimised. Left out: {without}.",
        "",
        place(content),
        "",
        "`python benchmarks/trees.py`",
        "",
    ]
