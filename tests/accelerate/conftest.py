"""Every test of the kernels starts with them on, and leaves the instruction set as it was."""

from __future__ import annotations

import pytest

from modeflow.native import kernels, use_native


@pytest.fixture(autouse=True)
def native():
    before = kernels.instruction_set()
    with use_native(True):
        yield
    kernels.use(before)
