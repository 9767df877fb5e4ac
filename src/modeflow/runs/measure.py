"""What is measured of a fitted estimator: its likelihood, its latent, and what its domain knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from modeflow.domains.base import Parts
from modeflow.estimators import DensityEstimator
from modeflow.metrics import reconstruction_error

__all__ = ["MEASURES", "measure", "solver_note"]

#: ``key``, ``name`` (for people), ``value``, and where they are known ``best`` and ``standard_error``.
Measured = dict[str, Any]

#: Test rows on which the steps of a solver are halved.
_SOLVED = 1000


def measure(estimator: DensityEstimator, data: Any, parts: Parts) -> tuple[dict[str, Any], np.ndarray]:
    """Likelihood of the parts (`Domain.scored`), and what there is to say of z and of the rows; and the
    scores of the test rows, nats, ``(N,)``, which nothing was fitted to or chosen by.

    Of a training that was interrupted the likelihood alone, of few rows: whoever did so waits for the end.
    """
    domain, latent = estimator.domain_, estimator.latent_
    hurried = bool(estimator.training_.get("interrupted"))
    scored = {name: estimator.scores(X) for name, X in domain.scored(parts, hurried).items()}
    result: dict[str, Any] = {
        "domain": domain.name,
        "data": data.name,
        **domain.facts,
        "rows": dict(zip(("train", "validation", "test"), parts.sizes, strict=True)),
        "density": estimator.density_kind_,
        "units": domain.units,
        domain.measure: {
            name: domain.summarise(log_prob, kind, cost).to_dict()
            for name, (log_prob, cost, kind) in scored.items()
        },
        "latent": asdict(latent.describe()),
        "n_states": estimator.n_states_,
        "weights": [round(float(w), 6) for w in estimator.weights_],
        "n_parameters": estimator.model_.n_parameters,
    }
    if (stacked := estimator.stacking_) is not None:
        result["stacking"] = stacked.to_dict()
    held = scored["test"][0]
    if hurried:
        return result, held
    test = domain.rows(parts.test)
    differences = estimator.solver_differences(domain.rows(domain.some(parts.test, _SOLVED)))
    if differences is not None:
        result["solver"] = {
            "mean": float(differences.mean()),
            "largest": float(np.abs(differences).max()),
            "rows": len(differences),
        }
    bounded = latent.describe().kind == "continuous" and latent.n_draws > 1  # by one draw both are one
    if bounded and estimator.model_.transform.exactness == "exact":
        bounds = estimator.bounds(test)
        result["bounds"] = {k: v if k == "draws" else v.to_dict() for k, v in bounds.items()}
    result |= estimator.measure_latent(test)
    found = [each(estimator, test) for each in MEASURES]
    result["measures"] = [row for row in found if row is not None]
    return result | domain.measures(estimator, data, parts), held


def reconstruction(estimator: DensityEstimator, X: Any) -> Measured | None:
    """How well z alone gives a row back, where it says more than which state."""
    domain = estimator.domain_
    if not domain.distances or estimator.latent_.describe().kind not in ("continuous", "codes", "discrete"):
        return None
    values = domain.validate(estimator, X).astype(np.float64)
    error = reconstruction_error(values, np.asarray(estimator.reconstruct(X)), domain.scale(values))
    name = f"error of z alone on test {domain.word}s (root mean square, share of the {domain.extent})"
    return {"key": "reconstruction_rmse", "name": name, "value": error}


#: What is measured of every run on its test rows, whatever its domain; shown by `fit` and in the report.
MEASURES: tuple[Callable[[DensityEstimator, Any], Measured | None], ...] = (reconstruction,)


def solver_note(measured: dict[str, Any] | None) -> str:
    """How much the steps of a solver decide, in words; empty where none takes part."""
    if not measured:
        return ""
    rows = f"{measured['rows']:,} test rows"
    return (
        f"halving the solver's steps changes the mean by {measured['mean']:+.1e} nats, a row by "
        f"{measured['largest']:.1e} at most ({rows})"
    )
