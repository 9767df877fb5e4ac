"""docs/reliability.md from results/reliability.json."""

from __future__ import annotations

from typing import Any

from markdown_parts import place, table


def _transforms(content: dict[str, Any]) -> list[str]:
    rows = content["rows"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        by_kind.setdefault(name.rsplit(" ", 1)[1], []).append(row)
    body = []
    for kind, found in by_kind.items():
        errors = [row["inverse_error"] for row in found if "inverse_error" in row]
        body.append([
            kind, str(len(found)), f"{sum(row['numbers'] for row in found):,}", str(sum(row["not_finite"] for row in found)),
            str(sum("exception" in row for row in found)), str(sum(row["neighbours_changed"] for row in found)),
            *(f"{sorted(e[key] for e in errors)[len(errors) // 2]:.0e}" for key in ("median", "p99")),
            f"{max(e['largest'] for e in errors):.0e}",
        ])  # fmt: skip
    worst = sorted(rows.items(), key=lambda item: -item[1].get("inverse_error", {}).get("largest", 0))[:5]
    header = ["precision", "transforms", "numbers", "rows not finite", "exceptions", "neighbours changed"]
    header += ["median error", "99 %", "largest"]
    return [
        "## Numbers of any size",
        "",
        "Every transform of the tests, with perturbed parameters, forward on rows whose cells are usual, of any size (up to 1e18 in float32, "
        "1e150 in float64: the square is still a number), tiny, denormal, zero, or whole numbers (where knots lie) and their neighbours. "
        "Beside it rows of NaN and infinities: no exception, and the rows beside them stay what they are. Errors are of "
        "inverse(forward(x)), |x̂ − x| / (1 + |x|), on rows within ±10: over transforms the median of their medians and of their 99th "
        "percentiles, and the largest of all.",
        "",
        *table(header, body),
        "",
        "Found and mended: the slopes of deep sigmoidal flows were minus infinity where a softplus is too small for a number.",
        "",
        "Largest errors: "
        + ", ".join(f"{name} {row['inverse_error']['largest']:.0e}" for name, row in worst)
        + ".",
        "",
    ]


def _files(content: dict[str, Any]) -> list[str]:
    body = [
        [kind, *(str(row[key]) for key in ("files", "refused", "read", "faults"))]
        for kind, row in content["by_kind"].items()
    ]
    return [
        "## Damaged files",
        "",
        "Good files cut, changed in some bytes, doubled, joined, of another kind, of noise, with code in them (pickles in arrays, YAML that "
        "calls functions), or whole and odd: ragged text in UTF-16, nested columns, headers that say other shapes, weights of other names, "
        "settings of other kinds. They are given to `score`, and tables and pictures by turns to `fit` and `schema`; *safetensors* and "
        "*config* are the model and the settings of a run, *yaml* a schema. *Refused*: status 2 and one line. *Read*: what is left is a file. "
        "*Faults*: a traceback, another status, a process that dies or does not end, code run, a file overwritten, an output left of a "
        "refused command.",
        "",
        *table(["kind", "files", "refused", "read", "faults"], body),
        "",
        "Found and mended, and the files given again: settings that are a number or a mapping where a text is expected, or the reverse "
        "(`columns: 1.5`, `latent_options.epsilon: x`), which ended in a traceback, also of `fit --set`; arrays whose name says archive and the "
        "reverse; YAML that is not UTF-8; headers of numpy's that are no Python text; panics of polars at damaged parquet (polars itself still "
        "prints its own lines before the one of the error).",
        "",
    ]


def _kills(content: dict[str, Any]) -> list[str]:
    body = [
        [
            job, *(str(row["ways"].get(way, 0)) for way in ("group", "command", "worker")),
            *(str(row[key]) for key in ("runs", "faults")),
        ]
        for job, row in content["by_job"].items()
    ]  # fmt: skip
    return [
        "## Kills",
        "",
        "SIGKILL at a random moment, most of them some milliseconds after a random write to the folder: to the whole process *group*, to the "
        "*command* alone, as the kernel does it where memory ends, or to a *worker*. Up to three times in a run, which is then repeated (`fit "
        "--resume`, or the same command) to its end; where a worker dies the command itself goes on. A fault is another model, other test "
        "scores or outputs than without a kill, to the byte, a half output at any time, or a process left behind. Fits make a checkpoint "
        "every 20 ms, so that kills meet them too.",
        "",
        *table(["command", "group", "command alone", "a worker", "runs", "faults"], body),
        "",
        f"{content['kills']} kills in all. Found and mended: of a command with `--jobs` that was killed alone the workers waited for files for "
        "ever, with the model in memory; they end with it now; and where no cluster is named, `--engine ray` took what was left of one on the "
        "machine, and ended in a traceback: it begins its own.",
        "",
    ]


def _surroundings(content: dict[str, Any]) -> list[str]:
    lines = [
        f"- {name}: {'as it should be' if case['right'] else 'not as it should be: ' + str(case)}"
        for name, case in content["cases"].items()
    ]
    return [
        "## What surrounds a process",
        "",
        "A full disk is a limit on the size of files: the command ends with status 2 and leaves nothing half, and repeated without the limit "
        "it gives the same model, to the byte. A clock that goes back an hour in every call changes nothing. Of two fits into one folder at "
        "once one is refused.",
        "",
        *lines,
        "",
    ]


_PARTS = {"transforms": _transforms, "files": _files, "kills": _kills, "surroundings": _surroundings}


def page(content: dict[str, Any]) -> list[str]:
    """The lines of the page; parts without a result are left out."""
    lines = ["# Reliability", "", "What happens at the edges, counted.", ""]
    for name, part in _PARTS.items():
        if name in content["parts"]:
            lines += part(content["parts"][name])
    return [
        *lines,
        place(content),
        "",
        "`python benchmarks/reliability.py`; the full run is of 1,000,000 numbers a transform, 2,000 files and 200 kills.",
        "",
    ]
