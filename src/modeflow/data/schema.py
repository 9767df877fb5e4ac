"""What each column of a table is, and the checks that a table passes before a model sees it.

Whole-number columns have probabilities, not densities: a continuous model fitted to them can put an
unbounded density on the grid of integers, and its likelihood then means nothing. They are
dequantised instead. With y a real vector and p its density, a row n of integers has the probability

    P(n) = ∫_{[-1/2, 1/2]^D} p(n + u) du = E_u p(n + u),        u ~ U(-1/2, 1/2)^D.

Training adds fresh u to every row, which maximises the bound E_u log p(n + u) <= log P(n) (Jensen).
Scoring averages over S offsets: log (1/S) Σ_s p(n + u_s) is, for uniform u_s, in expectation a
lower bound of log P(n); the bound tightens as S grows and converges to log P(n). In a table that
also has continuous columns the same formula gives their density times the probability of the
integers. The u_s of a row are evenly spread points (Sobol), digitally shifted by a random vector of the
row's own: each u_s is uniform, so that the bound holds in expectation, the points stay evenly spread,
and the errors of different rows are independent, so that a standard error over rows counts them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from modeflow.data.table import check_finite
from modeflow.errors import ConfigError, DataError, nearest
from modeflow.transforms.noise import row_noise, uniform_noise

__all__ = ["Kind", "Schema", "check_fit_table"]

Kind = Literal["continuous", "integer"]

# One scrambled Sobol sequence, shifted for each row: a score depends on nothing but the row.
_OFFSET_SEED = 20221122
# Ties are looked for in at most this many rows: enough to see them, quick on millions.
_TIE_ROWS = 100_000


@dataclass(frozen=True)
class Schema:
    """Names and kinds of the columns a model was fitted on.

    Arguments:
        columns: the D column names, in the order of the model's dimensions.
        kinds: "continuous" or "integer" for each.
    """

    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.kinds):
            raise ConfigError(f"{len(self.columns)} columns but {len(self.kinds)} kinds in the schema")
        if len(set(self.columns)) != len(self.columns):
            raise ConfigError("a column name occurs twice in the schema")
        for name, kind in zip(self.columns, self.kinds, strict=True):
            if kind not in ("continuous", "integer"):
                raise ConfigError(f"column '{name}' has kind '{kind}'; use 'continuous' or 'integer'")

    @property
    def dim(self) -> int:
        """Number of columns, D."""
        return len(self.columns)

    @property
    def integer_columns(self) -> tuple[str, ...]:
        """Names of the columns that are dequantised."""
        pairs = zip(self.columns, self.kinds, strict=True)
        return tuple(name for name, kind in pairs if kind == "integer")

    @property
    def _integer(self) -> np.ndarray:
        return np.array([i for i, kind in enumerate(self.kinds) if kind == "integer"], dtype=np.intp)

    def to_dict(self) -> dict[str, list[str]]:
        """The schema as plain lists, for config files."""
        return {"columns": list(self.columns), "kinds": list(self.kinds)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """The schema that `to_dict` wrote; ConfigError if it is not one."""
        try:
            columns, kinds = data["columns"], data["kinds"]
        except (KeyError, TypeError) as error:
            raise ConfigError("a schema needs 'columns' and 'kinds'") from error
        if isinstance(columns, str) or isinstance(kinds, str):
            raise ConfigError("a schema's 'columns' and 'kinds' are lists")
        return cls(tuple(str(c) for c in columns), tuple(kinds))

    @classmethod
    def infer(
        cls,
        values: np.ndarray,
        columns: Sequence[str],
        dequantize: Literal["auto", "none"] | Sequence[str] = "auto",
    ) -> Schema:
        """Decide which columns are whole numbers.

        Arguments:
            values: array (N, D).
            columns: D names.
            dequantize: "auto" makes every column whose values are all whole "integer"; "none" makes
                all "continuous"; a list names the integer columns.

        Raises:
            ConfigError: an unknown mode or column name.
            DataError: a listed column holds a value that is not whole (column and row are named).
        """
        values = _matrix(values, len(columns))
        if isinstance(dequantize, str):
            if dequantize == "none":
                unset: list[Kind] = ["continuous"] * len(columns)
                return cls(tuple(columns), tuple(unset))
            if dequantize != "auto":
                raise ConfigError(
                    f"dequantize='{dequantize}' is not known; use 'auto', 'none' or column names"
                )
            whole = [_is_whole(column) for column in values.T]
        else:
            for name in dequantize:
                if name not in columns:
                    hint = nearest(name, columns) or f"; the columns are {_listing(columns)}"
                    raise ConfigError(f"dequantize names an unknown column '{name}'{hint}")
            whole = [name in dequantize for name in columns]
            for i, name in enumerate(columns):
                if whole[i]:
                    _require_whole(values[:, i], name)
        kinds: list[Kind] = ["integer" if w else "continuous" for w in whole]
        return cls(tuple(columns), tuple(kinds))

    def validate(self, values: np.ndarray, columns: Sequence[str] | None = None) -> np.ndarray:
        """Check rows to be scored and bring them into the model's column order.

        Arguments:
            values: array (N, D).
            columns: their names; None where they have none (then only the count is checked).

        Returns:
            float64 array (N, D) in the order of `self.columns`.

        Raises:
            DataError: other columns (missing and unexpected ones are named), another count, NaN or
                infinite values, or a fraction in an integer column.
        """
        values = _matrix(values, None if columns is None else len(columns))
        if columns is None:
            if values.shape[1] != self.dim:
                raise DataError(
                    f"the model has {self.dim} columns ({_listing(self.columns)}), "
                    f"the data {values.shape[1]}; give the same columns"
                )
        elif tuple(columns) != self.columns:
            missing = [c for c in self.columns if c not in columns]
            extra = [c for c in columns if c not in self.columns]
            if missing or extra or len(columns) != self.dim:
                parts = []
                if missing:
                    parts.append(f"missing {_listing(missing)}")
                if extra:
                    parts.append(f"unexpected {_listing(extra)}")
                if not parts:
                    parts.append("a column is given twice")
                raise DataError(f"the columns differ from the model's: {'; '.join(parts)}")
            values = values[:, [list(columns).index(c) for c in self.columns]]
        check_finite(values, self.columns, "the data")
        for i in self._integer:
            _require_whole(values[:, i], self.columns[i])
        return values

    def dequantize(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add u ~ U(-1/2, 1/2) to the integer columns of an (N, D) array; returns a copy."""
        noisy = np.array(values, dtype=np.float64)
        integer = self._integer
        if len(integer):
            noisy[:, integer] += rng.uniform(-0.5, 0.5, size=(len(noisy), len(integer)))
        return noisy

    def averaged(
        self, log_prob: Callable[[np.ndarray], np.ndarray], values: np.ndarray, n_draws: int
    ) -> np.ndarray:
        """Logarithm of the mean density over each row's offsets.

        The offsets are a function of the row, so a score depends neither on the batch nor on a seed.

        Arguments:
            log_prob: from (N, D) dequantised rows to their log-densities, shape (N,) or (N, K).
            values: rows (N, D).
            n_draws: offsets to a row. Where no column is integer the rows are scored as they are.

        Returns:
            What `log_prob` returns, averaged.

        Raises:
            ConfigError: fewer than one draw.
        """
        if n_draws < 1:
            raise ConfigError(f"n_draws={n_draws} must be at least 1")
        integer = self._integer
        if not len(integer):
            return log_prob(values)
        with row_noise(torch.from_numpy(np.ascontiguousarray(values)), _OFFSET_SEED):
            shift = uniform_noise(torch.zeros(len(values), len(integer), dtype=torch.float64)).numpy()
        shift = (shift * 2**53).astype(np.int64)
        tiny = np.finfo(np.float64).eps
        total: np.ndarray | None = None
        for point in (self._points(n_draws) * 2**53).astype(np.int64):
            noisy = np.array(values, dtype=np.float64)
            noisy[:, integer] += np.clip((point ^ shift) * 2.0**-53 - 0.5, -0.5 + tiny, 0.5 - tiny)
            score = log_prob(noisy)
            total = score if total is None else np.logaddexp(total, score)
        return np.asarray(total) - math.log(n_draws)

    def _points(self, n_draws: int) -> np.ndarray:
        """Evenly spread points of the unit cube, shape (S, integer columns)."""
        from scipy.stats import qmc

        generator = np.random.default_rng(_OFFSET_SEED)
        try:
            sobol = qmc.Sobol(len(self._integer), scramble=True, rng=generator)
        except TypeError:  # scipy < 1.15 calls the argument `seed`
            sobol = qmc.Sobol(len(self._integer), scramble=True, seed=generator)
        # Drawn in powers of two, the number for which Sobol points are balanced; a prefix is kept.
        return np.asarray(sobol.random_base2(int(n_draws - 1).bit_length())[:n_draws])

    def quantize(self, samples: np.ndarray) -> np.ndarray:
        """Round the integer columns of samples (..., D) to the nearest whole number; returns a
        copy.

        The bins are those of `dequantize`: a sample n + u with |u| < 1/2 becomes n.
        """
        whole = np.array(samples, dtype=np.float64)
        integer = self._integer
        whole[..., integer] = np.floor(whole[..., integer] + 0.5)
        return whole


