r"""Holes filled: MCAR, MAR and MNAR on six tables, by error, distances of distributions and coverage.

Cells of complete tables are taken out as `holes` says (HyperImpute's protocol), at shares of 0.1, 0.3 and
0.5, and filled by contestants that see the table with holes alone, to which they are fitted (`imputers`).
At most 5,000 rows of a table, drawn by the seed. Who draws gives m = 19 tables.

Measures, numbers in standard deviations of the complete column, categories one-hot (0 or 1/√2, so that two
categories are one apart):

- *RMSE* of the filled numbers, over all such cells, of the best guess: the contestant's own, or the mean of
  its tables. *Right*: share of filled categories that are those taken out, of the guess (the most frequent of
  its tables). A guess is not a draw: the best guess of every cell makes the worst distribution.
- *W1*: Wasserstein distance between the values filled in a column of numbers and those that were taken out of
  it, mean over columns, mean over tables.
- *Energy distance* of the rows that had holes, x completed and y complete,
  :math:`2 E|x - y| - E|x - x'| - E|y - y'|`, over all pairs of at most 2,000 such rows (a V-statistic, 0
  where both are the same), mean over at most five tables.
- *Energy score* of a row's filled cells, a proper score of their joint distribution, y the cells taken out
  and x the drawn ones: :math:`E|x - y| - \tfrac12 E|x - x'|`, over the m tables without bias, mean over rows
  with holes; of who draws none the distance :math:`|x - y|`.
- *Coverage*: share of numbers taken out that lie between the least and the greatest of the 19 draws, ties
  broken at random: were they one more draw, it would be 18/20 = 90 %.

Run: python benchmarks/imputation.py [--tables abalone] [--methods ...] [--mechanisms MAR] [--shares 0.3]
    [--seeds 0]    (miceforest where it is installed)
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

import imputers
from common import data_file, earlier_runs, write
from holes import MECHANISMS, holes

SHARES = (0.1, 0.3, 0.5)
TABLES = ("abalone", "adult", "credit_g", "magic", "power", "protein")
#: Columns of the household power table that the papers of flows keep.
_POWER = [0, 2, 4, 5, 6, 7]
SETTINGS: dict[str, Any] = {
    "rows": 5000,
    "tables": 19,
    "energy_rows": 2000,
    "energy_tables": 5,
    **imputers.SETTINGS,
}


def load(name: str, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Rows of a table, and which columns are numbers."""
    if name in ("power", "protein"):
        with np.load(data_file(f"tables/{'power_head' if name == 'power' else name}.npz")) as content:
            rows = content["x"][:, _POWER] if name == "power" else content["data"]
        table = pd.DataFrame(rows.astype(float), columns=[f"x{j}" for j in range(rows.shape[1])])
    else:
        file = "adult_train" if name == "adult" else name
        table = pd.read_csv(data_file(f"mixed/{file}.csv.gz"), keep_default_na=False)
    count = min(len(table), SETTINGS["rows"])
    table = table.sample(count, random_state=seed).reset_index(drop=True)
    table = table.loc[:, table.nunique() > 1]
    numbers = [str(c) for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]
    return table, numbers


