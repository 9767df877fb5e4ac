r"""The Gaussian copula that is most used for synthetic rows, fitted to the same rows, where it is installed.

.. math:: u_j = \Phi^{-1}(F_j(x_j)), \qquad u \sim N(0, \Sigma)

with beta distributions F_j, as the synthesizer of SDV has them: its own library, `copulas`, fits and draws.
Levels are numbers first, spread evenly over intervals of [0, 1] as long as their shares.

Reference:
    Patki et al., *The Synthetic Data Vault*, 2016, https://doi.org/10.1109/DSAA.2016.49
"""

from __future__ import annotations

import warnings

import numpy as np

from modeflow.data.columns import TableSchema

__all__ = ["NEEDED", "copula_rows"]

#: What to do where there is none.
NEEDED = "with `pip install copulas` (or sdv) a Gaussian copula stands beside"


def copula_rows(schema: TableSchema, train: np.ndarray, n: int, seed: int = 0) -> np.ndarray | None:
    """Rows of a Gaussian copula fitted to encoded rows ``(N, D)``, encoded too, ``(n, D)``; None where
    `copulas` is not installed, or cannot fit these rows.

    Missing cells are filled by others of their column, drawn at random: the rows drawn have none.
    """
    try:
        import pandas as pd
        from copulas.multivariate import GaussianMultivariate
        from copulas.univariate import BetaUnivariate
    except ImportError:
        return None
    rng = np.random.default_rng(seed)
    places, shares = {}, {}
    for j, (name, feature) in enumerate(zip(schema.names, schema.features(), strict=True)):
        cells = train[:, j]
        known = cells[np.isfinite(cells)]
        if not len(known):
            return None
        filled = np.where(np.isfinite(cells), cells, rng.choice(known, len(cells)))
        if feature.levels:
            codes = filled.astype(np.int64)
            ends = np.cumsum(np.bincount(codes, minlength=feature.levels)) / len(codes)
            shares[name] = ends
            filled = rng.uniform(np.append(0.0, ends[:-1])[codes], ends[codes])
        places[name] = filled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits of single columns, which are as good as they are
            model = GaussianMultivariate(distribution=BetaUnivariate, random_state=seed)
            model.fit(pd.DataFrame(places))
            drawn = model.sample(n)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None
    found = np.empty((n, schema.dim))
    for j, column in enumerate(schema.modelled):
        values = np.asarray(drawn[column.name], dtype=np.float64)
        if column.name in shares:
            last = len(shares[column.name]) - 1
            found[:, j] = np.minimum(np.searchsorted(shares[column.name], values, side="right"), last)
        else:  # to values that the column can have
            known = np.nan_to_num(values, nan=float(np.mean(places[column.name])))
            found[:, j] = column.encode(column.decode(known))
    return found
