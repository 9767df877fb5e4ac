"""Numbers that stay what they are whatever the type of the model around them."""

from __future__ import annotations

from torch import nn

__all__ = ["OwnPrecision"]


class OwnPrecision(nn.Module):
    """A module whose own buffers keep their types.

    ``.float()`` and ``.half()`` must not round numbers that were found; a move to a device still acts.
    """

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        kept = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = value.to(moved.device)
        return self
