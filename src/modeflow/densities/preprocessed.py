"""A density in the units of the data, around a model that lives in standardised units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modeflow.accelerate import unhooked
from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.densities.beside import Beside
from modeflow.densities.bounded import log_mean_of_draws
from modeflow.errors import ConfigError
from modeflow.nets.description import defines
from modeflow.transforms.base import Exactness, Transform, weakest
from modeflow.transforms.noise import even_streams, in_row_noise

__all__ = ["Preprocessed"]


class Preprocessed(Density):
    r"""``p(x) = p_model(T(x)) |det T'(x)|`` for a fixed transform T such as `Standardize`.

    Every number that leaves this class (likelihoods, losses, samples) is in the units of the data. The
    transform works in its own precision (float64 for `Standardize`); its result is cast to the type of
    the model.

    Where the transform draws (`Cells`, for columns on lattices) the density is a lower bound: one draw a row
    while training, otherwise the logarithm of the mean over `draws` evenly spread ones, which are a function
    of the row (`modeflow.transforms.noise.even_streams`).

    Arguments:
        transform: from the units of the data to those of the model.
        model: the density there.
        draws: of the transform, over which `log_prob` averages.
        beside: what shares the mass with the model, in its units (`Beside`), if anything does.

    Raises:
        ConfigError: if `draws` is less than one.
    """

    #: What the model has no use for, the model refuses.
    tempers = True

    def __init__(
        self, transform: Transform, model: Density, draws: int = 16, beside: Beside | None = None
    ) -> None:
        super().__init__(transform.event_shape or model.event_shape, model.context_features)
        if draws < 1:
            raise ConfigError(f"draws must be an integer of 1 or more, received {draws!r}")
        self.transform = transform
        self.model = model
        self.draws = draws
        self.beside = beside

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # What stands beside comes with the state, or not.
        means = state_dict.get(f"{prefix}beside.means")
        if means is None:
            self.beside = None
        elif self.beside is None or self.beside.means.shape != means.shape:
            other = None if self.beside is None else self.beside.other
            self.beside = Beside.like(means, other).to(self.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def n_parameters(self) -> int:
        """Free numbers: parameters of the model, and what stands beside it."""
        own = sum(p.numel() for p in self.parameters())
        return own if self.beside is None else own + self.beside.n_parameters

    def lift(
        self,
        u: Tensor,
        log_prob: Tensor,
        prior: Tensor | None = None,
        without: int | None = None,
        other: Tensor | None = None,
    ) -> Tensor:
        """Log-densities of the model in its units, ``(B,)`` or ``(B, K)``, with what stands beside it, of all
        columns or `without` one; see `Beside.lift`."""
        return log_prob if self.beside is None else self.beside.lift(u, log_prob, prior, without, other)

    def mixed_in(
        self,
        u: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Rows drawn from the model, ``(n, D)``, some of them in the place of which others come from beside;
        and which, ``(n,)``."""
        if self.beside is None:
            return u, torch.zeros(len(u), dtype=torch.bool, device=u.device)
        return self.beside.mixed_in(u, generator, temperature, prior_temperature)

    @property
    def exactness(self) -> Exactness:  # type: ignore[override]
        """What `log_prob` is; of a transform, not before it is fitted."""
        return weakest(self.transform.exactness, self.model.exactness)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def evaluations(self) -> int:
        """How often the model is evaluated for a row: `draws` where the transform draws."""
        return 1 if self.transform.exactness == "exact" else self.draws

    def averaged(
        self, log_prob: Callable[[Tensor], Tensor], x: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        """The logarithm of the mean over draws of a density of rows, with what stands beside the model.

        Arguments:
            log_prob: of rows in the model's units, ``(B, D)``, shape ``(B,)`` or ``(B, K)``.
            x: rows in the units of the data, ``(B, *event_shape)``.
            prior: of the K states, see `Beside.lift`.

        Returns:
            nats in the units of the data, of the shape that `log_prob` gives.
        """

        def one() -> Tensor:
            u, logabsdet = self.encode(x)
            found = self.lift(u, log_prob(u), prior)
            return found + logabsdet.view(-1, *(1,) * (found.dim() - 1))

        if self.transform.exactness == "exact" or (self.training and not in_row_noise()):
            return one()
        draws = 1 if self.training else self.draws
        return log_mean_of_draws(even_streams(x, draws, self), one)

    def traceable(self, log_prob: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`averaged` of a ``log_prob`` without a branch that looks at numbers, for `torch.export`.

        Raises:
            ConfigError: where the transform draws.
        """
        if self.transform.exactness != "exact":
            raise ConfigError(
                "columns on lattices, or with values that repeat, are scored by a mean over points drawn in "
                "their cells, which is no graph: use modeflow score, or fit with dequantize='none' where the "
                "numbers are measurements"
            )
        lift = None if self.beside is None else self.beside.traceable()

        def averaged(x: Tensor) -> Tensor:
            u, logabsdet = self.encode(x)
            found = log_prob(u)
            return logabsdet + (found if lift is None else lift(u, found))

        return averaged

    def encode_drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode`, where the transform draws by one draw that is a function of the row."""
        if self.transform.exactness == "exact":  # no noise, and no need to hash the rows for it
            return self.encode(x)
        with next(iter(even_streams(x, 1, self))):
            return self.encode(x)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to the model's units: ``(u, logabsdet)``, both of the model's type.

        Of columns on lattices the middle of the cell; while training, or within a stream of noise, a point of
        it.
        """
        u, logabsdet = self.transform(x)
        dtype = self.model.dtype
        return u.to(dtype), logabsdet.to(dtype)

    def decode(self, u: Tensor) -> Tensor:
        """The model's units to those of the data (float64 for `Standardize`), as samples have them."""
        return self.transform.sample(u)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.averaged(lambda u: self.model.log_prob(u, context), x)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        u = self.model.draw_events(n, context, generator, temperature)
        return self.decode(self.mixed_in(u, generator, temperature)[0])

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._must_be_differentiable()
        u, log_prob = self.model.rsample_and_log_prob(n, context, generator)
        x, logabsdet = self.transform.inverse(u)
        return x, log_prob - logabsdet.to(log_prob)

    def rsample_strata(
        self, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._must_be_differentiable()
        u, log_prob, log_weights = self.model.rsample_strata(n, generator)
        x, logabsdet = self.transform.inverse(u.flatten(0, 1))
        x = x.view(*u.shape[:2], *self.event_shape)
        return x, log_prob - logabsdet.to(log_prob).view(u.shape[:2]), log_weights

    def _must_be_differentiable(self) -> None:
        if not self.transform.bijective or self.transform.exactness != "exact":
            raise NotImplementedError("a transform that draws has no reparametrised sampler: use sample")
        if self.beside is not None:
            raise NotImplementedError(
                "rows from beside the model are not reparametrised: fit with stacking=False"
            )

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        return self._objective(*self.encode(x), weight, step)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """The rows in the units of the model and their log-determinants, where no step changes them."""
        plain = type(self).objective is Preprocessed.objective and type(self).encode is Preprocessed.encode
        settled = defines(self.transform, "settled") and unhooked(self.transform)
        if plain and settled and not any(p.requires_grad for p in self.transform.parameters()):
            return self.encode(x)
        return (x,)

    def objective_of(
        self, prepared: tuple[Tensor, ...], weight: Tensor | None = None, step: int | None = None
    ) -> Loss:
        if len(prepared) == 1:
            return self.objective(prepared[0], weight, step)
        u, logabsdet = prepared
        return self._objective(u, logabsdet, weight, step)

    def _objective(self, u: Tensor, logabsdet: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        loss = self.model.objective(u, weight, step)
        volume = weighted_mean(logabsdet, weight)
        terms = dict(loss.terms)
        if "nll" in terms:
            terms["nll"] = terms["nll"] - volume.detach()
        return Loss(loss.value - volume, terms)

    def epoch_metrics(self) -> dict[str, float]:
        """Metrics of the model inside, for the training log."""
        inner = getattr(self.model, "epoch_metrics", None)
        return inner() if inner is not None else {}
