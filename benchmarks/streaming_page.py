"""The table of docs/large.md: memory and rates by the number of rows, and what follows for a billion."""

from __future__ import annotations

from typing import Any

from markdown_parts import place, table

_LARGE = 1_000_000_000
_MEGABYTES = {"fit": "fit, streamed", "score": "score, many files", "one file": "score, one file"}


def _days(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds / 3600:,.1f} hours" if seconds < 86_400 else f"{seconds / 86_400:,.1f} days"


def _table(sizes: dict[int, Any]) -> list[str]:
    """Peaks and rates of every size."""
    body = []
    for n, row in sizes.items():
        whole = row.get("fit, in memory")
        body.append(
            [
                f"{n:,}",
                *(f"{row[name]['peak_mb']:,.0f}" if name in row else "–" for name in _MEGABYTES.values()),
                "–" if whole is None else f"{whole['peak_mb']:,.0f}",
                f"{row['fit, streamed']['rows_per_second']:,.0f}",
                "–" if whole is None else f"{whole['rows_per_second']:,.0f}",
            ]
        )
    header = ["rows", "MB, fit", "MB, score of many files", "of one file", "MB, fit in memory"]
    header += ["rows a second, fit", "in memory"]
    return table(header, body)


def mixed(content: dict[str, Any]) -> list[str]:
    """The same of a table of numbers, levels, dates and missing cells."""
    sizes = {int(n): row for n, row in content["sizes"].items()}
    peaks = [row["fit, streamed"]["peak_mb"] for row in sizes.values()]
    return [
        f"Mixed: {content['columns']} columns, two of numbers, two of whole numbers, two of words, one of booleans and one of dates, a tenth "
        "of the cells of four missing; a tree of 8 states a column over leaves. One measurement each, on a machine whose two cores some ten "
        f"processes shared: rates are lower bounds. From {min(sizes):,} to {max(sizes):,} rows the peak of a fit rises by "
        f"{100 * (peaks[-1] / peaks[0] - 1):.0f} %.",
        "",
        *_table(sizes),
        "",
        place(content),
        "",
        "`python benchmarks/streaming.py --mixed`",
        "",
    ]


def engines(content: dict[str, Any]) -> list[str]:
    """What workers cost."""
    ways, rows = content["ways"], content["files"] * content["rows"]
    one = ways["one process"]["cpu_seconds"]
    body = [
        [
            name, f"{way['seconds']:.0f}", f"{way['cpu_seconds']:.0f}", f"{way['cpu_seconds'] - one:+.0f}".replace("-", "−"),
            "–" if name == "one process" else f"{way['difference']:.0e}" if way["difference"] else "0",
        ]
        for name, way in ways.items()
    ]  # fmt: skip
    return [
        f"Workers: {content['files']} files of {content['rows']:,} rows ({rows:,}) scored by the flow above, one thread a process, on two "
        f"cores that had other work (a load of {content['load']:.0f}), so that seconds say little and the processor's seconds, of the "
        "command and all that it began, daemons included, say what workers cost. The one process is the command itself; others are begun "
        "beside it, and most of what they add is their start.",
        "",
        *table(["", "seconds", "processor's seconds", "more", "largest difference of a score"], body),
        "",
        place(content),
        "",
        "`python benchmarks/engines.py`",
        "",
    ]


def serving(content: dict[str, Any]) -> list[str]:
    """What a server bears."""
    m, wait = content["megabytes"], content["milliseconds"]
    return [
        f"**Load.** {content['clients']} clients at full speed for a minute, three of eight requests with rows or questions that are none: "
        f"{content['requests']:,} requests, {len(content['wrong']) or 'none'} answered otherwise than it should be; "
        f"{m['after_10_s']:.0f} MB resident after ten seconds, {m['end']:.0f} at the end. A median of {wait['median']:.0f} ms, 99 % within "
        f"{wait['99']:,.0f} (50 rows scored, 50 drawn given two cells, 10 filled, reasons of 2; on two cores with a load of "
        f"{content['load'][1]:.0f} from other work).",
        "",
        place(content),
        "",
        "`python benchmarks/serving.py`",
        "",
    ]


def lines(content: dict[str, Any]) -> list[str]:
    """Peaks and rates of every size; the rates of the largest, times a billion rows."""
    sizes = {int(n): row for n, row in content["sizes"].items()}
    small, large = min(sizes), max(sizes)
    rate = sizes[large]["fit, streamed"]["rows_per_second"]
    scored = [sizes[n]["score, many files"]["seconds"] for n in (small, large)]
    scoring = (large - small) / (scored[1] - scored[0])
    return [
        f"{content['columns']} columns, parquet files of 100,000 rows, one thread; a coupling flow of 2 layers of 16 "
        "units over 3 states. Peak resident memory of the whole process; rows a second of a fit are those of its last epoch, "
        "validation included, one measurement each; the machine was shared with other work for a part of the largest fit.",
        "",
        *_table(sizes),
        "",
        f"At these rates ({rate:,.0f} rows a second and epoch; {scoring:,.0f} scored, the start of the process left out) a billion "
        f"rows of {content['columns']} columns are an epoch of {_days(_LARGE / rate)} and {_days(_LARGE / scoring)} of scoring on one "
        f"core, and {_LARGE * content['columns'] * 8 / 1e9:,.0f} GB of disk while they are trained on; files are scored side by side. "
        "That is a product of measured rates, not a measurement; a larger flow takes longer in proportion.",
        "",
        place(content),
        "",
        "`python benchmarks/streaming.py`",
        "",
    ]
