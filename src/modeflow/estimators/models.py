"""The two estimators: their parameters and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.images import ImageDensity

__all__ = ["ESTIMATORS", "NVF", "FlowDensity"]

_COMMON = """flow: name of the flow, see ``modeflow models`` (`modeflow.flows.FLOWS`), or ``"auto"``: of the
            spline flows in `modeflow.estimators.settings.FLOW_CHOICES` (autoregressive, deep or shallow, and
            coupling) the one that is best on rows it was not fitted to; see `modeflow.estimators.selection`.
        flow_options: keyword arguments of the flow, such as ``{"layers": 4, "hidden_features": 32}``. Of the
            spline flows some are set unless given (`modeflow.estimators.settings.FLOW_DEFAULTS`).
        max_epochs: longest training; it ends earlier where validation stops improving. ``"auto"``: as many as
            make 20,000 steps, at least 30.
        batch_size: rows a step; ``"auto"`` makes about a hundred steps an epoch, within 64 to 1024 rows.
        learning_rate, weight_decay: of AdamW, whose decay is decoupled.
        schedule: of the learning rate: ``"plateau"``, constant until `patience` is used up and then falling
            to zero over half as many steps again, from the best weights; ``"cosine"`` over `max_epochs`; or
            ``"constant"``.
        ema: decay of an exponential average of the weights, used in their place; None for none.
        patience: evaluations (one an epoch, or where epochs are shorter, every 50 steps) without improvement
            on validation before the learning rate falls or, with another schedule, training stops; None for
            never.
        validation_fraction: share of the rows held out, where `fit` receives no validation rows.
        dequantize: ``"auto"`` finds the columns on a lattice (whole numbers, cents) and its step, ``"none"``
            takes all for continuous; or the names of those on a lattice; or a mapping from names to a step,
            "auto", "none" or ``{{"step": ..., "low": ..., "high": ...}}``, see `Schema.infer`.
        score_draws: offsets averaged over when rows with columns on a lattice are scored.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; devices: how many processes; precision: of training,
            ``"32-true"`` or as lightning-fabric names it. Densities are always scored in float64.
        random_state: seed; fitting neither reads nor disturbs torch's global generator.
        tensorboard: also write TensorBoard events, where `fit` has a `run_dir`.
        verbose: show progress: a bar on a terminal, else a line now and then.

    Attributes:
        model_: the fitted torch density, in the units of the data.
        schema_: names and kinds of the columns.
        flow_, flow_options_: the flow that was built, with all options that were set.
        n_states_, weights_: states in use and their prior probabilities.
        validation_: mean log-density of the held-out rows, with standard error and kind.
        history_: one row an epoch. training_: how training ended. dead_states_: states switched off.
"""


class NVF(DensityEstimator):
    __doc__ = rf"""Normalizing flow with a discrete latent: an exact density for data with isolated modes.

    .. math:: p(x) = \sum_{{k=1}}^{{K}} \pi_k\, p(x \mid z = k)

    The states z and the flow that all of them share are learned together; which state a row belongs to is
    its posterior (`predict_proba`). With ``n_states=1`` it is the plain flow.

    Arguments:
        n_states: K, or ``"auto"``: the islands that are visible in the data, or another number up to
            `max_states` that is clearly better on rows it was not fitted to. What both choices cost together
            is measured in docs/benchmarks.md: about as much again as the fit itself.
        max_states: largest K tried by ``"auto"``.
        latent: ``"discrete"`` (islands), or ``"continuous"`` for data along a manifold: z is then Gaussian
            with `latent_features` dimensions, the density a lower bound (IWAE with `score_draws` draws of
            z), and `encode` says where on it a row lies; what concerns states is not used.
        latent_features: dimensions of a continuous latent.
        posterior: of a continuous z: ``"gaussian"``, ``"full-gaussian"`` or ``"iaf"``, see
            `modeflow.latents.posteriors`.
        prior: ``"learned"`` or ``"uniform"``.
        objective: what is minimised: ``"truncated"``, ``"marginal"``, ``"elbo-sum"`` or ``"elbo"``, see
            `modeflow.latents.discrete.objectives`.
        objective_options: ``epsilon`` and ``explore`` of "truncated"; ``kl_warmup_steps`` of both ELBOs
            (default: a tenth of all steps); ``temperature``, ``final_temperature``, ``anneal_steps`` of
            "elbo" (default: from 1 to 0.5 over half of all steps). Of a continuous latent:
            ``kl_warmup_steps`` (default: a quarter), and ``free_bits``, nats of every dimension that cost
            nothing. An option that the objective has no use for is refused.
        encoder_features: hidden widths of the encoder q(z|x).
        {_COMMON}
        flow_, flow_options_: the flow that was fitted.
        selection_: what was learned of every flow and K tried.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    def __init__(
        self,
        n_states: int | str = "auto",
        *,
        max_states: int = 32,
        latent: str = "discrete",
        latent_features: int = 2,
        posterior: str = "gaussian",
        flow: str = "auto",
        flow_options: Mapping[str, Any] | None = None,
        prior: str = "learned",
        objective: str = "truncated",
        objective_options: Mapping[str, Any] | None = None,
        encoder_features: Sequence[int] = (64, 64),
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: str = "plateau",
        ema: float | None = 0.995,
        patience: int | None = 15,
        validation_fraction: float = 0.1,
        dequantize: str | Sequence[str] | Mapping[str, Any] = "auto",
        score_draws: int = 16,
        device: str = "auto",
        devices: int = 1,
        precision: str = "32-true",
        random_state: Any = None,
        tensorboard: bool = False,
        verbose: bool = False,
    ) -> None:
        self.n_states = n_states
        self.max_states = max_states
        self.latent = latent
        self.latent_features = latent_features
        self.posterior = posterior
        self.flow = flow
        self.flow_options = flow_options
        self.prior = prior
        self.objective = objective
        self.objective_options = objective_options
        self.encoder_features = encoder_features
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.ema = ema
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.dequantize = dequantize
        self.score_draws = score_draws
        self.device = device
        self.devices = devices
        self.precision = precision
        self.random_state = random_state
        self.tensorboard = tensorboard
        self.verbose = verbose


class FlowDensity(DensityEstimator):
    __doc__ = rf"""A plain normalizing flow: an exact density by one invertible map to a Gaussian.

    .. math:: \log p(x) = \log N(T(x); 0, I) + \log|\det \partial T / \partial x|

    Arguments:
        {_COMMON}
    """

    _fixed_states: ClassVar[int | None] = 1

    def __init__(
        self,
        flow: str = "auto",
        *,
        flow_options: Mapping[str, Any] | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: str = "plateau",
        ema: float | None = 0.995,
        patience: int | None = 15,
        validation_fraction: float = 0.1,
        dequantize: str | Sequence[str] | Mapping[str, Any] = "auto",
        score_draws: int = 16,
        device: str = "auto",
        devices: int = 1,
        precision: str = "32-true",
        random_state: Any = None,
        tensorboard: bool = False,
        verbose: bool = False,
    ) -> None:
        self.flow = flow
        self.flow_options = flow_options
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.ema = ema
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.dequantize = dequantize
        self.score_draws = score_draws
        self.device = device
        self.devices = devices
        self.precision = precision
        self.random_state = random_state
        self.tensorboard = tensorboard
        self.verbose = verbose


ESTIMATORS: dict[str, type[DensityEstimator] | type[ImageDensity]] = {
    "NVF": NVF,
    "FlowDensity": FlowDensity,
    "ImageDensity": ImageDensity,
}
