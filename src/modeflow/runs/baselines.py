"""What a user would try instead, fitted on the same split: a Gaussian mixture and a plain flow."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.data import Schema, Split
from modeflow.densities import Density, Preprocessed
from modeflow.domains import TableDomain
from modeflow.estimators import NVF, DensityEstimator, FlowDensity
from modeflow.flows import FLOWS
from modeflow.runs.config import RunConfig
from modeflow.runs.folder import Run, write_json
from modeflow.training import seeded
from modeflow.transforms import Cells, Composite, Standardize, Transform
from modeflow.transforms.base import Exactness

__all__ = ["GaussianMixtureByBIC", "fit_baselines"]

_BASELINES_FILE = "baselines.json"


class GaussianMixtureByBIC:
    """scikit-learn's `GaussianMixture` with full covariances, K chosen by BIC on the training rows.

    Columns on lattices are dequantised and scored by modeflow's own layer, at the same points of a row's
    cells, so that the likelihoods compare.

    Attributes:
        n_components_: the K chosen. model_: the density. bic_: the BIC of every K tried.
    """

    candidates = (1, 2, 3, 4, 6, 8, 12, 16, 25, 32)

    def __init__(self, schema: Schema, seed: int = 0, score_draws: int = 16) -> None:
        self.schema, self.seed, self.score_draws = schema, seed, score_draws

    def fit(self, values: np.ndarray) -> GaussianMixtureByBIC:
        """Fit all candidates to rows ``(N, D)`` and keep the one of lowest BIC."""
        from sklearn.mixture import GaussianMixture

        units = Standardize(self.schema.dim)
        transform: Transform = units
        x = torch.from_numpy(values)
        with seeded(self.seed):
            if self.schema.lattice_columns:
                cells = Cells(*(torch.from_numpy(each) for each in (self.schema.steps, self.schema.offsets)))
                x = cells(x)[0]
                transform = Composite([cells, units])
        u = units.fit(x)(x)[0].numpy()
        self.bic_: dict[int, float] = {}
        best = math.inf
        for k in self.candidates:
            if k > max(1, len(u) // (2 * u.shape[1])):
                break
            mixture = GaussianMixture(k, random_state=self.seed, reg_covar=1e-6, max_iter=200, n_init=1)
            mixture.fit(u)
            self.bic_[k] = bic = float(mixture.bic(u))
            if bic < best:
                best, self.n_components_ = bic, k
                self.model_ = Preprocessed(transform, _Fitted(mixture, self.schema.dim), self.score_draws)
        self.model_.eval()
        return self

    @property
    def n_parameters(self) -> int:
        """Free numbers of the mixture."""
        d, k = self.schema.dim, self.n_components_
        return k * (d + d * (d + 1) // 2) + k - 1

    def score_samples(self, values: np.ndarray) -> np.ndarray:
        """Log-density of each row, nats, in the units of the data."""
        with torch.no_grad():
            return self.model_.log_prob(torch.from_numpy(np.ascontiguousarray(values))).numpy()


class _Fitted(Density):
    """A fitted density of scikit-learn."""

    def __init__(self, estimator: Any, features: int) -> None:
        super().__init__((features,))
        self.estimator = estimator

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return torch.from_numpy(self.estimator.score_samples(x.numpy()))


def fit_baselines(
    run: Run, split: Split, quiet: bool = True, announce: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Likelihood of the test rows under each baseline, and its paired difference to the run's model.

    Results are kept in the run folder (`baselines.json`) and not fitted twice.

    Returns:
        one mapping a baseline: ``name``, ``value``, ``standard_error``, ``n``, ``n_parameters``,
        ``difference`` (model minus baseline, the same rows at the same offsets of integer columns),
        ``difference_standard_error``, ``seconds``, ``note``; ``kind``, and ``own_kind``, what the density is
        apart from those offsets.
    """
    kept = run.path / _BASELINES_FILE
    if kept.exists():
        try:
            known = list(json.loads(kept.read_text(encoding="utf-8")))
            if all({"kind", "own_kind"} <= row.keys() for row in known):
                return known
        except (ValueError, AttributeError):
            pass  # damaged, as one without kinds (of an older version): fitted anew below
    say, frame = announce or (lambda _: None), TableDomain.rows
    ours = run.estimator.score_samples(frame(split.test))
    train = np.concatenate([split.train.values, split.validation.values])
    found = []

    say("fitting a Gaussian mixture, K by BIC")
    began = time.perf_counter()
    domain = run.estimator.domain_
    assert isinstance(domain, TableDomain)
    schema, draws = domain.schema, run.estimator.score_draws
    mixture = GaussianMixtureByBIC(schema, run.config["seed"], draws).fit(train)
    note = (
        f"scikit-learn, full covariances, K = {mixture.n_components_} by BIC on training and validation rows"
    )
    found.append(
        _row(
            "Gaussian mixture",
            mixture.score_samples(split.test.values),
            ours,
            mixture.n_parameters,
            note,
            began,
            mixture.model_.exactness,
            "exact",
        )
    )
    if run.estimator.flow_ in FLOWS and (run.estimator.n_states_ > 1 or run.config["model"] == "nvf"):
        flow, options = run.estimator.flow_, run.estimator.flow_options_
        say(f"fitting a plain flow ({flow})")
        began = time.perf_counter()
        stacked = run.estimator.stacking_ is not None
        plain = _plain_flow(run.config, {"flow_options": options, "stacking": stacked}, flow, quiet)
        plain.fit(frame(split.train), validation=frame(split.validation))
        found.append(
            _row(
                "plain flow",
                plain.score_samples(frame(split.test)),
                ours,
                plain.model_.n_parameters,
                f"{flow}, one state, the same settings and the same validation rows",
                began,
                plain.density_kind_,
                plain.latent_.exactness,
            )
        )
    write_json(kept, found)
    return found


def _plain_flow(config: RunConfig, built: Mapping[str, Any], flow: str, quiet: bool) -> DensityEstimator:
    """The same flow and training without states, with what stands beside it where it does there."""
    left = set(NVF().get_params(deep=False)) - set(FlowDensity().get_params(deep=False))
    own = {"flow"} | left  # what concerns states
    settings = {k: v for k, v in config.settings.items() if k not in own}
    settings |= {"model": flow, **built}
    return RunConfig.build(settings).estimator(verbose=not quiet)


def _row(
    name: str,
    log_prob: np.ndarray,
    ours: np.ndarray,
    n_parameters: int,
    note: str,
    began: float,
    kind: Exactness,
    own_kind: Exactness,
) -> dict[str, Any]:
    difference = ours - log_prob
    n = len(log_prob)
    return {
        "name": name,
        "value": float(log_prob.mean()),
        "kind": kind,
        "own_kind": own_kind,
        "standard_error": float(log_prob.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "n": n,
        "n_parameters": n_parameters,
        "difference": float(difference.mean()),
        "difference_standard_error": float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "seconds": round(time.perf_counter() - began, 3),
        "note": note,
    }
