"""The model with a continuous latent: a conditional density under every z, evaluated by a bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, weighted_mean
from modeflow.errors import ConfigError
from modeflow.latents.approximate import Approximate, NetworkPosterior, Posterior
from modeflow.latents.base import Description, LatentModel
from modeflow.latents.continuous.gaps import inference_gaps
from modeflow.latents.continuous.objective import (
    ContinuousELBO,
    ContinuousObjective,
    MCMCLikelihood,
    power_mean,
)
from modeflow.latents.continuous.refine import Refinement
from modeflow.latents.langevin import ChainPosterior, Langevin, log_joint_of, own_noise
from modeflow.latents.vamp import VampPrior
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.noise import row_noise

__all__ = ["ContinuousLatentModel"]

#: Draws of z where validation is scored while training.
_QUICK_DRAWS = 8
#: Variance over rows of the mean of a dimension of z, above which it is active (Burda et al. 2016); rows, and
#: draws of each, by which the mutual information is estimated.
_ACTIVE, _INFORMED_ROWS, _INFORMED_DRAWS = 0.01, 128, 4
#: Rows whose gaps are measured (fewer where fewer are evaluated at once), steps to the best q of each, draws.
_GAP_ROWS, _GAP_STEPS, _GAP_DRAWS = 64, Refinement(steps=50, learning_rate=0.2, draws=1), 32


class ContinuousLatentModel(LatentModel):
    r"""``p(x) = ∫ p(z) p(x | z) dz`` with z in R^L: NVF for manifolds, and the VAE.

    .. math:: \log p(x) \ge E \log \frac1S \sum_{s=1}^S \frac{p(x \mid z_s)\, p(z_s)}{q(z_s \mid x)},
        \qquad z_s \sim q(z \mid x)

    `log_prob` is this bound (IWAE) with S = `draws`; the noise is a function of the row alone, so a row has
    the same value in every call and batch. With one draw it is the evidence lower bound; with more it is
    tighter in expectation, and exact in the limit.

    Arguments:
        prior: p(z), a density over ``(L,)``.
        likelihood: p(x|z), a density whose context is z, ``context_features = L``.
        encoder: of q(z|x), see `modeflow.latents.posteriors`; or any network called as
            ``network(x) -> Approximate``.
        objective: what `objective` minimises; a `ChainPosterior` is learned by `MCMCLikelihood`, any other by
            the `ContinuousELBO`.
        draws: S.
        chunk_rows: rows (of data times draws) evaluated at once where no gradient is needed.
        refine: steps towards p(z|x) that z takes, from the middle of q(z|x), where it is read (`infer`,
            `read`, `reconstruct`); the bounds stay those of q. Not of a z on the sphere.
        refinement: of q(z|x) for every row, where the model is evaluated; training and what scores it go
            by the encoder alone.

    Where the encoder is a point (`CorePosterior`) z is a function of x, every draw has the same weight, and
    `log_prob` is exact, of numbers; of whole numbers it is the bound by draws of the noise within them.

    Raises:
        ConfigError: parts of different widths, that do not fit, less than one draw, or free bits of another
            prior.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638; Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*,
        2016, https://arxiv.org/abs/1509.00519
    """

    def __init__(
        self,
        prior: Density,
        likelihood: Density,
        encoder: Posterior | nn.Module,
        objective: ContinuousObjective | None = None,
        draws: int = 64,
        chunk_rows: int = 4096,
        refine: Langevin | None = None,
        refinement: Refinement | None = None,
    ) -> None:
        super().__init__(likelihood.event_shape, 0)
        self.levels = likelihood.levels
        if len(prior.event_shape) != 1 or likelihood.context_features != prior.event_shape[0]:
            raise ConfigError(
                f"a latent of shape {prior.event_shape} needs a likelihood with as many context_features, "
                f"received {likelihood.context_features}"
            )
        if not isinstance(draws, int) or draws < 1:
            raise ConfigError(f"draws must be an integer of 1 or more, received {draws!r}")
        self.prior = prior
        self.likelihood = likelihood
        self.encoder = encoder if isinstance(encoder, Posterior) else NetworkPosterior(encoder)
        chained = isinstance(self.encoder, ChainPosterior)
        usual: ContinuousObjective = MCMCLikelihood() if chained else ContinuousELBO()
        self.loss = usual if objective is None else objective
        if isinstance(self.loss, MCMCLikelihood) != chained:
            raise ConfigError(
                f"{type(self.encoder).__name__} is learned by {type(usual).__name__}, not by "
                f"{type(self.loss).__name__}"
            )
        point = self.encoder.point
        if refine is not None and (chained or point or self.encoder.support != "space"):
            raise ConfigError(
                "Langevin steps refine a posterior in R^L that has none of its own, not "
                f"{type(self.encoder).__name__}"
            )
        self.refine = refine
        self.encoder.check(likelihood, prior)
        if point and (refinement is not None or self.loss.alone or self.loss.gradient != "total"):
            raise ConfigError(
                f"{type(self.encoder).__name__} is a point: it has no density of its own for a refinement or "
                f"for {type(self.loss).__name__} with gradient={self.loss.gradient!r}: leave those out"
            )
        if isinstance(prior, VampPrior):
            prior.check(self.encoder, self.loss.alone)
        closed = self.encoder.closed_kl and isinstance(prior, self.encoder.closed_prior)
        if self.loss.free_bits and not closed:
            raise ConfigError(
                "free_bits are of a posterior and a prior of closed divergence, as a Gaussian and N(0, I)"
            )
        if self.loss.alone and self.encoder.follows:
            raise ConfigError(
                f"{type(self.encoder).__name__} is made of the likelihood, which {type(self.loss).__name__} "
                "would move with q: fit it by the objective elbo, iwae or renyi"
            )
        sure = point and likelihood.levels is None
        self.draws, self.chunk_rows, self.refinement = 1 if sure else draws, chunk_rows, refinement
        own: Exactness = "exact" if sure else "lower bound"
        self.exactness = weakest(own, likelihood.exactness, prior.exactness)
        #: Cells that are missing are left out of the likelihood and of what finds z.
        self.fills = self.encoder.takes_missing and likelihood.leaves_out
        self.marginals = self.exactness

    @property
    def latent_features(self) -> int:
        """L, the dimension of z."""
        return self.prior.event_shape[0]

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)``, shape ``(B,)``, for z ``(B, L)``."""
        return self.likelihood._log_prob(self.encoder.seen(x), z)

    # -- the approximate posterior --------------------------------------------------------------------------

    def amortised_posterior(self, x: Tensor) -> Approximate:
        """q(z | x) by the encoder, a distribution over z for every row."""
        self._check_event(x)
        return self.encoder.approximate(x, self.likelihood, self.prior)

    def joint_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x, z)`` of rows ``(B, *event_shape)`` and z ``(B, L)``, nats, ``(B,)``.

        With ``z = model.read(x)`` it is the decision score of a latent flow for odd rows: the lower, the
        odder.
        """
        self._check_event(x)
        if self.encoder.point:
            raise ConfigError("z is a function of x: there is log p(x), log_prob, and no density of both")
        return log_joint_of(x, self.likelihood, self.prior)(z)

    def chain(self, x: Tensor) -> list[Tensor]:
        """z along the chains of a `ChainPosterior`, ``(B, L)`` each."""
        assert isinstance(self.encoder, ChainPosterior)
        return self.encoder.chain(x, self.likelihood, self.prior)

    def approximate_posterior(self, x: Tensor) -> Approximate:
        """q(z | x), a distribution over z for every row: the encoder's, or what `refinement` makes of it."""
        q = self.amortised_posterior(x)
        return q if self.refinement is None or self.training else self.refinement(self, x, q)

    # -- the bounds -----------------------------------------------------------------------------

    def log_weights(self, x: Tensor, draws: int | None = None) -> Tensor:
        """``log p(x, z_s) - log q(z_s | x)`` of every draw, shape ``(B, S)``, nats.

        Arguments:
            x: rows, shape ``(B, *event_shape)``.
            draws: S; that of the model if None.
        """
        self._check_event(x)
        count = self.draws if draws is None else draws
        if torch.is_grad_enabled() or len(x) <= self.chunk_rows:
            return self._log_weights(x, count)
        return torch.cat([self._log_weights(part, count) for part in x.split(self.chunk_rows)])

    def _log_weights(self, x: Tensor, draws: int) -> Tensor:
        return self.log_weights_of(x, self.approximate_posterior(x), draws)

    def log_weights_of(self, x: Tensor, q: Approximate, draws: int) -> Tensor:
        """`log_weights` by draws of another q of these rows."""
        columns = []
        for draw in range(draws):
            with row_noise(x, draw, self):
                z, log_q = q.rsample_and_log_prob()
                joint = self.likelihood_log_prob(x, z) + self.prior._log_prob(z, None)
            columns.append(joint - log_q)
        return torch.stack(columns, dim=1)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.iwae(x)

    def iwae(self, x: Tensor, draws: int | None = None) -> Tensor:
        """The importance-weighted lower bound with `draws` draws of z (the model's if None), nats."""
        return power_mean(self.log_weights(x, draws), 1.0, dim=1)

    def renyi(self, x: Tensor, alpha: float = 0.5, draws: int | None = None) -> Tensor:
        """Rényi's bound by `draws` draws of z, nats, ``(B,)``: a lower one for alpha of 0 or more.

        `iwae` at 0, `elbo` at 1; see `RenyiBound`.
        """
        return power_mean(self.log_weights(x, draws), 1 - alpha, dim=1)

    def cubo(self, x: Tensor, order: float = 2.0, draws: int | None = None) -> Tensor:
        """The χ upper bound, estimated by `draws` draws of z, nats, ``(B,)``.

        The estimate lies below the bound on average, and with few draws below log p(x) too; see `CUBO`.
        """
        return power_mean(self.log_weights(x, draws), order, dim=1)

    def elbo(self, x: Tensor, draws: int | None = None) -> Tensor:
        """The evidence lower bound, its expectation over `draws` draws of z, nats, shape ``(B,)``."""
        return self.log_weights(x, draws).mean(1)

    def both_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`elbo` and `iwae` of every row from the same draws, nats, both ``(B,)``."""
        weights = self.log_weights(x)
        return weights.mean(1), power_mean(weights, 1.0, dim=1)

    # -- sampling and fitting -------------------------------------------------------------------

    @property
    def n_draws(self) -> int:
        return self.draws

    def validation_log_prob(self, x: Tensor) -> Tensor:
        """`iwae` with few draws, by the encoder: what is compared is the same bound at every epoch."""
        count = min(self.draws, _QUICK_DRAWS)
        parts = [x] if torch.is_grad_enabled() else x.split(self.chunk_rows)
        found = [self.log_weights_of(part, self.amortised_posterior(part), count) for part in parts]
        return power_mean(torch.cat(found), 1.0, dim=1)

    def infer(self, x: Tensor) -> Tensor:
        z = self.approximate_posterior(x).centre()
        if self.refine is None:
            return z
        with own_noise(x, self):
            return self.refine.move(log_joint_of(x, self.likelihood, self.prior), z)

    def read(self, x: Tensor) -> Tensor:
        return self.infer(x)

    @torch.no_grad()
    def finish(
        self,
        train: Tensor,
        validation: Tensor,
        weight: Tensor | None = None,
        validation_weight: Tensor | None = None,
        prune: bool = True,
    ) -> list[int]:
        def bound() -> float:
            parts = validation.split(self.chunk_rows)
            return float(weighted_mean(torch.cat([self.elbo(p, 1) for p in parts]), validation_weight))

        if len(validation):
            self.encoder.calibrate(bound)
        return []

    def sums_out(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), dtype=torch.bool) if self.fills else super().sums_out(x)

    @torch.no_grad()
    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The rows with every missing cell (NaN) drawn: z by a chain on the cells that are there, the others
        from p(x|z).

        It is supervised inpainting by a model that was learned from complete rows, and unsupervised recovery
        by one that was learned from such with missing cells.

        Raises:
            ConfigError: for a posterior that takes complete rows alone, or a flow.
        """
        if not self.fills:
            return super().complete(x, generator)
        z = self.encoder.walk(x, self.likelihood, self.prior, generator)
        return torch.where(x.isnan(), self.decode(z, len(x), generator).to(x), x)

    def read_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.approximate_posterior(x).moments()

    @torch.no_grad()
    def decode(
        self,
        context: Tensor | None,
        n: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        drawn = super().decode(context, n, generator, temperature)
        return drawn if context is None else self.encoder.fill(drawn, context, self.levels)

    def describe(self) -> Description:
        return Description(
            "continuous", f"continuous, dimension {self.latent_features}", self.latent_features, "z"
        )

    def blend(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        return self.encoder.between(self.infer(x), self.infer(y), share)

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z = self.prior.draw_events(n, None, generator, temperature)
        return z, z

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        r"""How much of z is used, averaged over rows, nats: ``continuous``, with

        * ``kl``, the mean of KL(q(z|x) || p(z)), and ``kl_each``, of every dimension where it is known;
        * ``active``, how many dimensions have a mean that varies from row to row by more than 0.01 (not on a
          sphere, where they have no meaning of their own), ``dimensions``, L;
        * ``mutual_information``, of z and x under q, by the mixture of q(z|x) of ``rows`` rows, of whose
          logarithm it is at the most (not where z is a function of x);
        * ``gaps``, of some of the rows: `modeflow.latents.Gaps`.
        """
        if len(x) == 0:
            return {}
        parts = [self._use_of(part.to(self.device, self.dtype)) for part in x.split(self.chunk_rows)]
        means, costs, noise = (torch.cat(each) for each in zip(*parts, strict=True))
        found: dict[str, Any] = {"dimensions": self.latent_features, "kl": float(costs.sum(1).mean())}
        if costs.shape[1] == self.latent_features > 1:
            found["kl_each"] = costs.mean(0).tolist()
        if self.encoder.support == "space" and len(x) > 1:
            found["active"] = int((means.var(0) - noise.mean(0) > _ACTIVE).sum())
        if self.encoder.point:
            return {"continuous": found}
        few = x[:_INFORMED_ROWS].to(self.device, self.dtype)
        found |= {"mutual_information": self._information(few), "rows": len(few)}
        if self.amortised_posterior(few[:1]).has_numbers:
            some = few[: min(_GAP_ROWS, max(2, self.chunk_rows // 8))]
            found["gaps"] = inference_gaps(self, some, _GAP_STEPS, _GAP_DRAWS).to_dict()
        return {"continuous": found}

    def _use_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of z ``(B, L)``, what it costs, by part where that is known ``(B, P)``, and the variance that
        the means have by being those of draws, ``(B, L)``."""
        q = self.approximate_posterior(x)
        each, (mean, spread) = q.kl(self.prior), q.moments()
        cost = self.latent_cost(x).unsqueeze(1) if each is None else each
        return mean, cost, spread.square() / q.moment_draws

    def _information(self, x: Tensor) -> float:
        """``E log q(z | x) - log (1/N) Σ_i q(z | x_i)`` over these rows, four draws of z each."""
        q, drawn, own = self.approximate_posterior(x).proposal, [], []
        for draw in range(_INFORMED_DRAWS):
            with row_noise(x, draw, self):
                z, log_q = q.rsample_and_log_prob()
            drawn.append(z)
            own.append(log_q)
        every = [torch.stack(own)]
        for k in range(1, len(x)):  # of every row under the posterior of every other
            if q.has_numbers:
                other = q.of_numbers(*(number.roll(k, 0) for number in q.numbers()))
            else:
                other = self.approximate_posterior(x.roll(k, 0))
            every.append(torch.stack([other.log_prob(z) for z in drawn]))
        mixture = torch.logsumexp(torch.stack(every), 0) - math.log(len(x))
        return float((every[0] - mixture).mean())

    def latent_cost(self, x: Tensor) -> Tensor:
        q = self.approximate_posterior(x)
        each = q.kl(self.prior)
        if each is not None:
            return each.sum(-1)
        with row_noise(x, 0, self):
            z, log_q = q.rsample_and_log_prob()
        return log_q - self.prior.log_prob(z)
