"""The model with a sequential latent: strings of codes, evaluated by the likeliest of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.densities.sequences import SequencePrior
from modeflow.errors import ConfigError
from modeflow.latents.base import LatentModel, Schedule
from modeflow.latents.kbest import k_best
from modeflow.latents.objectives import warmup
from modeflow.transforms.base import weakest

__all__ = ["SequentialLatentModel", "VectorQuantizer"]

#: Strings drawn at once.
_STRINGS = 1024


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
        sequences: size of S. schedule: what is fitted when.
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
        self.schedule = schedule

    # -- codes ----------------------------------------------------------------------------------

    def embed(self, x: Tensor) -> Tensor:
        """What the encoder says of each position, ``(B, L, d)``."""
        e = self.encoder(x)
        return e.flatten(2).mT if e.dim() == 4 else e

    def codes(self, x: Tensor) -> Tensor:
        """The nearest codes, ``(B, L)``."""
        return self.quantizer.log_approximate_posterior(self.embed(x)).argmax(-1)

    def _context(self, codes: Tensor) -> Tensor:
        return self._flat(self.quantizer.codebook[codes])

    @staticmethod
    def _flat(embedded: Tensor) -> Tensor:
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

    # -- sampling and fitting -------------------------------------------------------------------

    def infer(self, x: Tensor) -> Tensor:
        return self._context(self.codes(x))

    def read(self, x: Tensor) -> Tensor:
        return self.codes(x)

    def blend(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        e = torch.lerp(self.embed(x), self.embed(y), share)
        return self._context(self.quantizer.log_approximate_posterior(e).argmax(-1))

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            parts = [
                self.prior.sample(min(_STRINGS, n - start), generator, temperature)
                for start in range(0, max(n, 1), _STRINGS)
            ]
        codes = torch.cat(parts)
        return self._context(codes), codes

    def latent_cost(self, x: Tensor) -> Tensor:
        return self.code_length(x)

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, log_likelihood, log_prior = self._parts_of(x, self.sequences)
        return torch.logsumexp(log_likelihood + log_prior, 1), -log_prior[:, 0]

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        return self.decode(self.draw(n, generator)[0], n, generator, temperature)

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        """Negative log-likelihood given the nearest codes, commitment, and their code length, by stage.

        The code length has a gradient to both ends: the prior learns what codes cost, and the encoder to
        choose cheap ones, through ``Σ_j Σ_v q(z_j = v | x) (-log p(v | z_<j))`` (what a choice does to later
        positions is left out of it).
        """
        schedule = self.schedule
        if schedule.stage == "prior":
            with torch.no_grad():
                codes = self.codes(x)
            nll = weighted_mean(-self.prior.log_prob(codes), weight)
            return Loss(nll, {"code_length": nll.detach()})
        e = self.embed(x)
        # Early on a dead code is a waste. Later it is one that does not pay: revived, it would take positions
        # at random from codes that the flow and the prior know.
        settled = max(schedule.start_steps, schedule.code_warmup_steps)
        revive = step is None or settled == 0 or step < settled
        learn = step is None or schedule.codebook_steps is None or step < schedule.codebook_steps
        quantised, codes, commitment = self.quantizer(e, revive, learn)
        nll = weighted_mean(-self.likelihood._log_prob(x, self._flat(quantised)), weight)
        terms = {"nll": nll.detach(), "commitment": commitment.detach()}
        loss = nll + commitment
        if schedule.stage == "joint":
            log_p = self.prior.log_probs(codes)
            chosen = log_p.gather(2, codes.unsqueeze(-1)).squeeze(-1).sum(1)
            length = weighted_mean(-chosen, weight)
            terms["code_length"] = length.detach()
            expected = -(self.quantizer.log_approximate_posterior(e).exp() * log_p.detach()).sum((1, 2))
            pressure = weighted_mean(expected, weight) * warmup(step, schedule.code_warmup_steps)
            loss = loss + length + pressure - pressure.detach()
        return Loss(loss, terms)

    @torch.no_grad()
    def perplexity(self, x: Tensor) -> float:
        """How many codes are used, ``exp`` of the entropy of their frequencies (V would be all alike)."""
        counts = torch.bincount(self.codes(x).flatten(), minlength=self.quantizer.n_codes).double()
        share = counts / counts.sum()
        return math.exp(float(-(share * share.clamp_min(1e-300).log()).sum()))
