"""Training, validation and test parts of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modeflow.data.table import Table
from modeflow.errors import ConfigError, DataError

__all__ = ["Split", "split_table"]


@dataclass(frozen=True, eq=False)
class Split:
    """Three tables with the same columns.

    Models are chosen on `validation`; `test` is touched once. `indices` holds the row numbers of
    each part in the original table where the split was drawn here, None where it was published.
    """

    train: Table
    validation: Table
    test: Table
    indices: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        for part, name in ((self.validation, "validation"), (self.test, "test")):
            if part.columns != self.train.columns:
                raise DataError(f"the {name} part has other columns than the training part")

    def __iter__(self) -> Iterator[Table]:
        return iter((self.train, self.validation, self.test))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows in each part."""
        return len(self.train), len(self.validation), len(self.test)


def split_table(table: Table, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> Split:
    """Split rows at random.

    Arguments:
        table: N rows.
        seed: the permutation is ``numpy.random.default_rng(seed).permutation(N)``; the test part is
            its beginning, then validation, then training.
        validation, test: fractions of N in (0, 1); each part gets round(fraction · N) rows.

    Raises:
        ConfigError: a fraction outside (0, 1), or nothing left for training.
        DataError: the table is so small that a part would be empty.
    """
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0.0 < fraction < 1.0:
            raise ConfigError(f"{name}={fraction} must be a fraction between 0 and 1")
    if validation + test >= 1.0:
        raise ConfigError(f"validation={validation} and test={test} leave nothing for training")
    n = len(table)
    n_test, n_validation = round(test * n), round(validation * n)
    sizes = {"train": n - n_test - n_validation, "validation": n_validation, "test": n_test}
    for name, size in sizes.items():
        if size < 1:
            raise DataError(
                f"{n} rows are too few to split: the {name} part would be empty; add rows or "
                "change the fractions"
            )
    order = np.random.default_rng(seed).permutation(n)
    test_rows, rest = order[:n_test], order[n_test:]
    validation_rows, train_rows = rest[:n_validation], rest[n_validation:]
    return Split(
        table.take(train_rows),
        table.take(validation_rows),
        table.take(test_rows),
        (train_rows, validation_rows, test_rows),
    )
