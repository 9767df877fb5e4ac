"""`modeflow anomalies`."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeflow.cli.commands._files import Seen, parts_to_score
from modeflow.cli.commands._many import Outcome, over_files
from modeflow.cli.commands._odd_images import picture_of, show_odd
from modeflow.cli.commands._output import say, say_unscored, say_wrote
from modeflow.errors import ConfigError

#: Rows told without -o.
_TOLD = 10


def run(args: argparse.Namespace) -> int:
    """Rank every row among the test rows of the run; say of the odd ones which columns make them so, or show
    them, where they are images."""
    if not 0 < args.alpha < 1:
        raise ConfigError(f"--alpha must lie between 0 and 1, received {args.alpha:g}")
    if args.top is not None and args.top < 1:
        raise ConfigError(f"--top must be 1 or more, received {args.top}")
    return over_files(args, "anomalies", handle)


@dataclass(frozen=True)
class _Told:
    """A row that is told: sorted by how odd it is."""

    p: float
    score: float
    row: int
    excess: np.ndarray

    @property
    def place(self) -> tuple[float, float]:
        return self.p, self.score


def handle(args: argparse.Namespace, fitted: Any) -> Outcome:
    """The odd rows of one source, part by part."""
    from modeflow.data.columns.files import check_frame_file
    from modeflow.data.columns.writing import TableWriter
    from modeflow.metrics import rank_p_values

    if args.out:
        check_frame_file(args.out)
    estimator = fitted.estimator
    # Of images no column is told: they are shown.
    domain, names = estimator.domain_, tuple(estimator.domain_.facts.get("columns", ()))
    picture = picture_of(args.out) if domain.pictured else None
    ranking, shown = _ranking(args, fitted), dict[int, np.ndarray]()
    held = ranking.held
    seen, told, odd, scored, said = Seen(), list[_Told](), 0, 0, "exact"
    with TableWriter(args.out) as out:
        for rows in parts_to_score(args, fitted, "score"):
            scores, kind = ranking.scores(rows.values)
            said = kind if rows.whole else ranking.kind  # one word for all parts
            # Of a row without a cell nothing is said.
            p = np.where(np.isin(rows.rows, rows.empty), np.nan, rank_p_values(scores, held))
            order = np.lexsort((scores, p))
            found = order[p[order] <= args.alpha]
            odd, scored = odd + len(found), scored + int((~np.isnan(p)).sum())
            if args.top is not None:
                found = order[~np.isnan(p[order])][: args.top]
                if len(told) >= args.top:  # those that cannot be among the first are not explained
                    found = found[[(p[i], scores[i]) < told[-1].place for i in found]]
            excess = np.zeros((len(found), len(names)))
            if len(found) and names:
                excess = ranking.excess(rows.values, found)
            if args.out and args.top is None:
                out.add_frame(_frame(rows, scores, p, found, excess, names, ranking.column(said)))
            told += [
                _Told(float(p[i]), float(scores[i]), rows.first + int(rows.rows[i]), each)
                for i, each in zip(found, excess, strict=True)
            ]
            told = sorted(told, key=lambda row: row.place)[: args.top or _TOLD]
            if picture is not None:
                shown |= {rows.first + int(rows.rows[i]): rows.values[i] for i in found}
                shown = {row.row: shown[row.row] for row in told}
            seen.add(rows)
        if args.out and args.top is not None:
            out.add_frame(_top_frame(told, names, ranking.column(said)))
    word = f"{domain.word}s"
    if args.out:
        words = (
            f"{seen.total} {word}" if args.top is None else f"the {len(told)} oddest of {seen.total} {word}"
        )
        say_wrote(args, words)
    if picture is not None and told:
        show_odd(picture, estimator, np.stack([shown[row.row] for row in told]))
        say(args, f"wrote {picture}: the oddest, and below each what the model gives back")
    say_unscored(seen.rows)
    result = {
        "run": args.run_folder,
        "data": args.data,
        "rows": seen.total,
        "rows_held_out": len(held),
        "alpha": args.alpha,
        "odd": odd,
        "by": ranking.by,
        **({"density": said} if ranking.by == "density" else {}),
        "oddest_rows": [
            {
                "row": row.row + 1,
                ranking.word: row.score,
                "p_value": row.p,
                **({"why": _reasons(row.excess, names)} if names else {}),
            }
            for row in told
        ],
        **seen.told("row"),
        "interrupted": fitted.interrupted,
        "out": args.out,
        **({} if picture is None or not told else {"picture": str(picture)}),
    }
    if args.by is None and ranking.by == "density" and domain.stacks:
        say(args, "the run has no detector (fit anew for one), so that rows are ranked by its density")
    lines = _lines(odd, scored, told, names, len(held), args, word)
    return Outcome(result, lines, seen.total)


class _ByDensity:
    """Rows ranked by the density of the run.

    Attributes:
        by: what rows are ranked by. word: a score, in JSON. kind: what the scores are.
        held: scores of the test rows.
    """

    by, word = "density", "log_density"

    def __init__(self, fitted: Any) -> None:
        self._estimator, self.held = fitted.estimator, fitted.held_scores()
        self.kind: str = self._estimator.density_kind_
        self._usual: np.ndarray | None = None

    def scores(self, values: Any) -> tuple[np.ndarray, str]:
        """Of rows, and what these are."""
        scores, _, kind = self._estimator.scores(values)
        return scores, kind

    def column(self, kind: str) -> str:
        """What a column of scores is called."""
        return self.word if kind == "exact" else f"{self.word}_{kind.replace(' ', '_')}"

    def excess(self, values: Any, some: np.ndarray) -> np.ndarray:
        """What every cell of some rows is more surprising than expected, nats, ``(n, D)``."""
        from sklearn.utils import _safe_indexing

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what there is to say of the rows was said of all
            if self._usual is None:
                self._usual = self._estimator.expected_surprises()
            return np.asarray(self._estimator.surprises(_safe_indexing(values, some)) - self._usual)


class _ByNoise(_ByDensity):
    """Rows ranked by the detector of the run: their density through noise."""

    by, word, kind = "noise", "log_density_through_noise", "exact"

    def __init__(self, detector: Any) -> None:
        self._detector, self.held = detector, detector.held_scores_

    def scores(self, values: Any) -> tuple[np.ndarray, str]:
        return self._detector.score_samples(values), self.kind

    def excess(self, values: Any, some: np.ndarray) -> np.ndarray:
        from sklearn.utils import _safe_indexing

        return np.asarray(self._detector.contributions(_safe_indexing(values, some)))


def _ranking(args: argparse.Namespace, fitted: Any) -> _ByDensity:
    """What rows are ranked by: as asked for, or the detector where the run has one."""
    detector = None if args.by == "density" else fitted.detector
    if detector is not None:
        return _ByNoise(detector)
    if args.by == "noise":
        raise ConfigError(
            f"'{args.run_folder}' has no detector to rank by: fit a table of complete numbers anew, without "
            "--no-detector, or leave out --by"
        )
    return _ByDensity(fitted)


def _reasons(excess: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    from modeflow.estimators.reasons import telling_columns

    return {name: float(value) for name, value in telling_columns(excess, names)}


def _why(excess: np.ndarray, names: tuple[str, ...]) -> str:
    from modeflow.estimators.reasons import reasons_text

    return reasons_text(excess, names)


def _frame(
    rows: Any,
    scores: np.ndarray,
    p: np.ndarray,
    told: np.ndarray,
    excess: np.ndarray,
    names: tuple[str, ...],
    column: str,
) -> Any:
    """A line for every row of a part; of those that are told, what each column adds."""
    import polars as pl

    cells = np.full((len(scores), len(names)), np.nan)
    cells[told] = excess
    why: list[str | None] = [None] * len(scores)
    for i, each in zip(told, excess, strict=True):
        why[int(i)] = _why(each, names)
    columns: dict[str, Any] = {
        "row": rows.first + rows.rows + 1,
        column: scores,
        "p_value": p,
        **({"why": pl.Series(why, dtype=pl.String)} if names else {}),
    } | {f"nats_{name}": cells[:, j] for j, name in enumerate(names)}
    frame = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    if rows.bad:  # a line for the rows that have no score, in their places
        full = pl.DataFrame({"row": rows.first + np.arange(1, rows.total + 1)})
        frame = full.join(frame, on="row", how="left", maintain_order="left")
    return frame


def _top_frame(told: list[_Told], names: tuple[str, ...], column: str) -> Any:
    """A line for each of the oddest rows."""
    import polars as pl

    cells = np.array([row.excess for row in told]).reshape(len(told), len(names))
    columns: dict[str, Any] = {
        "row": np.array([row.row + 1 for row in told], dtype=np.int64),
        column: np.array([row.score for row in told]),
        "p_value": np.array([row.p for row in told]),
        **({"why": pl.Series([_why(r.excess, names) for r in told], dtype=pl.String)} if names else {}),
    } | {f"nats_{name}": cells[:, j] for j, name in enumerate(names)}
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def _lines(
    odd: int,
    scored: int,
    told: list[_Told],
    names: tuple[str, ...],
    held: int,
    args: argparse.Namespace,
    word: str,
) -> list[str]:
    lines = [
        f"{odd} of {scored} {word} have a p-value of at most {args.alpha:g} among {held} test {word} "
        f"({args.alpha * scored:.1f} would if all were usual)"
    ]
    least = 1 / (held + 1)
    if least > args.alpha:
        lines.append(f"no p-value is below {least:.2g}: hold out more {word} (modeflow fit --test)")
    if told:
        why = "  why (nats more surprising than expected, given the other columns)" if names else ""
        lines.append(f"     row  p-value{why}")
        lines += [
            f"{r.row + 1:8d}  {r.p:7.4f}  {_why(r.excess, names) if names else ''}".rstrip() for r in told
        ]
    if args.top is None and odd > len(told):
        lines.append(f"and {odd - len(told)} more: -o FILE writes all")
    return lines