def check_fit_table(
    values: np.ndarray,
    columns: Sequence[str],
    min_rows: int = 10,
    schema: Schema | None = None,
) -> None:
    """Refuse a table from which no density can be learned; warn where one may be unbounded.

    Arguments:
        values: array (N, D).
        columns: D names.
        min_rows: fewest rows accepted.
        schema: kinds of the columns; without it the whole-number columns count as dequantised.

    Raises:
        DataError: too few rows, NaN or infinite values, a constant column, or fewer than three
            distinct rows.

    Warns:
        UserWarning: a continuous column repeats its values (more than half of the rows share theirs
            with another row, or one value fills more than a fifth of the rows).
    """
    values = _matrix(values, len(columns))
    n, d = values.shape
    if d == 0:
        raise DataError("the table has no columns")
    if n < min_rows:
        raise DataError(f"the table has {n} rows; at least {min_rows} are needed")
    check_finite(values, columns, "the table")
    if _few_distinct_rows(values):
        raise DataError("the table has fewer than 3 distinct rows; a density needs rows that differ")
    constant = [name for name, c in zip(columns, values.T, strict=True) if c.min() == c.max()]
    if constant:
        plural = "s are" if len(constant) > 1 else " is"
        raise DataError(f"column{plural} constant: {_listing(constant)}; drop before fitting")
    if schema is None:
        schema = Schema.infer(values, columns)
    _warn_of_ties(values, columns, schema)


