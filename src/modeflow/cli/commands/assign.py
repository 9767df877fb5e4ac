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

    check_output(args)
    fitted = open_run(args)
    estimator, latent = fitted.estimator, fitted.estimator.latent_.describe()
    if latent.kind == "none" and estimator.domain_.name != "table":
        raise ConfigError("the model has no latent: there is nothing to assign")
    loaded, word = rows_of(args, fitted), estimator.domain_.word
    columns, whole, told, lines = _KINDS[latent.kind](estimator, loaded.values)
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


#: Columns by name, those of whole numbers, what there is to say of them as plain values, and for people.
_Assigned = tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, Any], list[str]]


def _states(estimator: Any, rows: Any) -> _Assigned:
    proba = estimator.predict_proba(rows)
    state = proba.argmax(1)
    counts = np.bincount(state, minlength=proba.shape[1])
    columns = {"state": state, "probability": proba.max(1)} | {f"p{k}": p for k, p in enumerate(proba.T)}
    told = {
        "states": [
            {"state": k, "prior": float(estimator.weights_[k]), "rows": int(count)}
            for k, count in enumerate(counts)
        ],
        "mean_probability": float(proba.max(1).mean()),
    }
    lines = ["state   prior    rows   share"]
    lines += [
        f"{k:5d}  {estimator.weights_[k]:6.3f}  {count:6d}  {count / len(proba):6.3f}"
        for k, count in enumerate(counts)
    ]
    lines.append(f"mean probability of the state assigned: {proba.max(1).mean():.3f}")
    return columns, ("state",), told, lines


def _codes(estimator: Any, rows: Any) -> _Assigned:
    codes = estimator.encode(rows)
    names = ("code",) if codes.shape[1] == 1 else tuple(f"code{j}" for j in range(codes.shape[1]))
    found = np.bincount(codes.ravel())
    told = {"codes": [{"code": int(k), "count": int(c)} for k, c in enumerate(found)]}
    lines = [f"code {k}: {c}" for k, c in enumerate(found) if c]
    return dict(zip(names, codes.T, strict=True)), names, told, lines


def _places(estimator: Any, rows: Any) -> _Assigned:
    mean, scale = estimator.encode(rows, return_std=True)
    columns = {f"z{j}": m for j, m in enumerate(mean.T)} | {f"z{j}_sd": s for j, s in enumerate(scale.T)}
    latent = [
        {"dimension": j, "mean": float(m.mean()), "spread": float(m.std()), "sd": float(s.mean())}
        for j, (m, s) in enumerate(zip(mean.T, scale.T, strict=True))
    ]
    lines = ["dimension    mean  spread   scale of q(z|x)"]
    lines += [f"{d['dimension']:9d}  {d['mean']:6.3f}  {d['spread']:6.3f}  {d['sd']:6.3f}" for d in latent]
    return columns, (), {"latent": latent}, lines


def _tree(estimator: Any, rows: Any) -> _Assigned:
    """Of a tree the most probable state of every column."""
    states, names = estimator.encode(rows), estimator.domain_.feature_names
    count = estimator.latent_.describe().count
    share = [np.bincount(z, minlength=count) / max(len(z), 1) for z in states.T]
    used = [float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())) for p in share]
    columns = {f"state_{name}": z for name, z in zip(names, states.T, strict=True)}
    told = {
        "columns": [
            {"column": name, "states": int((p > 0).sum()), "perplexity": u}
            for name, p, u in zip(names, share, used, strict=True)
        ]
    }
    lines = ["states  perplexity  column"]
    lines += [f"{c['states']:6d}  {c['perplexity']:10.1f}  {c['column']}" for c in told["columns"]]
    return columns, tuple(columns), told, lines


#: By the kind of the latent.
_KINDS = {
    "none": _states,
    "discrete": _states,
    "tree": _tree,
    "codes": _codes,
    "continuous": _places,
}
