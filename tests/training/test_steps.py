"""A step of the training: the native pass against PyTorch's operations, and without the kernel."""

from __future__ import annotations

import copy

import pytest
import torch
from small_trainings import config, model, rows
from torch import nn

from modeflow.native import kernels, native_kernels, use_native
from modeflow.training import Trainer
from modeflow.training.flat import FlatParameters
from modeflow.training.steps import Steps

needs_kernels = pytest.mark.skipif(
    native_kernels() == "none" or not hasattr(kernels, "AdamStep"), reason="no native kernels"
)


class Run:
    """Steps on drawn gradients, with all that they leave."""

    def __init__(self, dtype, size, decays, averages):
        generator = torch.Generator().manual_seed(size)
        drawn = [torch.randn(n, generator=generator).to(dtype) for n in (size, 3)]
        self.flat = FlatParameters([nn.Parameter(t) for t in drawn], [1.0, 1.0], [decays, False])
        self.steps = Steps(self.flat, self.flat.adam(1e-2), 5.0, 2.0 if decays else 0.0)
        self.averages = [v.detach().clone() for v in self.flat.vectors] if averages else None
        self.generator, self.count = generator, 0

    def go(self, count, native, kept=0.9):
        for _ in range(count):
            g = self.flat.gradients[0]
            self.count += 1
            # Longer than the limit, and shorter, in turn.
            g.copy_(torch.randn(len(g), generator=self.generator) * (30 if self.count % 2 else 1e-3))
            with use_native(native):
                norm = self.steps.norm()
                assert isinstance(norm, float) == native
                self.steps.take(norm, 1e-2, self.averages, kept)
        return self

    def left(self):
        (vector,) = self.flat.vectors
        state = self.steps.optimizer.state[vector]
        assert list(state) == ["step", "exp_avg", "exp_avg_sq"] and state["step"].dtype is torch.float32
        return [vector.detach(), *state.values(), *(self.averages or [])]


def close(ones, others):
    """Up to the rounding of some steps, and (in float64) of the norm."""
    for one, other in zip(ones, others, strict=True):
        assert one.dtype is other.dtype
        few = (16 if one.dtype is torch.float32 else 256) * torch.finfo(one.dtype).eps
        torch.testing.assert_close(one, other, rtol=few, atol=few * float(other.abs().max()))


@pytest.fixture
def restored():
    before = kernels.instruction_set()
    yield
    kernels.use(before)


@needs_kernels
@pytest.mark.parametrize("isa", kernels.available() if kernels is not None else [])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "decays, averages, kept", [(False, False, 0.9), (True, True, 0.995), (True, True, 0.2)]
)
@pytest.mark.parametrize("size", [1, 26, 70_000])
def test_the_native_pass_takes_the_steps_of_pytorch(restored, isa, dtype, decays, averages, kept, size):
    kernels.use(isa)
    ours = Run(dtype, size, decays, averages).go(12, True, kept).left()
    theirs = Run(dtype, size, decays, averages).go(12, False, kept).left()
    close(ours, theirs)


@needs_kernels
def test_either_goes_on_from_the_other():
    straight = Run(torch.float64, 50, True, True).go(10, False)
    mixed = Run(torch.float64, 50, True, True).go(3, False).go(4, True).go(3, False)
    assert float(mixed.left()[1]) == 10
    close(mixed.left(), straight.left())


@needs_kernels
def test_kernels_of_an_older_build_train_as_well(monkeypatch):
    net = model()
    twin = copy.deepcopy(net)
    Trainer(config(max_epochs=2, weight_decay=0.5, ema=0.9), quiet=True).fit(net, rows(), rows(100))
    monkeypatch.delattr(kernels, "AdamStep")
    history = Trainer(config(max_epochs=2, weight_decay=0.5, ema=0.9), quiet=True).fit(
        twin, rows(), rows(100)
    )
    assert history.steps == 20
    for one, other in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
