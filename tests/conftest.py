"""Every test starts from the same seed and runs on one thread, so that results repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed torch's and numpy's global generators before every test."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    return 0
