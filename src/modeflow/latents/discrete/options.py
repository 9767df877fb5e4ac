"""Options of a discrete latent, of tables and of images, and of none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from modeflow.densities.base import Density
from modeflow.densities.features import Feature, as_features
from modeflow.densities.mixed_rows import MixedRows
from modeflow.errors import ConfigError
from modeflow.latents.discrete.mixed import MixedStart, RowNet
from modeflow.latents.discrete.model import DiscreteLatentModel
from modeflow.latents.discrete.objectives import Objective, build_objective
from modeflow.latents.discrete.start import IslandStart
from modeflow.latents.discrete.start_images import ClusterStart
from modeflow.latents.options import ImageLatent, Images, ImageShape, LatentOptions, TableLatent, check_widths
from modeflow.latents.posteriors import CategoricalEncoder
from modeflow.latents.priors import CategoricalPrior
from modeflow.nets.encoder import ConvVectorEncoder
from modeflow.options import check_choice, check_sizes

__all__ = ["DiscreteOptions", "ImageStates", "NoLatent"]

#: Steps for which rows keep the states they start in, at the most.
_HOLD_STEPS = 500
#: Longest warm-up and annealing, in steps: early stopping may come soon after.
_LONGEST_WARMUP, _LONGEST_ANNEALING = 2_000, 4_000
#: Options of objectives.
_OF_OBJECTIVES = (
    "epsilon", "explore", "hold_steps", "temperature", "final_temperature", "anneal_steps", "kl_warmup_steps",
)  # fmt: skip


@dataclass(kw_only=True)
class _States(LatentOptions):
    """What states of tables and of images share.

    Arguments:
        prior: of the states, "learned" or "uniform".
        objective: what is minimised, "truncated", "marginal", "elbo-sum" or "elbo" (that of the paper); see
            `modeflow.latents.discrete.objectives`. Where an option below is none of its own it is refused.
        epsilon: of "truncated", the encoder's mass below which a state is left out of a row, in [0, 1); 0.01
            if None.
        explore: of "truncated", states that are added at random, a row, on average; 0.02 if None.
        hold_steps: of "truncated" and "marginal", optimiser steps for which rows keep the states they start
            in; None for a third of all in tables, at most 500, and for none in images.
        temperature: of the Gumbel-softmax sample of "elbo", at the start; 1 if None.
        final_temperature: what it falls to; 0.5 if None.
        anneal_steps: optimiser steps in which it falls; None for half of all, at most 4,000.
        kl_warmup_steps: of "elbo" and "elbo-sum", optimiser steps over which the weight of the KL term rises
            to one; None for a tenth of all, at most 2,000.
    """

    prior: str = "learned"
    objective: str = "truncated"
    epsilon: float | None = None
    explore: float | None = None
    hold_steps: int | None = None
    temperature: float | None = None
    final_temperature: float | None = None
    anneal_steps: int | None = None
    kl_warmup_steps: int | None = None

    def __post_init__(self) -> None:
        check_choice("prior", self.prior, ("learned", "uniform"))
        self.build_objective()

    def build_objective(self) -> Objective:
        """The objective, with its own defaults where an option is None.

        Raises:
            ConfigError: for an unknown one, an option that it has no use for, or a value that is not allowed.
        """
        given = {name: getattr(self, name) for name in _OF_OBJECTIVES}
        return build_objective(self.objective, **{k: v for k, v in given.items() if v is not None})

    def for_steps(self, steps: int) -> Self:
        lengths: dict[str, Any] = {}
        if self.objective in ("elbo", "elbo-sum"):
            lengths["kl_warmup_steps"] = min(steps // 10, _LONGEST_WARMUP)
        if self.objective == "elbo":
            lengths["anneal_steps"] = min(steps // 2, _LONGEST_ANNEALING)
        if self.objective in ("truncated", "marginal"):
            lengths["hold_steps"] = self._hold_steps(steps)
        return replace(self, **{k: v for k, v in lengths.items() if getattr(self, k) is None})

    def _hold_steps(self, steps: int) -> int:
        return 0

    def _model(
        self,
        n_states: int,
        likelihood: Callable[[int], Density],
        encoder: Callable[[], CategoricalEncoder],
        starter: Any,
        **options: Any,
    ) -> DiscreteLatentModel:
        """The parts in the order in which their parameters are drawn."""
        several = n_states > 1
        density = likelihood(n_states if several else 0)
        prior = CategoricalPrior(n_states, learned=self.prior == "learned")
        parts = (encoder(), self.build_objective()) if several else (None, None)
        model = DiscreteLatentModel(prior, density, *parts, **options)
        model.starter = starter
        return model


@dataclass(kw_only=True)
class DiscreteOptions(_States, TableLatent):
    """A discrete latent of tables: K states, their number a parameter of its own.

    Of mixed rows p(x|z) is a chain: codes each given those before it (`AutoregressiveCodes`), angles given
    the codes, and the flow of the reals given both (`MixedRows`).

    Arguments:
        encoder_features: hidden widths of the encoder q(z|x).
        code_features: width of the masked network of codes.
        code_blocks: number of its residual blocks.
        code_dropout: share of its hidden units left out of a step of the training.
    """

    mixed: ClassVar[bool] = True

    encoder_features: Sequence[int] = (64, 64)
    code_features: int = 128
    code_blocks: int = 1
    code_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("encoder_features", self.encoder_features)
        check_sizes(code_features=self.code_features, code_blocks=self.code_blocks)
        if not 0 <= self.code_dropout < 1:
            raise ConfigError(f"code_dropout must lie in [0, 1), received {self.code_dropout!r}")

    def _hold_steps(self, steps: int) -> int:
        return min(_HOLD_STEPS, steps // 3)

    def model(
        self, features: int | Sequence[Feature], n_states: int, likelihood: Callable[[int], Density]
    ) -> DiscreteLatentModel:
        check_sizes(n_states=n_states)
        columns, k = as_features(features), int(n_states)
        if columns == (Feature(),) * len(columns):

            def encoder() -> CategoricalEncoder:
                return CategoricalEncoder(len(columns), k, self.encoder_features)

            return self._model(k, likelihood, encoder, IslandStart())

        def density(context: int) -> Density:
            of_codes = self.code_features, self.code_blocks, self.code_dropout
            return MixedRows(columns, context, likelihood, *of_codes)

        def row_encoder() -> CategoricalEncoder:
            return CategoricalEncoder(n_states=k, net=RowNet(columns, k, self.encoder_features))

        return self._model(k, density, row_encoder, MixedStart())


@dataclass(kw_only=True)
class ImageStates(_States, ImageLatent):
    """A discrete latent of images.

    Arguments:
        n_states: K, how many states; with 1 there is no latent.
        encoder_channels: width of the encoder.
    """

    n_states: int = 10
    encoder_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(n_states=self.n_states, encoder_channels=self.encoder_channels)

    def model(
        self, images: Images, likelihood: Callable[[int, ImageShape | None], Density]
    ) -> DiscreteLatentModel:
        def encoder() -> CategoricalEncoder:
            sizes = (self.n_states, self.encoder_channels, images.halvings, images.levels)
            return CategoricalEncoder(n_states=self.n_states, net=ConvVectorEncoder(images.shape, *sizes))

        def density(context: int) -> Density:
            return likelihood(context, None)

        return self._model(self.n_states, density, encoder, ClusterStart(), chunk_rows=self.chunk_rows)


@dataclass(kw_only=True)
class NoLatent(ImageLatent):
    """No latent: one density for all images. It has no options."""

    def model(
        self, images: Images, likelihood: Callable[[int, ImageShape | None], Density]
    ) -> DiscreteLatentModel:
        density = likelihood(0, None)
        return DiscreteLatentModel(CategoricalPrior(1), density, None, None, chunk_rows=self.chunk_rows)
