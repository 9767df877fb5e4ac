"""The reasons for which a row is odd, in words: the columns whose cells say more than is expected of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["reasons_text", "telling_columns"]

#: Columns named in `reasons_text`, and nats above what is expected from which one is.
_NAMED, _TELLING = 3, 1.0


def telling_columns(excess: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    """The columns of a row that make it odd, the first most.

    Arguments:
        excess: nats by which each cell is more surprising than expected, ``(D,)``; NaN where it is missing.
        names: of the columns, D of them.
    """
    order = np.argsort(-np.nan_to_num(excess, nan=-np.inf), kind="stable")[:_NAMED]
    return [(names[j], excess[j]) for j in order if excess[j] >= _TELLING]


def reasons_text(excess: np.ndarray, names: Sequence[str]) -> str:
    """The same for people; where no column alone is odd all are said to be so together."""
    telling = telling_columns(excess, names)
    said = (f"{name} ({v:+.1f})" if np.isfinite(v) else f"{name} (no value of it)" for name, v in telling)
    return ", ".join(said) or "no column by itself"
