r"""Two maps of codes, one above the other: what is everywhere in an image, and what is in one place.

The upper map t is quantised first; what the encoder says of the lower one, b, is given its codes. Both are
one string, the upper first, so that a prior of strings is ``p(t) p(b | t)``, and all else is as with one map.

Reference:
    Razavi, van den Oord, Vinyals, *Generating Diverse High-Fidelity Images with VQ-VAE-2*, 2019,
    https://arxiv.org/abs/1906.00446
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.latents.codes.model import SequentialLatentModel
from modeflow.latents.codes.quantizer import Quantizer, VectorQuantizer
from modeflow.latents.options import ImageShape
from modeflow.nets.encoder import ConvEncoder, ResidualBlock

__all__ = ["TwoLevelEncoder", "TwoLevelModel", "TwoLevelQuantizer"]


class TwoLevelQuantizer(nn.Module):
    """Two codebooks of V codes, for the upper and the lower part of a string; called as `VectorQuantizer`.

    Arguments:
        n_codes, code_features: of each. grid: shape of the lower map, ``(d, h, w)``. above: halvings from
            there to the upper one.
    """

    def __init__(self, n_codes: int, code_features: int, grid: ImageShape, above: int) -> None:
        super().__init__()
        self.n_codes, self.code_features = n_codes, code_features
        self.lower_size = grid[1], grid[2]
        self.upper_size = grid[1] >> above, grid[2] >> above
        self.lengths = [h * w for h, w in (self.upper_size, self.lower_size)]
        self.upper = VectorQuantizer(n_codes, code_features)
        self.lower = VectorQuantizer(n_codes, code_features)

    def forward(self, e: Tensor, revive: bool = True, learn: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        upper, lower = e.split(self.lengths, 1)
        one, other = self.upper(upper, revive, learn), self.lower(lower, revive, learn)
        quantised, codes = (torch.cat((a, b), 1) for a, b in zip(one[:2], other[:2], strict=True))
        return quantised, codes, one[2] + other[2]

    def look_up(self, codes: Tensor) -> Tensor:
        """Codes by their numbers, ``(B, L) -> (B, L, d)``."""
        upper, lower = codes.split(self.lengths, 1)
        return torch.cat((self.upper.codebook[upper], self.lower.codebook[lower]), 1)

    def log_approximate_posterior(self, e: Tensor) -> Tensor:
        upper, lower = e.split(self.lengths, 1)
        parts = (self.upper.log_approximate_posterior(upper), self.lower.log_approximate_posterior(lower))
        return torch.cat(parts, 1)

    @property
    def codebook(self) -> Tensor:
        """The codes of both, the upper ones first, ``(2 V, d)``."""
        return torch.cat((self.upper.codebook, self.lower.codebook))

    def spread(self, embedded: Tensor) -> Tensor:
        """A map of 2 d channels, flat: the upper one spread over the lower one's places, and that."""
        upper, lower = embedded.split(self.lengths, 1)
        wide = F.interpolate(upper.mT.unflatten(2, self.upper_size), size=self.lower_size, mode="nearest")
        return torch.cat((wide.flatten(2), lower.mT), 1).flatten(1)


class TwoLevelModel(SequentialLatentModel):
    """`SequentialLatentModel` of strings that are two maps; its quantiser is a `TwoLevelQuantizer`."""

    quantizer: TwoLevelQuantizer

    def _context(self, codes: Tensor) -> Tensor:
        return self.flat(self.quantizer.look_up(codes))

    def flat(self, embedded: Tensor) -> Tensor:
        return self.quantizer.spread(embedded)

    @staticmethod
    def context_width(length: int, quantizer: Quantizer) -> int:
        assert isinstance(quantizer, TwoLevelQuantizer)
        return 2 * quantizer.code_features * quantizer.lengths[1]


class TwoLevelEncoder(nn.Module):
    """From images to what is said of each position of both maps, ``(B, L_t + L_b, d)``.

    Arguments:
        shape: of images. quantizer: of what it says; the lower map is told the upper one's codes.
        hidden_channels, halvings, levels: as in `ConvEncoder`.
        above: halvings from the lower map to the upper.
    """

    def __init__(
        self,
        shape: ImageShape,
        quantizer: TwoLevelQuantizer,
        hidden_channels: int,
        halvings: int,
        levels: int,
        above: int,
    ) -> None:
        super().__init__()
        d = quantizer.code_features
        self._quantizer = (quantizer,)  # a part of the model, not of this
        self.below = ConvEncoder(shape[0], hidden_channels, hidden_channels, halvings, levels)
        self.above = ConvEncoder(hidden_channels, d, hidden_channels, above)
        self.join = nn.Conv2d(hidden_channels + d, hidden_channels, 3, padding=1)
        self.block = ResidualBlock(hidden_channels)
        self.final = nn.Conv2d(hidden_channels, d, 1)

    def forward(self, x: Tensor) -> Tensor:
        (quantizer,) = self._quantizer
        h = self.below(x)
        upper = self.above(F.silu(h)).flatten(2).mT
        place = quantizer.upper.place(upper)
        nearest = quantizer.upper.log_approximate_posterior(upper).argmax(-1)
        # Straight through, as the decoder sees it.
        told = place + (quantizer.upper.codebook[nearest] - place).detach()
        wide = F.interpolate(
            told.mT.unflatten(2, quantizer.upper_size), size=quantizer.lower_size, mode="nearest"
        )
        lower = self.final(F.silu(self.block(self.join(torch.cat((h, wide), 1)))))
        return torch.cat((upper, lower.flatten(2).mT), 1)
