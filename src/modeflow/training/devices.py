"""Where training runs: one device, or one of several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities import Density, Loss
from modeflow.errors import ConfigError
from modeflow.native import native_kernels

__all__ = ["SINGLE", "FabricWorld", "World", "resolve_device"]


#: Parameters times rows of a batch below which a step of a flow of tables is sooner done by a processor's own
#: kernels than launched on a GPU: the default flow of 300 rows took ten times as long there.
_WORTH_A_GPU = 1e8


def resolve_device(name: str, model: Density | None = None, batch_rows: int = 0) -> torch.device:
    """The device of that name.

    Arguments:
        name: "auto", "cpu", "cuda", "cuda:N". "auto" is a GPU if there is one; to train a small model of
            tables where there are native kernels it is the processor.
        model: to be trained, in batches of so many rows; None for anything else.

    Raises:
        ConfigError: if CUDA is asked for and not there.
    """
    if name == "auto":
        use = torch.cuda.is_available() and not (model is not None and _is_small(model, batch_rows))
        return torch.device("cuda" if use else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device='{name}': torch finds no CUDA device here; use 'cpu' or 'auto'")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device='{name}' is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device='{name}': there are {count} CUDA devices here, numbered from 0")
    return device


def _is_small(model: Density, batch_rows: int) -> bool:
    """Whether a step computes too little to be worth a GPU."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return native_kernels() != "none" and len(model.event_shape) == 1 and size * batch_rows < _WORTH_A_GPU


class World:
    """The processes of a training. This one knows a single process; `FabricWorld` knows several.

    Each process holds all rows, takes its share of every batch, and adds up the gradients, so that the
    result is that of one process up to rounding.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of the rows of a batch."""
        return rows[self.rank :: self.size] if self.size > 1 else rows

    def backward(self, loss: Loss, gradients: Sequence[Tensor], share: float) -> Loss:
        """Leave the gradient of the whole batch in the parameters; return the loss of the whole batch.

        Arguments:
            loss: of this process's rows.
            gradients: the vectors that the gradients of the parameters are views of, zero before the call.
            share: of the batch's rows that are this process's, in [0, 1].
        """
        loss.value.backward()
        return Loss(loss.value.detach(), loss.terms)

    def agree(self, flag: bool) -> bool:
        """True if any process says so."""
        return flag

    def first_said(self, message: str | None) -> str | None:
        """What the first process with something to say says."""
        return message

    def align(self, model: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first."""

    def autocast(self) -> Any:
        """Context of lower precision, where configured."""
        return contextlib.nullcontext()


SINGLE = World()


class FabricWorld(World):
    """Several processes, or a precision other than float32, by lightning-fabric."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank, self.size = int(fabric.global_rank), int(fabric.world_size)

    def backward(self, loss: Loss, gradients: Sequence[Tensor], share: float) -> Loss:
        if self.size == 1:
            return super().backward(loss, gradients, share)
        # A share without rows has a mean of NaN: no part of the sum.
        if share > 0:
            (loss.value * share).backward()
        numbers = [loss.value.detach(), *loss.terms.values()]
        told = torch.stack(
            [n.to(gradients[0]) * share if share > 0 else gradients[0].new_zeros(()) for n in numbers]
        )
        # One message carries everything: latency, not volume, is what a small model pays for.
        flat = self.fabric.all_reduce(torch.cat([*gradients, told]), reduce_op="sum")
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + len(gradient)])
            start += len(gradient)
        total = flat[start:]
        return Loss(total[0], dict(zip(loss.terms, total[1:], strict=True)))

    def agree(self, flag: bool) -> bool:
        if self.size == 1:
            return flag
        return float(self.fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")) > 0

    def first_said(self, message: str | None) -> str | None:
        if self.size == 1:
            return message
        said: list[str | None] = [None] * self.size
        torch.distributed.all_gather_object(said, message)
        return next((text for text in said if text is not None), None)

    def align(self, model: nn.Module) -> None:
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                # Not every backend can send booleans.
                sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach().contiguous()
                torch.distributed.broadcast(sent, 0)
                tensor.copy_(sent)

    def autocast(self) -> Any:
        return self.fabric.autocast()
