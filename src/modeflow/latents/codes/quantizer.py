"""Vector quantisation: from what an encoder says to the nearest of some codes."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError

__all__ = ["Quantizer", "VectorQuantizer"]


class Quantizer(Protocol):
    """What a model with codes asks of what makes them."""

    n_codes: int
    code_features: int

    @property
    def codebook(self) -> Tensor:
        """All codes, ``(V, d)``."""

    def __call__(self, e: Tensor, revive: bool = True, learn: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """See `VectorQuantizer.forward`."""

    def log_approximate_posterior(self, e: Tensor) -> Tensor:
        """``log q(z_j = v | x)``, shape ``(B, L, V)``."""


class VectorQuantizer(nn.Module):
    r"""The nearest of V codes for every position, learned by moving averages of what falls to each.

    .. math:: z_j = \arg\min_v |s_j - c_v|^2, \qquad q(z_j = v \mid x) \propto e^{-|s_j - c_v|^2 / \tau},
        \qquad s_j = \sqrt d\, e_j / |e_j|

    The gradient passes straight through; codes that nothing falls to start anew at a position of the batch.
    What the encoder says is put on a sphere: left free it drifts outward, the posterior becomes hard, and
    what codes cost no longer reaches the encoder. With ``d = 1`` there is no sphere, and ``s = e``.

    Arguments:
        n_codes: V. code_features: dimension of a code.
        decay: of the moving averages. dead_below: a code is dead that fewer positions of a batch fall to.
        commitment: weight of ``|e - sg(c)|^2``.
        temperature: τ of the posterior over codes, which says what strings are tried beside the nearest.

    Raises:
        ConfigError: if the package `vector-quantize-pytorch` is missing.

    Reference:
        van den Oord, Vinyals, Kavukcuoglu, *Neural Discrete Representation Learning*, 2017,
        https://arxiv.org/abs/1711.00937
    """

    def __init__(
        self,
        n_codes: int,
        code_features: int,
        decay: float = 0.99,
        dead_below: float = 0.5,
        commitment: float = 0.25,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        try:
            from vector_quantize_pytorch import VectorQuantize
        except ImportError as error:
            raise ConfigError(
                "vector quantisation needs a package: pip install 'modeflow[images]'"
            ) from error
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, received {temperature!r}")
        self.n_codes, self.code_features, self.temperature = n_codes, code_features, temperature
        self.dead_below = float(dead_below)
        self.vq: Any = VectorQuantize(
            dim=code_features,
            codebook_size=n_codes,
            decay=decay,
            kmeans_init=True,
            threshold_ema_dead_code=dead_below,
            commitment_weight=commitment,
            rotation_trick=False,
        )

    @property
    def codebook(self) -> Tensor:
        """All codes, ``(V, d)``."""
        codes: Tensor = self.vq.codebook
        return codes

    def place(self, e: Tensor) -> Tensor:
        """What the encoder says on the sphere of radius √d."""
        if self.code_features == 1:
            return e
        return nn.functional.normalize(e, dim=-1) * math.sqrt(self.code_features)

    def forward(self, e: Tensor, revive: bool = True, learn: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, L, d)`` to its codes, with gradient, their numbers ``(B, L)``, and the commitment.

        Arguments:
            e: what the encoder says. revive: start dead codes anew (while training). learn: let the codes
                follow their averages (while training).
        """
        self.vq._codebook.threshold_ema_dead_code = self.dead_below if revive else 0.0
        self._sync()
        quantised, codes, commitment = self.vq(self.place(e), freeze_codebook=not learn)
        # The package makes a constant of its own ask for a gradient: it could not be sent to a process then.
        self.vq.zero = self.vq.zero.detach()
        return quantised, codes, commitment.sum()

    def _sync(self) -> None:
        """With several processes, average over the rows of all: the package asks for them only when built."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            book = self.vq._codebook
            book.use_ddp = torch.distributed.get_world_size() > 1
            if book.use_ddp:
                from vector_quantize_pytorch import vector_quantize_pytorch as package

                book.all_reduce_fn = book.kmeans_all_reduce_fn = torch.distributed.all_reduce
                book.sample_fn = book.replace_sample_fn = package.sample_vectors_distributed

    def log_approximate_posterior(self, e: Tensor) -> Tensor:
        """``log q(z_j = v | x)``, shape ``(B, L, V)``."""
        distance = (self.place(e).unsqueeze(2) - self.codebook).square().sum(-1)
        return torch.log_softmax(-distance / self.temperature, -1)
