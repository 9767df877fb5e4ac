"""Choosing the number of states on validation likelihood, by successive halving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.estimators.fitting import Fit, FitData
from modeflow.estimators.settings import Settings
from modeflow.metrics import summarise

__all__ = ["Candidate", "candidate_states", "select_states"]

#: Share of the epochs after which candidates are compared, and how many go on.
RUNGS = ((1 / 4, 3), (1 / 2, 1))


@dataclass
class Candidate:
    """What is known of one number of states.

    Attributes:
        n_states: K.
        epochs: trained so far.
        validation: mean log-density of the validation rows at the best weights, nats.
        standard_error: of that mean.
        chosen: whether this K was kept.
    """

    n_states: int
    epochs: int
    validation: float
    standard_error: float
    chosen: bool = False

    def summarise(self, score: np.ndarray, weight: np.ndarray | None) -> None:
        """Keep mean and standard error of the validation rows' log-densities."""
        summary = summarise(score, "exact", weight)
        self.validation, self.standard_error = summary.value, summary.standard_error

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def candidate_states(max_states: int, rows: int) -> list[int]:
    """1, 2, 4, ... up to `max_states`, as long as a state keeps some 30 rows to be learned from."""
    limit = max(1, min(max_states, rows // 30))
    return [2**i for i in range(int(math.log2(limit)) + 1)]


def select_states(
    settings: Settings,
    data: FitData,
    candidates: Sequence[int],
    run_dir: Path | None,
    quiet: bool,
    resume: bool,
) -> tuple[Fit, list[Candidate]]:
    """Train all candidates for a while, keep the better ones, and finish the best.

    After a quarter of the epochs three go on, after half one: with six candidates this costs at most 2.75
    full fits. (Cutting earlier favours large K: a model starts as a Gaussian mixture of K components, and
    few states need longer to catch up.) At the last cut the smallest K wins that is not worse than the
    best by more than one standard error of the paired difference over the validation rows.

    Returns:
        the finished fit, and what was learned of every candidate.
    """
    fits = [
        Fit(
            settings,
            data,
            k,
            None if run_dir is None else run_dir / "selection" / f"states-{k}",
            quiet,
            resume,
        )
        for k in candidates
    ]
    records = {k: Candidate(k, 0, -math.inf, math.inf) for k in candidates}
    max_epochs = settings.training(len(data.train)).max_epochs
    weight = data.validation_weight
    for share, keep in RUNGS:
        if len(fits) == 1:
            break
        scores: dict[int, np.ndarray] = {}
        for fit in fits:
            history = fit.run(max(1, round(share * max_epochs)))
            if history.interrupted:  # the user wants an end: the best known so far is it
                return _best_so_far(fit, fits, scores, weight, records)
            scores[fit.n_states] = score = fit.validation_log_prob()
            record = records[fit.n_states]
            record.epochs = len(history.epochs) - 1
            record.summarise(score, weight)
        ranked = sorted(fits, key=lambda f: records[f.n_states].validation, reverse=True)
        fits = [_parsimonious(ranked, scores, weight)] if keep == 1 else ranked[:keep]
    best = fits[0]
    history = best.run()
    record = records[best.n_states]
    record.summarise(best.validation_log_prob(), weight)
    record.epochs, record.chosen = len(history.epochs) - 1, True
    return best, list(records.values())


def _parsimonious(ranked: list[Fit], scores: dict[int, np.ndarray], weight: np.ndarray | None) -> Fit:
    """The fewest states among those not worse than the best by more than a standard error."""
    best = ranked[0]
    for fit in sorted(ranked, key=lambda f: f.n_states):
        worse = summarise(scores[best.n_states] - scores[fit.n_states], "exact", weight)
        if worse.value <= worse.standard_error or fit is best:
            return fit
    return best


def _best_so_far(
    stopped: Fit,
    fits: list[Fit],
    scores: dict[int, np.ndarray],
    weight: np.ndarray | None,
    records: dict[int, Candidate],
) -> tuple[Fit, list[Candidate]]:
    known = [f for f in fits if f.n_states in scores]
    best = max(known, key=lambda f: float(np.average(scores[f.n_states], weights=weight)), default=stopped)
    if best.history is not None:
        best.history.interrupted = True
    records[best.n_states].chosen = True
    return best, list(records.values())