def _warn_of_ties(values: np.ndarray, columns: Sequence[str], schema: Schema) -> None:
    if len(values) > _TIE_ROWS:
        rows = np.random.default_rng(0).choice(len(values), _TIE_ROWS, replace=False)
        values = values[rows]
    tied = [
        (name, _is_whole(column))
        for name, kind, column in zip(columns, schema.kinds, values.T, strict=True)
        if kind == "continuous" and _has_heavy_ties(column)
    ]
    if not tied:
        return
    whole = [name for name, is_whole in tied if is_whole]
    rounded = [name for name, is_whole in tied if not is_whole]
    advice = []
    if whole:
        advice.append(f"pass dequantize=[{_listing(whole)}]")
    if rounded:
        advice.append(f"scale {_listing(rounded)} to whole numbers and pass dequantize=[...], or drop")
    warnings.warn(
        f"values repeat in {_listing([name for name, _ in tied])}: a continuous density may be "
        f"unbounded there and its likelihood meaningless; {'; '.join(advice)}",
        UserWarning,
        stacklevel=4,
    )


def _has_heavy_ties(column: np.ndarray) -> bool:
    counts = np.unique(column, return_counts=True)[1]
    n = len(column)
    return bool(counts[counts > 1].sum() > 0.5 * n or counts.max() > 0.2 * n)


def _few_distinct_rows(values: np.ndarray, least: int = 3) -> bool:
    # Nearly every table shows enough distinct rows at once; only the others are searched in full.
    if len(np.unique(values[:100], axis=0)) >= least:
        return False
    return len(np.unique(values, axis=0)) < least


def _is_whole(column: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(column)) and np.all(column == np.round(column)))


def _require_whole(column: np.ndarray, name: str) -> None:
    wrong = np.flatnonzero(column != np.round(column))
    if len(wrong):
        raise DataError(
            f"integer column '{name}', data row {wrong[0] + 1} holds {column[wrong[0]]:g}; "
            "give whole numbers or do not dequantise this column"
        )


def _matrix(values: np.ndarray, columns: int | None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
    if columns is not None and values.shape[1] != columns:
        raise DataError(f"{columns} column names given for {values.shape[1]} columns")
    return values


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in list(names)[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
