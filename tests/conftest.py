"""Every test starts from the same seed and runs on one thread, so that results repeat."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

# Of this process and of those that tests start; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# A shell has Ctrl-C ignored by what runs in the background, and modeflow leaves it so; tests send their own.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def without_detectors() -> Iterator[None]:
    """Fits at the command line leave out the detector of odd rows, a second each, unless asked for it."""
    from modeflow.domains import TableDomain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableDomain, "defaults", {**TableDomain.defaults, "detector": False})
        yield


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed torch's and numpy's global generators before every test."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    return 0
