"""The model with a sequential latent: strings of codes, evaluated by the likeliest of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.sequences import SequencePrior
from modeflow.errors import ConfigError
from modeflow.latents.base import Description, LatentModel
from modeflow.latents.codes.kbest import k_best
from modeflow.latents.codes.objective import CodesObjective
from modeflow.latents.codes.quantizer import VectorQuantizer
from modeflow.latents.schedules import Schedule
from modeflow.transforms.base import weakest

__all__ = ["SequentialLatentModel"]

#: Strings drawn at once.
_STRINGS = 1024


class SequentialLatentModel(LatentModel):
    r"""``p(x) = Σ_z p(z) p(x | z)``, z a string of L codes out of V: NVF for images, and the VQ-VAE.

    .. math:: \log p(x) \ge \log \sum_{z \in S(x)} p(x \mid z)\, p(z)

    `log_prob` is this bound with the `sequences` strings that the quantiser finds likeliest, the nearest
    codes among them; it grows with their number and is exact when S holds all ``V ** L``. What a string costs
    under the prior is part of it: dropping the code length, as the paper's two-stage loss does, leaves out
    the information that z carries about x.

    Arguments:
        prior: p(z). likelihood: p(x|z), whose context is the codes of the string, ``context_features = L d``.
        encoder: x to ``(B, L, d)``, or to a map ``(B, d, h, w)`` that is read in raster order.
        quantizer: from there to codes.
        sequences: size of S. schedule: what is fitted when. stages: what is fitted, in order.
        chunk_rows: images (times strings) evaluated at once.

    Raises:
        ConfigError: parts that do not fit.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    def __init__(
        self,
        prior: SequencePrior,
        likelihood: Density,
        encoder: nn.Module,
        quantizer: VectorQuantizer,
        sequences: int = 1,
        schedule: Schedule = Schedule(),  # noqa: B008 (frozen)
        stages: tuple[str, ...] = ("joint",),
        chunk_rows: int = 256,
    ) -> None:
        super().__init__(likelihood.event_shape, 0)
        self.levels = likelihood.levels
        expected = prior.length * quantizer.code_features
        if likelihood.context_features != expected or prior.n_codes != quantizer.n_codes:
            raise ConfigError(
                f"strings of {prior.length} codes of {quantizer.code_features} numbers need a likelihood "
                f"with context_features={expected} and a prior over {quantizer.n_codes} codes, received "
                f"{likelihood.context_features} and {prior.n_codes}"
            )
        if not isinstance(sequences, int) or sequences < 1:
            raise ConfigError(f"sequences must be an integer of 1 or more, received {sequences!r}")
        self.prior, self.likelihood = prior, likelihood
        self.encoder, self.quantizer = encoder, quantizer
        self.sequences, self.chunk_rows = sequences, chunk_rows
        self.exactness = weakest("lower bound", likelihood.exactness)
        self.schedule, self.stages = schedule, stages
        self.loss = CodesObjective()

    # -- codes ----------------------------------------------------------------------------------

    def embed(self, x: Tensor) -> Tensor:
        """What the encoder says of each position, ``(B, L, d)``."""
        e = self.encoder(x)
        return e.flatten(2).mT if e.dim() == 4 else e

    def codes(self, x: Tensor) -> Tensor:
        """The nearest codes, ``(B, L)``."""
        return self.quantizer.log_approximate_posterior(self.embed(x)).argmax(-1)

    def approximate_posterior(self, x: Tensor) -> Tensor:
        """``q(z_j = v | x)``, shape ``(B, L, V)``."""
        self._check_event(x)
        return self.quantizer.log_approximate_posterior(self.embed(x)).exp()

    def _context(self, codes: Tensor) -> Tensor:
        return self.flat(self.quantizer.codebook[codes])

    @staticmethod
    def flat(embedded: Tensor) -> Tensor:
        """``(B, L, d)`` as a context, flat, in the order of a map ``(d, h, w)``."""
        return embedded.mT.flatten(1)

    def code_length(self, x: Tensor) -> Tensor:
        """``-log p(z)`` of the nearest codes: what they cost, nats, shape ``(B,)``."""
        return -self.prior.log_prob(self.codes(x))

    # -- the density ----------------------------------------------------------------------------

    def log_joint_of(self, x: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        """The likeliest strings of every row and ``log p(x, z)`` of each: ``(B, S, L)`` and ``(B, S)``."""
        strings, log_likelihood, log_prior = self._parts_of(x, sequences)
        return strings, log_likelihood + log_prior

    def _parts_of(self, x: Tensor, sequences: int) -> tuple[Tensor, Tensor, Tensor]:
        """The strings of `log_joint_of`, the likeliest first, with ``log p(x | z)`` and ``log p(z)``."""
        self._check_event(x)
        strings, _ = k_best(self.quantizer.log_approximate_posterior(self.embed(x)), sequences)
        shape = strings.shape[:2]
        flat, rows = strings.flatten(0, 1), x.repeat_interleave(shape[1], dim=0)
        parts = [
            torch.stack([self.likelihood._log_prob(r, self._context(z)), self.prior.log_prob(z)])
            for r, z in zip(rows.split(self.chunk_rows), flat.split(self.chunk_rows), strict=True)
        ]
        values = torch.cat(parts, 1) if parts else x.new_zeros(2, 0)
        return strings, values[0].view(shape), values[1].view(shape)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.top_k(x, self.sequences)

    def top_k(self, x: Tensor, sequences: int) -> Tensor:
        """The bound with this many strings, nats, shape ``(B,)``; monotone in their number."""
        return torch.logsumexp(self.log_joint_of(x, sequences)[1], dim=1)

    def validation_log_prob(self, x: Tensor) -> Tensor:
        """What the stage fits: `log_prob`, or one of its two parts at the nearest codes."""
        stage = self.schedule_now.stage
        if stage == "prior":
            return -self.code_length(x)
        return self.likelihood.log_prob(x, self.infer(x)) if stage == "flow" else self.log_prob(x)

    # -- sampling and fitting -------------------------------------------------------------------

    def infer(self, x: Tensor) -> Tensor:
        return self._context(self.codes(x))

    def read(self, x: Tensor) -> Tensor:
        return self.codes(x)

    def describe(self) -> Description:
        count, length = self.quantizer.n_codes, self.prior.length
        word = "an image" if len(self.event_shape) == 3 else "a row"
        return Description("codes", f"{count} codes, {length} {word}", count, "code")

    def rebuild_options(self) -> dict[str, Any]:
        """Of a pretrained prior the sizes, so that its weights are not looked for again."""
        sizes = self.prior.sizes
        return {} if sizes is None else {"prior_options": sizes}

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        """How many codes an event has, how many of all are used, and how evenly (`perplexity`)."""
        parts = [self.codes(part.to(self.device, self.dtype)) for part in x.split(self.chunk_rows)]
        codes = torch.cat(parts).cpu().numpy()
        share = np.bincount(codes.ravel(), minlength=self.quantizer.n_codes) / codes.size
        used = share[share > 0]
        return {
            "codes": {
                "per_image": int(codes.shape[1]),
                "used": len(used),
                "perplexity": float(np.exp(-(used * np.log(used)).sum())),
            }
        }

    def blend(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        e = torch.lerp(self.embed(x), self.embed(y), share)
        return self._context(self.quantizer.log_approximate_posterior(e).argmax(-1))

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            parts = [
                self.prior.draw_events(min(_STRINGS, n - start), None, generator, temperature)
                for start in range(0, max(n, 1), _STRINGS)
            ]
        codes = torch.cat(parts)
        return self._context(codes), codes

    def latent_cost(self, x: Tensor) -> Tensor:
        return self.code_length(x)

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, log_likelihood, log_prior = self._parts_of(x, self.sequences)
        return torch.logsumexp(log_likelihood + log_prior, 1), -log_prior[:, 0]

    @torch.no_grad()
    def perplexity(self, x: Tensor) -> float:
        """How many codes are used, ``exp`` of the entropy of their frequencies (V would be all alike)."""
        found: float = self.measure(x)["codes"]["perplexity"]
        return found
