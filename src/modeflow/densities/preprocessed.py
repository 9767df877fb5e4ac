"""A density in the units of the data, around a model that lives in standardised units."""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.transforms.base import Transform, weakest

__all__ = ["Preprocessed"]


class Preprocessed(Density):
    r"""``p(x) = p_model(T(x)) |det T'(x)|`` for a fixed transform T such as `Standardize`.

    Every number that leaves this class (likelihoods, losses, samples) is in the units of the data. The
    transform works in its own precision (float64 for `Standardize`); its result is cast to the type of
    the model.
    """

    #: What the model has no use for, the model refuses.
    tempers = True

    def __init__(self, transform: Transform, model: Density) -> None:
        super().__init__(model.event_shape, model.context_features)
        self.transform = transform
        self.model = model
        self.exactness = weakest(transform.exactness, model.exactness)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to the model's units: ``(u, logabsdet)``, both of the model's type."""
        u, logabsdet = self.transform(x)
        return u.to(self.model.dtype), logabsdet.to(self.model.dtype)

    def decode(self, u: Tensor) -> Tensor:
        """The model's units to those of the data (float64 for `Standardize`), as samples have them."""
        return self.transform.sample(u)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        u, logabsdet = self.encode(x)
        return self.model.log_prob(u, context) + logabsdet

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        return self.decode(self.model.draw_events(n, context, generator, temperature))

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        u, logabsdet = self.encode(x)
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
