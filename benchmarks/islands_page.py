"""The section of docs/benchmarks.md on islands, and their table in the README."""

from __future__ import annotations

from typing import Any

import numpy as np

from curved_islands import JITTER, NOISE
from islands import FAR, FFJORD_EPOCHS, MORE_ROWS, TOLD
from markdown_parts import mean_se, number, place, table

#: Models that are compared by their likelihood of the shapes, and by agreement.
_SCORED = ("NVF", "GaussianMixture", "GaussianMixture by BIC", "zuko NSF")
_CLUSTERED = ("NVF", "GaussianMixture", "GaussianMixture by BIC", "KMeans", "HDBSCAN", "HDBSCAN, 1 %")
#: Agreements that differ by no more are level.
_LEVEL = 0.01

Line = dict[str, Any]


def _by_key(lines: list[Line]) -> dict[tuple[str, str], Line]:
    return {(r["set"], r["model"]): r for r in lines}


def _names(lines: list[Line]) -> list[str]:
    return list(dict.fromkeys(r["set"] for r in lines))


def _told(model: str) -> str:
    return f"{model} told K" if model in TOLD else model


def lines(content: dict[str, Any]) -> list[str]:
    """Islands of any shape: found, kept and counted?"""
    found = ["## Islands of any shape", "", *_plane(content), *_curved(content), *_shapes(content)]
    return [*found, place(content), "", "`python benchmarks/islands.py`", ""]


def _plane(content: dict[str, Any]) -> list[str]:
    rows = _by_key(content["table"])
    models = ("NVF", "GaussianMixture", "GaussianMixture by BIC")
    body = []
    for name in _names(content["table"]):
        mine = [rows[name, m] for m in models]
        cells = [mean_se(r[key], 3) for key in ("agreement", "test") for r in mine]
        states = [", ".join(map(str, mine[i]["states"])) for i in (0, 2)]
        body.append([name, f"{mine[0]['islands']}", *states, *cells, f"{mine[0]['seconds']['mean']:.0f}"])
    told = ("NVF", "mixture told K", "mixture by BIC")
    header = ["", "islands", "K, NVF", "K, BIC", *(f"agreement, {m}" if m == "NVF" else m for m in told)]
    header += [*(f"test, {m}" if m == "NVF" else m for m in told), "s"]
    return [
        "NVF with its defaults (flow and number of states chosen), GaussianMixture told the number of islands, and with its number by "
        f"BIC, on the same {content['rows']:,} rows: adjusted Rand index with the true islands and log-likelihood (nats) on "
        f"{content['test_rows']:,} other rows, mean and standard error over seeds. Processor seconds of NVF, choice included. The "
        "seven blobs are Gaussians that overlap.",
        "",
        *table(header, body),
        "",
    ]


# -- islands of known density -------------------------------------------------------------------------


def _gap(line: Line, digits: int = 2) -> str:
    """The gap, and rows that have no density."""
    if "gap" not in line:
        return "–"
    entry = line["gap"]
    error = np.nanmax([entry["standard_error"], line["gap_error"]])
    text = f"{number(entry['mean'], digits)} ± {error:.{digits}f}"
    outside = sum(line.get("outside", []))
    return f"∞ ({text} without {outside:,} rows)" if outside else text


def _curved(content: dict[str, Any]) -> list[str]:
    every, rows = content.get("curved", []), _by_key(content.get("curved", []))
    if not every:
        return []
    models = list(dict.fromkeys(r["model"] for r in every))
    said = {
        "CIF": "CIF's gap is of its lower bound.",
        "zuko NSF": "zuko's flow, margarine (piecewise flows) and others are trained as `benchmarks/table_rivals.py` says.",
        "FFJORD": f"FFJORD had {FFJORD_EPOCHS} epochs and only five dimensions.",
    }
    axes = any("along axes" in name for name in _names(every))
    found = [
        "### Curved islands of known density",
        "",
        "Rings in rings, moons and swiss rolls in one another, and a point in a ring beside a roll, a square and a ball that fills all "
        "dimensions: curves and sheets in two or three dimensions, turned at random in d, with noise of deviation "
        f"{NOISE} in all of them{'; two sets along the axes show what turning costs' if axes else ''}. "
        f"{content['rows']:,} rows are given ({MORE_ROWS:,} of 20 dimensions), {content['test_rows']:,} others scored once. *Gap*: true "
        "minus fitted log-density, mean over these, nats (0 is the truth); ± its standard error over draws or over rows, "
        "whichever is larger. *Agreement*: adjusted Rand index. KMeans and GaussianMixture are told the number of islands or choose it "
        "by BIC; HDBSCAN has its default of five rows a cluster, or 1 % of the rows. NVF was fitted before states began on islands that "
        "draws of the rows agree on, and before a second fit stayed beside what is chosen."
        + "".join(f" {text}" for model, text in said.items() if model in models),
        "",
    ]
    for dim in ("d=5", "d=20"):
        names = [n for n in _names(every) if n.endswith(dim)]
        body = []
        for model in models:
            mine = [rows.get((name, model)) for name in names]
            if not any(mine):
                continue
            cells, draws, seconds = [], 0, []
            for r in mine:
                if r is None:
                    cells += ["–", "–"]
                    continue
                draws = max(draws, r["draws"])
                if "failed" in r:
                    cells += ["failed", "–"]
                    continue
                agreement = number(r["agreement"]["mean"], 2) if "agreement" in r else "–"
                states = (
                    f" (K {', '.join(map(str, r['states']))})" if "states" in r and model not in TOLD else ""
                )
                cells += [_gap(r), agreement + states]
                seconds.append(r["seconds"]["mean"])
            spent = f"{np.mean(seconds):.0f}" if seconds else "–"
            body.append([_told(model), f"{draws}", *cells, spent])
        if body:
            heads = [text for n in names for text in (f"{n}: gap", "agreement")]
            found += [*table(["", "draws", *heads, "s"], body), ""]
    far = [
        f"{r['model']} on {r['set']} {sum(r['far']):,} (mean gap {number(r['gap']['mean'], 2)}, median {number(r['gap_median']['mean'], 2)})"
        for r in every
        if sum(r.get("far", []))
    ]
    if far:
        found += [
            f"Rows more than {FAR:.0f} nats below the truth, of {content['test_rows']:,} a draw, can make a mean: {'; '.join(far)}.",
            "",
        ]
    failures = sorted({f"{r['model']} on {r['set']}: {text}" for r in every for text in r.get("failed", [])})
    if failures:
        found += ["Failed: " + "; ".join(failures) + ".", ""]
    return found


