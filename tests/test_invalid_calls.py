"""Calls a user may get wrong, and the one line each of them gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeflow.densities import Preprocessed, StandardNormal
from modeflow.errors import ConfigError, DataError, ModeflowError, ShapeError
from modeflow.flows import MAF, NSF
from modeflow.models import DiscreteNVF
from modeflow.transforms import Standardize

PLAIN = NSF(3, layers=1)
GIVEN = MAF(2, 4, layers=1)
STATES = DiscreteNVF(2, 3, flow_options={"layers": 1})
SCALED = Preprocessed(Standardize(3), PLAIN)

CALLS: dict[str, tuple[Callable[[], Any], type[ModeflowError], str]] = {
    "too many columns": (
        lambda: PLAIN.log_prob(torch.zeros(5, 4)),
        ShapeError,
        "Flow expects x of shape (B, 3), received (5, 4)",
    ),
    "no batch": (
        lambda: PLAIN.log_prob(torch.zeros(3)),
        ShapeError,
        "expects x of shape (B, 3), received (3,)",
    ),
    "a scalar": (lambda: PLAIN.log_prob(torch.tensor(1.0)), ShapeError, "received ()"),
    "three dimensions": (lambda: PLAIN.log_prob(torch.zeros(2, 3, 1)), ShapeError, "received (2, 3, 1)"),
    "context for an unconditional flow": (
        lambda: PLAIN.log_prob(torch.zeros(5, 3), torch.zeros(5, 1)),
        ShapeError,
        "is unconditional but received a context",
    ),
    "the same, sampling": (lambda: PLAIN.sample(5, torch.zeros(5, 1)), ShapeError, "is unconditional"),
    "missing context": (
        lambda: GIVEN.log_prob(torch.zeros(5, 2)),
        ShapeError,
        "is conditional: pass a context of shape (5, 4)",
    ),
    "missing context, sampling": (lambda: GIVEN.sample(5), ShapeError, "pass a context of shape (B, 4)"),
    "narrow context": (
        lambda: GIVEN.log_prob(torch.zeros(5, 2), torch.zeros(5, 3)),
        ShapeError,
        "expects a context of shape (5, 4), received (5, 3)",
    ),
    "narrow shared context": (
        lambda: GIVEN.log_prob(torch.zeros(5, 2), torch.zeros(3)),
        ShapeError,
        "received (5, 3)",
    ),
    "short context": (
        lambda: GIVEN.log_prob(torch.zeros(5, 2), torch.zeros(4, 4)),
        ShapeError,
        "received (4, 4)",
    ),
    "negative count": (lambda: PLAIN.sample(-1), ShapeError, "cannot draw -1 samples"),
    "states, columns": (lambda: STATES.log_prob(torch.zeros(5, 3)), ShapeError, "expects x of shape (B, 2)"),
    "states, context": (
        lambda: STATES.log_prob(torch.zeros(5, 2), torch.zeros(5, 3)),
        ShapeError,
        "unconditional",
    ),
    "states, posterior": (lambda: STATES.posterior(torch.zeros(2)), ShapeError, "received (2,)"),
    "states, no such state": (lambda: STATES.sample_with_states(1, state=3), ConfigError, "0..2, received 3"),
    "states, epsilon": (
        lambda: STATES.log_prob_pruned(torch.zeros(1, 2), 1.5),
        ConfigError,
        "epsilon must lie in [0, 1), received 1.5",
    ),
    "preprocessed, columns": (
        lambda: SCALED.log_prob(torch.zeros(5, 2)),
        ShapeError,
        "Preprocessed expects x of shape (B, 3)",
    ),
    "constant column": (
        lambda: Standardize(2).fit(torch.ones(9, 2)),
        DataError,
        "column 0 is constant: its density is infinite; drop it",
    ),
    "normal": (lambda: StandardNormal(2).log_prob(torch.zeros(1, 1)), ShapeError, "StandardNormal expects x"),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_message(name):
    call, kind, message = CALLS[name]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
