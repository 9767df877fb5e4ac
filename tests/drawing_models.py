"""Parts that draw on the way to their density, and the ways to nest them: every pair is tested.

A new part that draws is one line of `PARTS`; a new way to put one into another is one line of `NESTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modeflow.densities import BoundedFlow, Density, Flow, Preprocessed, StandardNormal
from modeflow.densities.sequences import IndependentCodes
from modeflow.flows import CIF, NSF, Dequantized, NoisyAEF, SurVAE
from modeflow.latents import (
    CategoricalEncoder,
    CategoricalPrior,
    ContinuousLatentModel,
    DiscreteLatentModel,
    GumbelELBO,
)
from modeflow.latents.codes import SequentialLatentModel
from modeflow.latents.posteriors import Approximate, DiagonalGaussian, Posterior
from modeflow.nets import MLP
from modeflow.testing import perturb
from modeflow.transforms import Augment, Cells, Composite, Slice

#: Draws of every estimate: what is tested are single draws and a mean of them.
DRAWS = 2


@dataclass(frozen=True)
class Part:
    """``build(features, context_features)``; of whole numbers, or reals that other parts can be made of."""

    build: Callable[[int, int], Density]
    whole: bool = False


def net(inputs: int, outputs: int, context: int) -> nn.Module:
    return MLP(inputs, outputs, (8,), context)


def nsf(features: int, context: int = 0) -> Flow:
    return NSF(features, context, layers=1, hidden_features=8, blocks=1, bins=3)


def survae(symmetry: str) -> Callable[[int, int], Density]:
    def build(features: int, context: int) -> Density:
        sizes = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 3}
        return SurVAE(features, context, symmetry=symmetry, draws=DRAWS, **sizes)

    return build


def dequantised(kind: str, of: Callable[[int, int], Density] = nsf) -> Callable[[int, int], Density]:
    def build(features: int, context: int) -> Density:
        small = {"couplings": 1, "components": 2, "hidden": 8, "blocks": 1}
        return Dequantized(of(features, context), 4, kind=kind, draws=DRAWS, **small)

    return build


def cif(features: int, context: int) -> Density:
    return CIF(features, context, layers=1, hidden_features=8, blocks=1, bins=3, draws=DRAWS)


def noisy_aef(features: int, context: int) -> Density:
    return NoisyAEF(features, context, latent=1, noise=1.0, layers=1, hidden_features=8, bins=3, draws=DRAWS)


PARTS: dict[str, Part] = {
    "cif": Part(cif),
    "survae-augment": Part(survae("augment")),
    "survae-permute": Part(survae("permute")),
    "noisy-aef": Part(noisy_aef),
    "dequantised": Part(dequantised("uniform"), whole=True),
    "dequantised-variational": Part(dequantised("variational"), whole=True),
    "dequantised-cif": Part(dequantised("uniform", cif), whole=True),
}


class Encoder(Posterior):
    """Of a z a little wider than its prior, so that importance weights have a variance."""

    def __init__(self, features: int, latent: int, scale: float = 1.2) -> None:
        super().__init__(latent, lambda outputs: nn.Linear(features, latent))
        self.scale = scale

    def forward(self, x: Tensor) -> Approximate:
        mean = 0.1 * torch.tanh(self.net(x))
        return DiagonalGaussian(mean, torch.full_like(mean, self.scale).log())


def continuous(prior: Density, likelihood: Density) -> ContinuousLatentModel:
    encoder = Encoder(likelihood.event_shape[0], prior.event_shape[0])
    return ContinuousLatentModel(prior, likelihood, encoder, draws=DRAWS)


def of_z(part: Part) -> Density:
    return continuous(StandardNormal(2), part.build(2, 2))


def as_prior(part: Part) -> Density:
    return continuous(part.build(2, 0), nsf(2, 2))


def as_both(part: Part) -> Density:
    return continuous(part.build(2, 0), part.build(2, 2))


def rounded(part: Part) -> Density:
    return Dequantized(part.build(2, 0), 4, draws=DRAWS)


def rounded_of_z(part: Part) -> Density:
    return Dequantized(of_z(part), 4, draws=DRAWS)


def of_a_lattice(part: Part) -> Density:
    return Preprocessed(Cells(torch.tensor([1.0, 0.5])), part.build(2, 0), DRAWS)


def augmented(part: Part) -> Density:
    return BoundedFlow(Composite([Augment(2, 1, net)]), part.build(3, 0), 0, (2,), DRAWS)


def sliced(part: Part) -> Density:
    """Decoder and base are two such parts, on halves of the features that may well be equal."""
    keep = torch.tensor([True, True, False, False])
    return Flow(Slice(keep, part.build(2, 2)), part.build(2, 0), 0, (4,))


def sliced_of_z(part: Part) -> Density:
    keep = torch.tensor([True, True, False, False])
    decoder = Flow(Slice(keep, part.build(2, 3), 1), part.build(2, 1), 1, (4,))
    return continuous(StandardNormal(1), decoder)


def of_states(part: Part) -> Density:
    encoder = CategoricalEncoder(2, 3, (8,))
    return DiscreteLatentModel(CategoricalPrior(3), part.build(2, 3), encoder, GumbelELBO())


class Codes(nn.Module):
    """Three codes in the place of a `VectorQuantizer`, whose package may be missing."""

    n_codes, code_features = 3, 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.tensor([[-1.0], [0.0], [1.0]]))

    def log_approximate_posterior(self, e: Tensor) -> Tensor:
        return torch.log_softmax(-(e.unsqueeze(2) - self.codebook).square().sum(-1), -1)


class Positions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x[:, :2]).unsqueeze(-1)


def of_codes(part: Part) -> Density:
    return SequentialLatentModel(
        IndependentCodes(3, 2), part.build(2, 2), Positions(), Codes(), sequences=9, chunk_rows=10**6
    )


@dataclass(frozen=True)
class Nest:
    """A density of parts.

    Attributes:
        build: it, from a part. whole: whether its data are whole numbers whatever the part.
        shares: whether it evaluates the part several times on a row and adds: the noise may then be common.
    """

    build: Callable[[Part], Density]
    whole: bool = False
    reals: bool = False
    shares: bool = False
    features: int = field(default=2)


NESTS: dict[str, Nest] = {
    "likelihood of z": Nest(of_z),
    "prior of z": Nest(as_prior, reals=True),
    "prior and likelihood of z": Nest(as_both, reals=True),
    "what is rounded": Nest(rounded, whole=True, reals=True),
    "likelihood of z, rounded": Nest(rounded_of_z, whole=True, reals=True),
    "columns on lattices": Nest(of_a_lattice, whole=True, reals=True),
    "base of what draws": Nest(augmented, reals=True),
    "decoder and base": Nest(sliced, features=4),
    "decoder and base of z": Nest(sliced_of_z, features=4),
    "likelihood of states": Nest(of_states, shares=True),
    "likelihood of codes": Nest(of_codes, shares=True),
}

#: All that fit: what draws reals can be anywhere, what draws whole numbers only next to the data.
PAIRS = [(n, p) for n, nest in NESTS.items() for p, part in PARTS.items() if not (nest.reals and part.whole)]


def built(nest: str, part: str, dtype: torch.dtype = torch.float32) -> tuple[Density, Tensor]:
    """A perturbed density in evaluation mode, and three rows, of which one repeats a number."""
    torch.manual_seed(1)
    density = perturb(NESTS[nest].build(PARTS[part]), 0.15, seed=2).to(dtype).eval()
    rows = torch.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    rows = rows if NESTS[nest].whole or PARTS[part].whole else rows - 0.9
    return density, rows.repeat(1, NESTS[nest].features // 2).to(dtype)
