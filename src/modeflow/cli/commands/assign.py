"""`modeflow assign`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """z of every row: posterior over the states, a state a column, codes, or the place on a continuous z."""
    from modeflow.data import write_table
    from modeflow.estimators import assigned_columns

    check_output(args)
    fitted = open_run(args)
    estimator, latent = fitted.estimator, fitted.estimator.latent_.describe()
    if latent.kind == "none" and estimator.domain_.name != "table":
        raise ConfigError("the model has no latent: there is nothing to assign")
    loaded, word = rows_of(args, fitted), estimator.domain_.word
    columns, whole = assigned_columns(estimator, loaded.values)
    told, lines = _KINDS[latent.kind](estimator, columns)
    if args.out:
        values = np.column_stack(
            [np.arange(1, loaded.total + 1), loaded.spread(np.column_stack([*columns.values()]))]
        )
        write_table(args.out, values, (word, *columns), integer_columns=(word, *whole))
        say_wrote(args, f"{loaded.total} {word}s, {latent.words}")
    say_unscored(loaded, latent.unit or "state")
    result = {
        "run": args.run_folder,
        "data": args.data,
        f"{word}s": len(loaded.rows),
        **told,
        "out": args.out,
    }
    emit(args, result, lines)
    return 0


#: What there is to say of the columns as plain values, and for people.
_Told = tuple[dict[str, Any], list[str]]


def _states(estimator: Any, columns: dict[str, np.ndarray]) -> _Told:
    weights, probability = estimator.weights_, columns["probability"]
    counts = np.bincount(columns["state"], minlength=len(weights))
    told = {
        "states": [
            {"state": k, "prior": float(weights[k]), "rows": int(count)} for k, count in enumerate(counts)
        ],
        "mean_probability": float(probability.mean()),
    }
    lines = ["state   prior    rows   share"]
    lines += [
        f"{k:5d}  {weights[k]:6.3f}  {count:6d}  {count / len(probability):6.3f}"
        for k, count in enumerate(counts)
    ]
    lines.append(f"mean probability of the state assigned: {probability.mean():.3f}")
    return told, lines


def _codes(estimator: Any, columns: dict[str, np.ndarray]) -> _Told:
    found = np.bincount(np.concatenate([*columns.values()]))
    told = {"codes": [{"code": int(k), "count": int(c)} for k, c in enumerate(found)]}
    return told, [f"code {k}: {c}" for k, c in enumerate(found) if c]


def _places(estimator: Any, columns: dict[str, np.ndarray]) -> _Told:
    means = [(m, columns[f"{name}_sd"]) for name, m in columns.items() if not name.endswith("_sd")]
    latent = [
        {"dimension": j, "mean": float(m.mean()), "spread": float(m.std()), "sd": float(s.mean())}
        for j, (m, s) in enumerate(means)
    ]
    lines = ["dimension    mean  spread   scale of q(z|x)"]
    lines += [f"{d['dimension']:9d}  {d['mean']:6.3f}  {d['spread']:6.3f}  {d['sd']:6.3f}" for d in latent]
    return {"latent": latent}, lines


def _tree(estimator: Any, columns: dict[str, np.ndarray]) -> _Told:
    """Of a tree the most probable state of every column."""
    count = estimator.latent_.describe().count
    share = [np.bincount(z, minlength=count) / max(len(z), 1) for z in columns.values()]
    used = [float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())) for p in share]
    told = {
        "columns": [
            {"column": name, "states": int((p > 0).sum()), "perplexity": u}
            for name, p, u in zip(estimator.domain_.feature_names, share, used, strict=True)
        ]
    }
    lines = ["states  perplexity  column"]
    lines += [f"{c['states']:6d}  {c['perplexity']:10.1f}  {c['column']}" for c in told["columns"]]
    return told, lines


#: By the kind of the latent.
_KINDS = {
    "none": _states,
    "discrete": _states,
    "tree": _tree,
    "codes": _codes,
    "continuous": _places,
}
