"""`modeflow assign`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import Seen, parts_to_score
from modeflow.cli.commands._many import Outcome, over_files
from modeflow.cli.commands._output import say_unscored, say_wrote
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """z of every row: posterior over the states, a state a column, codes, or the place on a continuous z."""
    return over_files(args, "assign", handle)


def handle(args: argparse.Namespace, fitted: Any) -> Outcome:
    """z of the rows of one source, part by part."""
    from modeflow.data.columns.writing import TableWriter
    from modeflow.estimators import assigned_columns

    estimator, latent = fitted.estimator, fitted.estimator.latent_.describe()
    if latent.kind == "none" and estimator.domain_.name != "table":
        raise ConfigError("the model has no latent: there is nothing to assign")
    word, seen, rows = estimator.domain_.word, Seen(), 0
    told = _KINDS[latent.kind](estimator)
    with TableWriter(args.out) as out:
        for part in parts_to_score(args, fitted, "assign"):
            columns, whole = assigned_columns(estimator, part.values)
            told.add(columns)
            numbers = part.first + np.arange(1, part.total + 1)
            values = np.column_stack([numbers, part.spread(np.column_stack([*columns.values()]))])
            out.add(values, (word, *columns), (word, *whole))
            seen.add(part)
            rows += len(part.rows)
    if args.out:
        say_wrote(args, f"{seen.total} {word}s, {latent.words}")
    say_unscored(seen.rows, latent.unit or "state")
    found, lines = told.told()
    result = {"run": args.run_folder, "data": args.data, f"{word}s": rows, **found, "out": args.out}
    return Outcome(result, lines, seen.total)


#: What there is to say of all parts as plain values, and for people.
_Told = tuple[dict[str, Any], list[str]]


class _States:
    """Of states how many rows each has."""

    def __init__(self, estimator: Any) -> None:
        self.weights = estimator.weights_
        self.counts = np.zeros(len(self.weights), dtype=np.int64)
        self.probability = 0.0

    def add(self, columns: dict[str, np.ndarray]) -> None:
        self.counts += np.bincount(columns["state"], minlength=len(self.weights))
        self.probability += float(columns["probability"].sum())

    def told(self) -> _Told:
        rows = max(int(self.counts.sum()), 1)
        mean = self.probability / rows
        told = {
            "states": [
                {"state": k, "prior": float(self.weights[k]), "rows": int(count)}
                for k, count in enumerate(self.counts)
            ],
            "mean_probability": mean,
        }
        lines = ["state   prior    rows   share"]
        lines += [
            f"{k:5d}  {self.weights[k]:6.3f}  {count:6d}  {count / rows:6.3f}"
            for k, count in enumerate(self.counts)
        ]
        return told, [*lines, f"mean probability of the state assigned: {mean:.3f}"]


class _Codes:
    """Of codes how often each is."""

    def __init__(self, estimator: Any) -> None:
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, columns: dict[str, np.ndarray]) -> None:
        new = np.bincount(np.concatenate([*columns.values()]), minlength=len(self.counts))
        new[: len(self.counts)] += self.counts
        self.counts = new

    def told(self) -> _Told:
        told = {"codes": [{"code": k, "count": int(c)} for k, c in enumerate(self.counts)]}
        return told, [f"code {k}: {c}" for k, c in enumerate(self.counts) if c]


class _Places:
    """Of a continuous z the mean and the spread of every dimension, by sums over the parts."""

    def __init__(self, estimator: Any) -> None:
        self.rows = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        self.scale: Any = 0.0

    def add(self, columns: dict[str, np.ndarray]) -> None:
        means = {name: m for name, m in columns.items() if not name.endswith("_sd")}
        z = np.column_stack([*means.values()])
        scales = np.column_stack([columns[f"{name}_sd"] for name in means])
        if not len(z):
            return
        n, before = len(z), self.rows
        self.rows += n
        apart = z.mean(0) - self.mean
        self.squares = self.squares + z.var(0) * n + apart**2 * (before * n / self.rows)
        self.mean = self.mean + apart * (n / self.rows)
        self.scale = self.scale + (scales.mean(0) - self.scale) * (n / self.rows)

    def told(self) -> _Told:
        spread = np.sqrt(self.squares / max(self.rows, 1))
        latent = [
            {"dimension": j, "mean": float(m), "spread": float(s), "sd": float(sd)}
            for j, (m, s, sd) in enumerate(zip(self.mean, spread, self.scale, strict=True))
        ]
        lines = ["dimension    mean  spread   scale of q(z|x)"]
        lines += [
            f"{d['dimension']:9d}  {d['mean']:6.3f}  {d['spread']:6.3f}  {d['sd']:6.3f}" for d in latent
        ]
        return {"latent": latent}, lines


class _Tree:
    """Of a tree how many states of every column are in use."""

    def __init__(self, estimator: Any) -> None:
        self.names = estimator.domain_.feature_names
        self.counts = np.zeros((len(self.names), estimator.latent_.describe().count), dtype=np.int64)

    def add(self, columns: dict[str, np.ndarray]) -> None:
        self.counts += [np.bincount(z, minlength=self.counts.shape[1]) for z in columns.values()]

    def told(self) -> _Told:
        share = self.counts / max(int(self.counts[0].sum()), 1)
        used = [float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())) for p in share]
        columns = [
            {"column": name, "states": int((p > 0).sum()), "perplexity": u}
            for name, p, u in zip(self.names, share, used, strict=True)
        ]
        lines = ["states  perplexity  column"]
        lines += [f"{c['states']:6d}  {c['perplexity']:10.1f}  {c['column']}" for c in columns]
        return {"columns": columns}, lines


#: By the kind of the latent.
_KINDS: dict[str, type[_States | _Codes | _Places | _Tree]] = {
    "none": _States,
    "discrete": _States,
    "tree": _Tree,
    "codes": _Codes,
    "continuous": _Places,
}
