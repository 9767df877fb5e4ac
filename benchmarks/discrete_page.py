"""The section of docs/benchmarks.md on binary tables."""

from __future__ import annotations

from typing import Any

from markdown_parts import number, place, table

#: Our methods in the order in which they are shown, and their names.
METHODS = {"tree": "tree of states", "states": "flat states", "MADE": "MADE", "Chow-Liu": "Chow–Liu tree"}
#: Where a published value comes from, as `published.csv` says it.
CHECKED = {"recalled_unverified": "recalled", "computed_here": "computed"}


def lines(content: dict[str, Any]) -> list[str]:
    """Ours beside the best published, table by table, and what each was chosen from."""
    runs, published = content["runs"], content["published"]
    tested = [run for run in runs if "test" in run]
    methods = [m for m in METHODS if any(run["method"] == m for run in tested)]
    training = content["settings"]
    found = [
        "## Binary tables",
        "",
        "Mean log-likelihood of a test row, nats, ± its standard error over the test rows; standard splits. Each of our methods was fitted "
        f"once with each of its settings, for at most {training['steps']:,} steps of {training['batch']} rows, ended by the validation rows, "
        "which also chose the setting; test rows were scored once. Published values marked *recalled* were not looked up in their papers: "
        "differences of a few hundredths to these mean nothing.",
        "",
    ]
    body = []
    for name in dict.fromkeys(run["table"] for run in tested):
        cells = [name]
        for method in methods:
            run = next((r for r in tested if (r["table"], r["method"]) == (name, method)), None)
            cells.append("–" if run is None else _cell(run))
        others = [row for row in published.get(name, []) if row["status"] != "computed_here"]
        cells += [
            f"{number(float(row['value']), 2)} ({row['method']}, {CHECKED.get(row['status'], row['status'])})"
            for row in others[:2]
        ]
        body.append(cells + ["–"] * (len(methods) + 3 - len(cells)))
    header = ["", *(METHODS[m] for m in methods), "best published", "second"]
    found += [*table(header, body), ""]
    body = []
    for run in tested:
        if len(run["trials"]) > 1 and run["method"] != "Chow-Liu":
            trials = ", ".join(
                f"{_named(trial['setting'])}: {number(trial['validation'], 3)} ({trial['processor_seconds']:.0f} s)"
                for trial in run["trials"]
            )
            body.append([run["table"], METHODS[run["method"]], trials])
    on_gpu = sorted({run["table"] for run in tested for trial in run["trials"] if "device" in trial})
    if on_gpu:
        found += [
            f"Some trainings on {', '.join(on_gpu)} ran on a GPU; the seconds are of the processor beside it.",
            "",
        ]
    if body:
        found += ["Validation, nats, and seconds of the processor, one thread, by setting:", ""]
        found += [*table(["", "", "settings"], body), ""]
    return [*found, place(content), "", "`python benchmarks/discrete.py`", ""]


def _named(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def _cell(run: dict[str, Any]) -> str:
    chosen = f", K = {run['setting']['states']}" if "states" in run["setting"] else ""
    return f"{number(run['test'], 2)} ± {run['standard_error']:.2f}{chosen}"