# -- published shapes ---------------------------------------------------------------------------------


def _table_of(every: list[Line], models: tuple[str, ...], key: str) -> tuple[list[str], np.ndarray]:
    """Sets that all of these models have a value of, and the values ``(sets, models)``."""
    rows = _by_key(every)
    names, values = [], []
    for name in _names(every):
        cells = [rows.get((name, m), {}).get(key, {}).get("mean") for m in models]
        if all(v is not None for v in cells):
            names.append(name)
            values.append(cells)
    return names, np.array(values, dtype=float).reshape(len(names), len(models))


def standing(every: list[Line]) -> dict[str, Any]:
    """What is said of the shapes: agreement, ranks of likelihood, and sets where NVF is behind."""
    present = {r["model"] for r in every}
    clustered = tuple(m for m in _CLUSTERED if m in present)
    names, agreement = _table_of(every, clustered, "agreement")
    scored = tuple(m for m in _SCORED if m in present)
    with_scores, scores = _table_of(every, scored, "test")
    # Ranks leave out sets without labels: there is no mixture told K.
    ranks = (-scores).argsort(1).argsort(1) + 1
    best = agreement.max(1, keepdims=True) if len(agreement) else agreement
    behind = {
        m: [n for n, row in zip(names, agreement, strict=True) if row[0] < row[j] - _LEVEL]
        for j, m in enumerate(clustered)
    }
    below = {
        m: [n for n, row in zip(with_scores, scores, strict=True) if row[0] < row[j]]
        for j, m in enumerate(scored)
    }
    counts = {
        r["set"]: (r["states"][0], r["islands"]) for r in every if r["model"] == "NVF" and "states" in r
    }
    return {
        "names": names,
        "scored": with_scores,
        "agreement": dict(zip(clustered, agreement.mean(0), strict=True)) if len(names) else {},
        "first": dict(zip(clustered, (agreement >= best - _LEVEL).sum(0), strict=True)) if len(names) else {},
        "rank": dict(zip(scored, ranks.mean(0), strict=True)) if len(with_scores) else {},
        "behind": behind,
        "below": below,
        "right": sum(k == n for k, n in counts.values() if n),
        "fewer": [n for n, (k, true) in counts.items() if true and k < true],
        "more": [n for n, (k, true) in counts.items() if true and k > true],
    }


