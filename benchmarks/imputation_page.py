"""The section of docs/benchmarks.md on holes filled."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from holes import MECHANISMS, OBSERVED
from imputation import SHARES, TABLES
from imputers import IMPUTERS
from markdown_parts import number, place, table

#: Measures of the tables in order: key, title, digits, factor, and whether the least is best (None: no best).
_MEASURES: tuple[tuple[str, str, int, float, bool | None], ...] = (
    ("rmse", "RMSE", 3, 1, True),
    ("right", "right, %", 1, 100, False),
    ("wasserstein", "W1", 3, 1, True),
    ("energy_distance", "energy distance, 10⁻³", 1, 1000, True),
    ("energy_score", "energy score", 3, 1, True),
    ("coverage", "coverage of 90 %, %", 1, 100, None),
)
#: What the span of 19 draws covers where they are right.
_NOMINAL = 0.9
Runs = list[dict[str, Any]]


def of_methods(runs: Runs) -> tuple[list[str], dict[str, Runs]]:
    """The cases (tables and seeds) that most methods have, and the runs on them of those that have them all.

    Cases that a method has with fewer others are left out, and so is one that lacks some of the cases.
    """
    cases: dict[str, set[tuple[str, int]]] = {}
    for run in runs:
        cases.setdefault(run["method"], set()).add((run["table"], run["seed"]))
    best: tuple[int, frozenset[tuple[str, int]]] = (0, frozenset())
    for own in cases.values():
        count = sum(own <= other for other in cases.values()) * len(own)
        best = max(best, (count, frozenset(own)), key=lambda pair: pair[0])
    kept = [name for name in IMPUTERS if name in cases and best[1] <= cases[name]]
    found = {
        name: [r for r in runs if r["method"] == name and (r["table"], r["seed"]) in best[1]] for name in kept
    }
    return [name for name in TABLES if any(case[0] == name for case in best[1])], found


def mean_of(runs: Runs, key: str) -> float | None:
    """Mean over runs that have it."""
    values = [r[key] for r in runs if r[key] is not None]
    return float(np.mean(values)) if values else None


def shown(values: list[float | None], digits: int, factor: float, least: bool | None) -> list[str]:
    """Cells of one measure, the best in bold."""
    known = [v for v in values if v is not None]
    best = None if least is None or not known else (min(known) if least else max(known))
    texts = ["–" if v is None else number(factor * v, digits) for v in values]
    return [f"**{t}**" if v is not None and v == best else t for t, v in zip(texts, values, strict=True)]


def ranks(found: dict[str, Runs], key: str) -> list[float]:
    """Mean rank of every method over the cases, 1 is best."""
    columns = [
        [r[key] for r in sorted(rows, key=lambda r: (r["table"], r["seed"]))] for rows in found.values()
    ]
    return [float(v) for v in rankdata(np.array(columns), axis=0).mean(1)]


def summary(title: str, runs: Runs) -> list[str]:
    """Means over tables of one mechanism and share."""
    names, found = of_methods(runs)
    columns = [
        shown([mean_of(rows, key) for rows in found.values()], digits, factor, least)
        for key, _, digits, factor, least in _MEASURES
    ]
    off = [
        None
        if mean_of(rows, "coverage") is None
        else float(np.mean([abs(r["coverage"] - _NOMINAL) for r in rows]))
        for rows in found.values()
    ]
    columns.append(shown(off, 1, 100, True))
    columns += [shown([*ranks(found, key)], 2, 1, True) for key in ("energy_distance", "energy_score")]
    columns.append([f"{mean_of(rows, 'seconds') or 0:.0f}" for rows in found.values()])
    header = [
        "",
        *(title for _, title, *_ in _MEASURES),
        "off by, %",
        "rank by distance",
        "by score",
        "seconds",
    ]
    body = [[method, *cells] for method, *cells in zip(found, *columns, strict=True)]
    seeds = len({r["seed"] for rows in found.values() for r in rows})
    counts = f"{len(names)} table{'s' * (len(names) > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    return [f"{title} ({counts}: {', '.join(names)})", "", *table(header, body), ""]


def by_table(runs: Runs) -> list[str]:
    """RMSE, energy distance and score, and coverage of every table of one mechanism and share."""
    names = [name for name in TABLES if any(r["table"] == name for r in runs)]
    methods = [name for name in IMPUTERS if any(r["method"] == name for r in runs)]
    header = ["RMSE / energy distance, 10⁻³ / energy score / coverage, %", *methods]
    body = []
    for name in names:
        cells = []
        for method in methods:
            rows = [r for r in runs if (r["table"], r["method"]) == (name, method)]
            if not rows:
                cells.append("")
                continue
            parts = [mean_of(rows, key) for key in ("rmse", "energy_distance", "energy_score", "coverage")]
            texts = [
                "–" if v is None else number(v * f, d)
                for v, f, d in zip(parts, (1, 1e3, 1, 100), (3, 1, 3, 1), strict=True)
            ]
            cells.append(" / ".join(texts))
        first = next(r for r in runs if r["table"] == name)
        body.append(
            [f"{name} (n={first['rows']:,}, {first['columns']} columns, {first['numbers']} numbers)", *cells]
        )
    return [*table(header, body), ""]


def beside_forests(runs: Runs) -> list[str]:
    """How often ours is nearer than miceforest, on the cases that it was fitted to."""
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for r in runs:
        key = r["table"], r["mechanism"], r["share"], r["seed"]
        cases.setdefault(key, {})[r["method"]] = r
    pairs = [
        (c["NVF, leaves"], c["miceforest"]) for c in cases.values() if {"NVF, leaves", "miceforest"} <= set(c)
    ]
    if not pairs:
        return []
    nearer = [sum(a[key] < b[key] for a, b in pairs) for key in ("energy_distance", "energy_score", "rmse")]
    held = [[100 * float(r[i]["coverage"]) for r in pairs] for i in (0, 1)]
    spans = [f"{number(min(h), 1)} to {number(max(h), 1)}" for h in held]
    return [
        f"Beside miceforest ({len(pairs)} cases of {len({a['table'] for a, _ in pairs})} tables; it fails on adult): NVF, leaves, has the lower energy distance in "
        f"{nearer[0]}, the lower energy score in {nearer[1]}, the lower RMSE in {nearer[2]}; its intervals hold {spans[0]} %, miceforest's {spans[1]} %.",
        "",
    ]


def lines(content: dict[str, Any]) -> list[str]:
    """Means over tables by mechanism and share; then by table."""
    s, runs = content["settings"], content["runs"]
    said = s["miceforest"]
    found = [
        "## Holes filled",
        "",
        "Cells taken out of complete tables and filled by contestants that see what is left, and are fitted to it. *MCAR*: every cell "
        f"with the same probability; *MAR*: {100 * OBSERVED:.0f} % of the columns, drawn at random, stay whole, and the others miss cells by a logistic "
        "model of these; *MNAR*: the same, and then cells of those columns are hidden too "
        "([Muzellec et al. 2020](https://arxiv.org/abs/2002.03860), as in [HyperImpute's benchmark](https://arxiv.org/abs/2206.07769), "
        "which masks at most eight columns; here all take part). At most "
        f"{s['rows']:,} rows. Numbers in standard deviations of the complete column, categories one-hot, two of which are one apart. "
        "*RMSE* and *right* (categories) are of the best guess: the contestant's own, or the mean of its tables. *W1*: Wasserstein distance "
        "between the values filled in a column and those taken out. *Energy distance*: of the completed rows that had holes from the complete "
        f"ones, 2E|x−y| − E|x−x′| − E|y−y′| over all pairs of at most {s['energy_rows']:,} rows. *Energy score*: of the filled cells of a row, "
        f"E|x−y| − ½E|x−x′| over the {s['tables']} tables, mean over rows (of who draws none, the distance). *Coverage*: of the numbers taken "
        f"out by the span of the {s['tables']} draws, ties broken at random: {s['tables'] - 1}/{s['tables'] + 1} were it right; *off by*: mean distance from that. Means over tables; ranks "
        "among the contestants shown, 1 is best; seconds of the processor, one thread, fitting and filling.",
        "",
        "*NVF, leaves*: a tree of states with leaves, defaults; *NVF*: what it chooses itself by held-out rows, that tree or a flow over it. "
        "scikit-learn's imputers have their defaults, numbers standardised; categories are one-hot for KNN and codes for the iterative one, "
        f"whose draws are {s['tables']} fits with `sample_posterior`. miceforest has {said['iterations']} rounds of {said['num_iterations']} trees "
        "(its time forces it), else its defaults.",
        "",
    ]
    for mechanism in MECHANISMS:
        for share in SHARES:
            here = [r for r in runs if (r["mechanism"], r["share"]) == (mechanism, share)]
            if here:
                title = f"**{mechanism}, {100 * share:.0f} % of the cells of a column**"
                found += [*summary(title, here)]
    shares = {(r["mechanism"], r["share"]) for r in runs}
    for mechanism in MECHANISMS:
        if here := [r for r in runs if (r["mechanism"], r["share"]) == (mechanism, 0.3)]:
            found += [f"By table, {mechanism}, 30 %:", "", *by_table(here)]
    found += beside_forests(runs)
    missing = [f"{m} {100 * p:.0f} %" for m in MECHANISMS for p in SHARES if (m, p) not in shares]
    if missing:
        found += [f"Not measured yet: {', '.join(missing)}.", ""]
    return [*found, place(content), "", "`python benchmarks/imputation.py`", ""]


def short(content: dict[str, Any]) -> list[str]:
    """For the README: energy distance of ours and of the next, and coverage, for 30 % of the cells."""
    parts = []
    for mechanism in MECHANISMS:
        here = [r for r in content["runs"] if (r["mechanism"], r["share"]) == (mechanism, 0.3)]
        names, found = of_methods(here)
        ours = found.pop("NVF, leaves", None)
        if not ours or not found:
            continue
        distance = {name: 1000 * (mean_of(rows, "energy_distance") or 0) for name, rows in found.items()}
        next_best = min(distance, key=lambda name: distance[name])
        own, coverage = mean_of(ours, "energy_distance"), mean_of(ours, "coverage")
        assert own is not None and coverage is not None
        parts.append(
            f"{mechanism} {number(1000 * own, 1)} beside {number(distance[next_best], 1)} ({next_best}), intervals of 90 % hold "
            f"{number(100 * coverage, 1)} % ({len(names)} tables)"
        )
    if not parts:
        return []
    return [
        "Cells filled, 30 % of them taken out, one seed: energy distance of the completed rows from the true ones (10⁻³, less is better) by a "
        f"tree of states, and by the best of scikit-learn's imputers: {'; '.join(parts)} ([docs](docs/benchmarks.md#holes-filled)).",
        "",
    ]
