"""Which device is taken where none is named."""

from __future__ import annotations

import pytest
import torch

from modeflow.flows import NSF
from modeflow.native import native_kernels, use_native
from modeflow.training import resolve_device


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_a_small_model_of_tables_is_trained_on_the_processor(with_gpu):
    small = NSF(4)
    assert resolve_device("auto").type == "cuda", "scores are"
    if native_kernels() == "none":
        pytest.skip("no native kernels here")
    size = sum(p.numel() for p in small.parameters())
    assert resolve_device("auto", small, 64).type == "cpu"
    assert resolve_device("auto", small, int(1e8 / size) + 1).type == "cuda"
    with use_native(False):
        assert resolve_device("auto", small, 64).type == "cuda"


def test_images_are_for_the_gpu(with_gpu):
    model = NSF(4)
    model.event_shape = (2, 2, 1)
    assert resolve_device("auto", model, 64).type == "cuda"
