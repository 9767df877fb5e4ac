r"""Cells taken out of complete tables: at random, by what is seen, by what is not.

The mechanisms of Muzellec et al. (2020) in the form of HyperImpute's benchmark (Jarrett et al., 2022):
columns in [0, 1], categories by their codes; a logistic model of a row has weights uniform in [0, 1],

.. math:: P(\text{cell } ij \text{ missing}) = \sigma(w_j^\top x_{i, S} + b_j), \qquad
    w_j \text{ scaled so that } \mathrm{sd}_i(w_j^\top x_{i, S}) = 1,

and b_j such that a share p of the column is missing in the mean.

- MCAR: every cell is missing with probability p.
- MAR: S, 30 % of the columns (at least one), drawn at random, have no holes; the others have theirs by the
  logistic model of S.
- MNAR: the others' holes are those of MAR, and then each cell of S is missing with probability p, so that
  what decided is hidden too.

HyperImpute's own program masks at most eight columns and has half of them in S; here all columns take part
and S is 30 %, as in Muzellec et al.

References:
    Muzellec, Josse, Boyer, Cuturi, *Missing Data Imputation using Optimal Transport*, 2020,
    https://arxiv.org/abs/2002.03860; Jarrett, Cebere, Liu, Curth, van der Schaar, *HyperImpute: Generalized
    Iterative Imputation with Automatic Model Selection*, 2022, https://arxiv.org/abs/2206.07769
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

__all__ = ["MECHANISMS", "OBSERVED", "holes"]

MECHANISMS = ("MCAR", "MAR", "MNAR")
#: Share of the columns that decide what is missing in the others.
OBSERVED = 0.3


def holes(x: np.ndarray, mechanism: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which cells of numbers ``(N, D)`` are taken out, ``(N, D)``.

    Arguments:
        x: the table, categories as codes. mechanism: of `MECHANISMS`. share: p, of a column with holes.
        rng: source of randomness.
    """
    rows, columns = x.shape
    if mechanism == "MCAR":
        return rng.random(x.shape) < share
    low, high = x.min(0), x.max(0)
    scaled = (x - low) / np.where(high > low, high - low, 1.0)
    decide = rng.choice(columns, max(1, int(OBSERVED * columns)), replace=False)
    others = np.setdiff1d(np.arange(columns), decide)
    mask = np.zeros(x.shape, dtype=bool)
    mask[:, others] = rng.random((rows, len(others))) < _logistic(scaled[:, decide], len(others), share, rng)
    if mechanism == "MNAR":
        mask[:, decide] = rng.random((rows, len(decide))) < share
    return mask


def _logistic(x: np.ndarray, count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of so many columns, ``(N, count)``, in the mean `share` each."""
    scores = x @ rng.random((x.shape[1], count))
    scores /= np.maximum(scores.std(0), 1e-12)
    ends = [brentq(lambda b, s=s: expit(s + b).mean() - share, -1e3, 1e3) for s in scores.T]
    return np.asarray(expit(scores + np.array(ends)))
