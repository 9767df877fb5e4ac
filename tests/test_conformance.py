"""Every transform and density of `constructors.py` keeps its contract."""

from __future__ import annotations

import pytest

from constructors import DENSITIES, TRANSFORMS
from modeflow.testing import DENSITY_CHECKS, TRANSFORM_CHECKS


@pytest.mark.parametrize("check", TRANSFORM_CHECKS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name, check):
    TRANSFORM_CHECKS[check](TRANSFORMS[name])


@pytest.mark.parametrize("check", DENSITY_CHECKS)
@pytest.mark.parametrize("name", DENSITIES)
def test_density(name, check):
    DENSITY_CHECKS[check](DENSITIES[name])
