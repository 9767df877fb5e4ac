r"""The rank of a score among those of rows that were held out: how often a usual row is as odd."""

from __future__ import annotations

import numpy as np

__all__ = ["rank_p_values", "rank_threshold"]


def rank_p_values(scores: np.ndarray, held: np.ndarray) -> np.ndarray:
    r"""p-values of scores, small for those that are low among the n of rows that were held out.

    .. math:: p(x) = \frac{1 + \#\{i : s_i \le s(x)\}}{n + 1}

    For a row that is exchangeable with those held out :math:`P(p \le \alpha) \le \alpha`, with equality
    where :math:`\alpha (n + 1)` is whole and no scores are equal: p is then uniform on ``1/(n+1), ..., 1``.
    Of equal scores the held-out ones count as at least as odd (conservative). The probability is that over
    the rows held out as well.

    Arguments:
        scores: ``(M,)``; NaN where there is none. held: of the rows held out, ``(n,)``, none of them NaN.

    Returns:
        ``(M,)``, NaN where there is no score.

    Reference:
        Vovk, Gammerman, Shafer, *Algorithmic Learning in a Random World*, 2005; Bates et al., *Testing for
        Outliers with Conformal p-Values*, 2023, https://arxiv.org/abs/2104.08279
    """
    below = np.searchsorted(np.sort(held), scores, side="right")
    return np.asarray(np.where(np.isnan(scores), np.nan, (1.0 + below) / (len(held) + 1.0)))


def rank_threshold(held: np.ndarray, alpha: float) -> float:
    """The score below which, and only below which, `rank_p_values` are at most alpha.

    Arguments:
        held: scores of the rows held out, ``(n,)``. alpha: in (0, 1); one below ``1 / (n + 1)``, the least
            p-value that there is, counts as that.
    """
    count = max(int(np.floor(alpha * (len(held) + 1) * (1 + 1e-12))), 1)
    return float(np.sort(held)[min(count, len(held)) - 1])