def _shapes(content: dict[str, Any]) -> list[str]:
    every = content.get("shapes", [])
    if not any(r["model"] == "NVF" for r in every):
        return []
    rows, s = _by_key(every), standing(every)
    body = []
    for model in dict.fromkeys(r["model"] for r in every):
        spent = [r["seconds"]["mean"] for r in every if r["model"] == model and "seconds" in r]
        has = model in s["agreement"]
        body.append(
            [
                _told(model),
                number(s["agreement"][model], 3) if has else "–",
                f"{s['first'][model]}" if has else "–",
                f"{len(s['behind'][model])}" if has and model != "NVF" else "",
                f"{s['rank'][model]:.2f}" if model in s["rank"] else "–",
                f"{len(s['below'][model])}" if model in s["below"] and model != "NVF" else "",
                f"{np.mean(spent):.1f}",
            ]
        )
    header = ["", "mean agreement", "first", "NVF behind", "mean rank of test likelihood", "NVF behind", "s"]
    losses = [
        f"- Agreement, behind {_told(m)} by more than {_LEVEL}: {', '.join(s['behind'][m])}."
        for m in _CLUSTERED
        if m != "NVF" and s["behind"].get(m)
    ]
    losses += [
        f"- Likelihood, behind {_told(m)}: {', '.join(s['below'][m])}."
        for m in _SCORED
        if m != "NVF" and s["below"].get(m)
    ]
    n = len(_names(every))
    found = [
        "### Published shapes",
        "",
        f"{n} two-dimensional sets of deric/clustering-benchmark, one split each: at most {content['rows']:,} rows and two thirds are given, at "
        f"most {content['test_rows']:,} others scored once. Noise of {JITTER} of a column's deviation is added, for some sets are curves without "
        f"width. {len(s['names'])} have labels and all of these models; rows labelled noise count in likelihood only. *First*: agreement within {_LEVEL} of the best of all. "
        f"Ranks are of {len(s['scored'])} sets with a likelihood of all. NVF is told nothing; its number of states is that of the labels "
        f"on {s['right']}, smaller on {len(s['fewer'])} and larger on {len(s['more'])} sets. NVF was fitted on a loaded machine, before a second fit stayed beside what is chosen. How it "
        "finds islands was developed on these sets: no part of them was set apart.",
        "",
        *table(header, body),
        "",
        "Where NVF is behind:",
        "",
        *losses,
        "",
        "Set by set (agreement; test log-likelihood, nats a row):",
        "",
    ]
    models = [m for m in _CLUSTERED if any(r["model"] == m for r in every)]
    scored = [m for m in _SCORED if any(r["model"] == m for r in every)]
    body = []
    for name in _names(every):
        nvf = rows.get((name, "NVF"), {})
        line = [name, f"{nvf.get('islands') or '–'}", f"{nvf['states'][0]}" if "states" in nvf else "–"]
        for m in models:
            entry = rows.get((name, m), {}).get("agreement")
            line.append(number(entry["mean"], 2) if entry else "–")
        for m in scored:
            entry = rows.get((name, m), {}).get("test")
            line.append(number(entry["mean"], 2) if entry else "–")
        body.append(line)
    header = ["", "islands", "K, NVF", *map(_told, models), *(f"nats, {_told(m)}" for m in scored)]
    return [*found, *table(header, body), ""]


# -- README -------------------------------------------------------------------------------------------


def short(content: dict[str, Any]) -> list[str]:
    """The first table of the README."""
    rows = _by_key(content["table"])
    models = ("NVF", "GaussianMixture", "GaussianMixture by BIC")
    body = []
    for name in _names(content["table"]):
        mine = [rows[name, m] for m in models]
        right = [f"{r['states'].count(r['islands'])} of {len(r['states'])}" for r in mine[::2]]
        cells = [number(r[key]["mean"], 2) for key in ("agreement", "test") for r in mine]
        body.append([name, *right, *cells])
    header = ["", "K right, NVF", "by BIC", "agreement, NVF", "mixture told K", "by BIC"]
    header += ["nats, NVF", "mixture told K", "by BIC"]
    return [
        f"Islands of any shape, {content['rows']:,} rows, means of three draws. NVF is told nothing; a Gaussian mixture is told the number "
        "of islands, or chooses it by BIC. How often the number is right, agreement with the islands (adjusted Rand index, 1 is perfect) "
        "and log-likelihood on other rows (nats); the seven blobs are Gaussians that overlap:",
        "",
        *table(header, body),
        "",
        f"{_said_of_curved(content)} {_said_of_shapes(content)}".strip(),
        "",
    ]


def _said_of_curved(content: dict[str, Any]) -> str:
    """A sentence on islands of known density in more dimensions."""
    rows = _by_key(content["curved"])
    told = []
    for name in _names(content["curved"]):
        ours, bic = rows.get((name, "NVF")), rows.get((name, "GaussianMixture by BIC"))
        if ours is None or bic is None:
            continue
        gap, rival = (number(r["gap"]["mean"], 2) for r in (ours, bic))
        agree, other = (number(r["agreement"]["mean"], 2) for r in (ours, bic))
        told.append(f"{name}: agreement {agree} and {other}, gap to the true density {gap} and {rival} nats")
    if not told:
        return ""
    return (
        "More dimensions are harder. Curved islands turned in space, NVF and the mixture by BIC: "
        f"{'; '.join(told)} ([docs](docs/benchmarks.md#islands-of-any-shape))."
    )


def _said_of_shapes(content: dict[str, Any]) -> str:
    """A sentence on the published shapes."""
    if not any(r["model"] == "NVF" for r in content["shapes"]):
        return ""
    s = standing(content["shapes"])
    agreement = s["agreement"]
    means = ", ".join(f"{number(agreement[m], 2)} {_told(m)}" for m in agreement if m != "NVF")
    return (
        f"On {len(s['names'])} published shapes of the plane mean agreement is {number(agreement['NVF'], 2)} by NVF ({means}); where it is behind, and all "
        "else, stands in [docs/benchmarks.md](docs/benchmarks.md#islands-of-any-shape)."
    )
