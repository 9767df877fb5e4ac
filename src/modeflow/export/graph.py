"""The density of a fitted estimator as a module that can be traced."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.estimators.settings import latent_model
from modeflow.transforms.ode import has_solver

__all__ = ["DensityGraph", "Precision", "trace", "traced"]

Precision = Literal["float64", "float32"]


class DensityGraph(nn.Module):
    """``rows (B, D) -> log p (B,)``: float64 in the units of the data, nats.

    A missing cell (NaN) is summed out where the model does so exactly, else the row's number is NaN. A code
    that its column does not have gives minus infinity.

    Arguments:
        estimator: fitted. precision: of the model behind the transform of the columns, which is float64.

    Raises:
        ConfigError: a density that is no graph, and what to do.
    """

    levels: Tensor

    def __init__(self, estimator: Any, precision: Precision = "float64") -> None:
        super().__init__()
        if not estimator.domain_.of_tables:
            raise ConfigError(
                f"{estimator.domain_.word}s are not exported, as their density is a mean over noise: use "
                "modeflow score"
            )
        if has_solver(estimator.model_):
            raise ConfigError(
                f"the density of '{estimator.flow_}' is that of a solver, which is no graph: fit with "
                "flow='nsf-coupling' or 'nsf-autoregressive'"
            )
        model = copy.deepcopy(estimator.model_).cpu().eval().requires_grad_(False)
        self.model = model.to(torch.float64 if precision == "float64" else torch.float32)
        self.exactness = model.transform.exactness
        latent = latent_model(self.model)
        self._log_prob = self.model.traceable(latent.traceable())
        cells = getattr(model.transform, "cells", ())
        levels = [cell.levels for cell in cells] or [0] * model.event_shape[0]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float64), persistent=False)
        self.has_codes = any(levels)
        with torch.no_grad():
            one = model.decode(latent.sample(1, generator=torch.Generator().manual_seed(0)))
            holes = one.repeat(one.shape[1], 1).fill_diagonal_(torch.nan)
            summed = latent.sums_out(self.model.encode(holes)[0])
        #: Whether missing cells are summed out.
        self.sums_out = model.beside is None and latent.marginals == "exact" and bool(summed.all())

    def forward(self, rows: Tensor) -> Tensor:
        if self.has_codes:
            no_code = (rows != torch.floor(rows)) | (rows < 0) | (rows >= self.levels)
            rows = torch.where((self.levels > 0) & no_code & ~rows.isnan(), -torch.inf, rows)
        if self.sums_out:
            return self._log_prob(rows).double()
        known = ~rows.isnan()
        found = self._log_prob(torch.where(known, rows, 0.0))
        return torch.where(known.all(1), found.double(), torch.nan)


def trace(graph: DensityGraph, estimator: Any) -> torch.export.ExportedProgram:
    """The graph, for any number of rows.

    Raises:
        ConfigError: where a layer looks at numbers, and cannot be traced.
    """
    try:
        return traced(graph, graph.model.event_shape[0])
    except Exception as error:  # whatever torch has to say of a layer
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the flow '{estimator.flow_}' cannot be traced ({reason}): fit with flow='nsf-coupling' or "
            "'nsf-autoregressive'"
        ) from error


def traced(module: nn.Module, columns: int) -> torch.export.ExportedProgram:
    """A module of so many columns, for any number of rows."""
    rows = torch.zeros(5, columns, dtype=torch.float64)
    with torch.no_grad():
        return torch.export.export(
            module, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},), strict=False
        )
