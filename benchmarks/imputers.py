"""Who fills holes in the benchmark: ours, and what a person would use, each with its encoding of categories.

A contestant is given a table with holes, which of its columns are numbers, m and a seed, and gives back m
completed tables, and one of best guesses where it has its own.

- "NVF, leaves": a tree of states with leaves, exact conditionals; m draws, and the guess of ``how="mean"``.
- "NVF": what NVF takes itself by held-out rows, that tree or a flow over it with draws from a proposal.
- "mean": scikit-learn's `SimpleImputer`, means and the most frequent category.
- "KNN": `KNNImputer` with its defaults, numbers standardised, categories one-hot (0 or 1/√2, so that two
  categories are one apart); the column that is largest is the category.
- "iterative": `IterativeImputer` with its defaults (Bayesian ridge regression, ten rounds), columns
  standardised, categories as codes that are rounded afterwards: one-hot is out of its reach in time on tables
  with 40 levels. "iterative, draws": the same with ``sample_posterior``, m fits of m seeds.
- "miceforest": `ImputationKernel` with its defaults but for the settings named, which its time forces; it
  takes categories as they are (6.0.5 with LightGBM 4.5: with 4.7 it fails).

Rivals' filled numbers are left as they come; ours are values that the column can have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from modeflow import NVF

__all__ = ["IMPUTERS", "SETTINGS", "Filled", "installed"]

#: Of the contestants, where they are not their defaults.
SETTINGS: dict[str, Any] = {"miceforest": {"iterations": 3, "num_iterations": 30}}


@dataclass
class Filled:
    """Completed tables.

    Attributes:
        tables: as many as were drawn, one of who draws none. guess: the best guess, where it is another.
    """

    tables: list[pd.DataFrame]
    guess: pd.DataFrame | None = None


Imputer = Callable[[pd.DataFrame, Sequence[str], int, int], Filled]


def ours(**options: Any) -> Imputer:
    """NVF with these parameters, fitted to the rows that have a cell at all."""

    def fill(table: pd.DataFrame, numbers: Sequence[str], m: int, seed: int) -> Filled:
        model = NVF(random_state=seed, device="cpu", **options)
        model.fit(table[table.notna().any(axis=1)])
        (guess,) = model.impute(table, how="mean", random_state=seed)
        return Filled(model.impute(table, m, random_state=seed), guess)

    return fill


class Codes:
    """A table as numbers and back: numbers standardised, categories as codes or one-hot."""

    def __init__(self, table: pd.DataFrame, numbers: Sequence[str], one_hot: bool) -> None:
        self.table, self.one_hot = table, one_hot
        self.levels = {c: sorted(table[c].dropna().unique()) for c in table.columns if c not in numbers}
        of_numbers = table[list(numbers)].astype(float)
        self.mean, self.scale = of_numbers.mean(), of_numbers.std(ddof=0).replace(0.0, 1.0)

    def encode(self) -> np.ndarray:
        """The table, holes as NaN."""
        parts = []
        for name in self.table.columns:
            column = self.table[name]
            if name not in self.levels:
                parts.append(
                    ((column.astype(float) - self.mean[name]) / self.scale[name]).to_numpy()[:, None]
                )
                continue
            codes = pd.Categorical(column, categories=self.levels[name]).codes.astype(float)
            codes[codes < 0] = np.nan
            if self.one_hot:
                hot = (codes[:, None] == np.arange(len(self.levels[name]))) / np.sqrt(2)
                parts.append(np.where(np.isnan(codes)[:, None], np.nan, hot))
            else:
                parts.append(codes[:, None])
        return np.concatenate(parts, axis=1)

    def decode(self, filled: np.ndarray) -> pd.DataFrame:
        """The table with its holes filled."""
        found, at = self.table.copy(), 0
        for name in self.table.columns:
            empty = self.table[name].isna().to_numpy()
            if name not in self.levels:
                values = filled[:, at] * self.scale[name] + self.mean[name]
                found[name] = np.where(empty, values, self.table[name].astype(float))
                at += 1
                continue
            levels = self.levels[name]
            if self.one_hot:
                codes = filled[:, at : at + len(levels)].argmax(1)
                at += len(levels)
            else:
                codes = np.clip(np.round(filled[:, at]), 0, len(levels) - 1).astype(int)
                at += 1
            chosen = np.array(levels, dtype=object)[codes]
            found[name] = np.where(empty, chosen, self.table[name].astype(object))
        return found


def mean(table: pd.DataFrame, numbers: Sequence[str], m: int, seed: int) -> Filled:
    """Means and most frequent categories."""
    found = table.copy()
    for name in table.columns:
        strategy = "mean" if name in numbers else "most_frequent"
        imputer = SimpleImputer(missing_values=np.nan, strategy=strategy)
        column = table[[name]].astype(float if name in numbers else object)
        found[name] = imputer.fit_transform(column)[:, 0]
    return Filled([found])


def neighbours(table: pd.DataFrame, numbers: Sequence[str], m: int, seed: int) -> Filled:
    """Means of the five rows nearest in what both have."""
    codes = Codes(table, numbers, one_hot=True)
    return Filled([codes.decode(KNNImputer().fit_transform(codes.encode()))])


def iterative(draws: bool) -> Imputer:
    """Round-robin regressions."""

    def fill(table: pd.DataFrame, numbers: Sequence[str], m: int, seed: int) -> Filled:
        codes = Codes(table, numbers, one_hot=False)
        x = codes.encode()
        seeds = [1000 * seed + i for i in range(m if draws else 1)]
        return Filled(
            [
                codes.decode(IterativeImputer(sample_posterior=draws, random_state=s).fit_transform(x))
                for s in seeds
            ]
        )

    return fill


def chained_forests(table: pd.DataFrame, numbers: Sequence[str], m: int, seed: int) -> Filled:
    """Chained equations by LightGBM with predictive mean matching."""
    import miceforest

    said = SETTINGS["miceforest"]
    kinds = {c: float if c in numbers else "category" for c in table.columns}
    known = table.astype(kinds)
    kernel = miceforest.ImputationKernel(known, num_datasets=m, random_state=seed)
    kernel.mice(said["iterations"], num_iterations=said["num_iterations"], num_threads=1)
    return Filled([kernel.complete_data(dataset=i) for i in range(m)])


#: By name, with the module that each needs.
IMPUTERS: dict[str, tuple[str, Imputer]] = {
    "NVF, leaves": ("modeflow", ours(latent="tree", latent_options={"likelihood": "leaves"})),
    "NVF": ("modeflow", ours()),
    "mean": ("sklearn", mean),
    "KNN": ("sklearn", neighbours),
    "iterative": ("sklearn", iterative(draws=False)),
    "iterative, draws": ("sklearn", iterative(draws=True)),
    "miceforest": ("miceforest", chained_forests),
}


def installed() -> dict[str, Imputer]:
    """The contestants whose libraries are here."""
    return {name: imputer for name, (module, imputer) in IMPUTERS.items() if find_spec(module)}