class Space:
    """Rows as points, by the complete table: numbers in its standard deviations, categories one-hot."""

    def __init__(self, complete: pd.DataFrame, numbers: Sequence[str]) -> None:
        self.names, self.numbers = list(complete.columns), list(numbers)
        self.levels = {c: sorted(complete[c].unique()) for c in self.names if c not in numbers}
        values = complete[self.numbers].astype(float)
        self.mean, self.scale = values.mean(), values.std(ddof=0)
        #: Of every coordinate the place of its column in the table.
        self.column = np.repeat(
            np.arange(len(self.names)), [len(self.levels.get(c, "1")) for c in self.names]
        )

    def codes(self, table: pd.DataFrame) -> np.ndarray:
        """Numbers standardised, categories as codes, ``(N, D)``."""
        parts = [
            pd.Categorical(table[c], categories=self.levels[c]).codes.astype(float)
            if c in self.levels
            else ((table[c].astype(float) - self.mean[c]) / self.scale[c]).to_numpy()
            for c in self.names
        ]
        return np.column_stack(parts)

    def points(self, codes: np.ndarray) -> np.ndarray:
        """Coordinates of rows of `codes`, ``(N, E)``."""
        parts = [
            (codes[:, [j]] == np.arange(len(self.levels[c]))) / np.sqrt(2)
            if c in self.levels
            else codes[:, [j]]
            for j, c in enumerate(self.names)
        ]
        return np.concatenate(parts, axis=1)

    def guess(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """Of several completed tables the means of numbers and the most frequent categories, as codes."""
        found = np.mean(tables, axis=0)
        for j, name in enumerate(self.names):
            if name in self.levels:
                count = np.stack(
                    [np.sum([t[:, j] == k for t in tables], 0) for k in range(len(self.levels[name]))]
                )
                found[:, j] = count.argmax(0)
        return found


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """``2 E|x - y| - E|x - x'| - E|y - y'|`` over all pairs of rows ``(N, E)`` and ``(M, E)``."""
    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def energy_scores(draws: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Energy score of the coordinates in `mask` of every row, ``(N,)``.

    Arguments:
        draws: ``(m, N, E)``. truth, mask: ``(N, E)``.
    """

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt((np.where(mask, a - b, 0.0) ** 2).sum(1))

    m = len(draws)
    found = np.mean([apart(draw, truth) for draw in draws], axis=0)
    if m > 1:
        between = sum(apart(draws[i], draws[j]) for i in range(m) for j in range(i))
        found = found - between / (m * (m - 1))
    return np.asarray(found)


def covered(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether numbers lie between the least and the greatest of their draws, ties broken at random.

    Arguments:
        draws: ``(m, n)``. truth: ``(n,)``. rng: breaks the ties.
    """
    below, level = (draws < truth).sum(0), (draws == truth).sum(0)
    rank = below + rng.integers(0, level + 1)
    return np.asarray((rank > 0) & (rank < len(draws)))


def scores(
    space: Space,
    complete: pd.DataFrame,
    mask: np.ndarray,
    filled: imputers.Filled,
    seed: int,
) -> dict[str, Any]:
    """All measures of completed tables."""
    truth = space.codes(complete)
    tables = [np.where(mask, space.codes(table), truth) for table in filled.tables]
    guess = space.guess(tables) if filled.guess is None else np.where(mask, space.codes(filled.guess), truth)
    numeric = np.array([name not in space.levels for name in space.names])
    of_numbers, of_levels = mask & numeric, mask & ~numeric
    rng = np.random.default_rng([seed, 7])
    holed = np.flatnonzero(mask.any(1))
    some = np.sort(rng.permutation(holed)[: SETTINGS["energy_rows"]])
    points = np.stack([space.points(table) for table in tables])
    complete_points = space.points(truth)
    score = energy_scores(points[:, holed], complete_points[holed], mask[holed][:, space.column])
    found: dict[str, Any] = {
        "rmse": float(np.sqrt(np.mean((guess - truth)[of_numbers] ** 2))),
        "right": float((guess == truth)[of_levels].mean()) if of_levels.any() else None,
        "wasserstein": float(
            np.mean(
                [
                    wasserstein_distance(table[mask[:, j], j], truth[mask[:, j], j])
                    for j in np.flatnonzero(numeric & mask.any(0))
                    for table in tables
                ]
            )
        ),
        "energy_distance": float(
            np.mean(
                [energy_distance(p[some], complete_points[some]) for p in points[: SETTINGS["energy_tables"]]]
            )
        ),
        "energy_score": float(score.mean()),
        "energy_score_error": float(score.std(ddof=1) / np.sqrt(len(score))),
        "coverage": None,
    }
    if len(tables) > 1:
        draws = np.stack([table[of_numbers] for table in tables])
        inside = covered(draws, truth[of_numbers], rng).astype(float)
        of_row = np.bincount(np.nonzero(of_numbers)[0], inside, len(truth))
        count = of_numbers.sum(1)
        share = float(inside.mean())
        # Cells of a row lean on each other: rows are what is independent.
        spread = float(((of_row - share * count)[count > 0] ** 2).sum() ** 0.5 / count.sum())
        found |= {"coverage": share, "coverage_error": spread}
    return found


def measure(name: str, mechanism: str, share: float, method: str, seed: int) -> dict[str, Any]:
    """One contestant on one table with holes."""
    complete, numbers = load(name, seed)
    space = Space(complete, numbers)
    place = [MECHANISMS.index(mechanism), round(100 * share), seed]
    mask = holes(space.codes(complete), mechanism, share, np.random.default_rng(place))
    began = time.process_time()
    filled = imputers.installed()[method](complete.mask(mask), numbers, SETTINGS["tables"], seed)
    seconds = time.process_time() - began
    return {
        "table": name,
        "mechanism": mechanism,
        "share": share,
        "method": method,
        "seed": seed,
        "rows": len(complete),
        "columns": complete.shape[1],
        "numbers": len(numbers),
        "holes": int(mask.sum()),
        **scores(space, complete, mask, filled, seed),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = imputers.installed()
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--methods", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=MECHANISMS)
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = earlier_runs("imputation", settings=SETTINGS)
    keys = ("table", "mechanism", "share", "method", "seed")
    done = {tuple(run[key] for key in keys) for run in runs}
    cases = [
        (name, mechanism, share, method, seed)
        for seed in given.seeds
        for mechanism in given.mechanisms
        for share in given.shares
        for name in given.tables
        for method in given.methods
    ]
    for case in cases:
        if case in done:
            continue
        runs.append(measure(*case))
        write("imputation", {"settings": SETTINGS, "runs": runs})
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)


if __name__ == "__main__":
    main()
