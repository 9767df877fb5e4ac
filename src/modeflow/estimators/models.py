"""The estimators: their parameters, and the model that these describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from modeflow.domains import Domain, MixedDomain, TableDomain
from modeflow.errors import ConfigError
from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.conditionals import Conditionals
from modeflow.estimators.fitting import FitData
from modeflow.estimators.images import ImageDensity
from modeflow.estimators.settings import (
    HOLED_CHOICES,
    MIXED_CHOICES,
    NO_FLOW,
    TREE_CHOICES,
    Budget,
    Settings,
    model_features,
    options_given,
)
from modeflow.estimators.surprises import Surprises
from modeflow.estimators.trials import Choices, usual_tree_states
from modeflow.latents import LatentModel
from modeflow.models import LATENTS, TABLE_LIKELIHOODS, DecoderOptions, TableModel
from modeflow.models.table_likelihoods import decoder_options, width_of
from modeflow.options import Options, check_choice
from modeflow.training import Training

__all__ = ["ESTIMATORS", "NVF", "FlowDensity"]

#: Levels of all columns together, above which flat states of mixed rows are not tried.
_MOST_LEVELS = 512

_COMMON = """flow: name of the flow, see ``modeflow models`` (`modeflow.flows.FLOWS`), or ``"auto"``: of the
            spline flows in `modeflow.estimators.settings.FLOW_CHOICES` (autoregressive, deep or shallow, and
            coupling) the one that is best on rows it was not fitted to; see `modeflow.estimators.selection`.
        flow_options: keyword arguments of the flow, such as ``{"layers": 4, "hidden_features": 32}``. Of the
            spline flows some are set unless given (`modeflow.estimators.settings.FLOW_DEFAULTS`).
        max_epochs: longest training; it ends earlier where validation stops improving. ``"auto"``: as many as
            make 20,000 steps, at least 30.
        batch_size: rows a step; ``"auto"`` makes about a hundred steps an epoch, within 64 to 1024 rows.
        learning_rate: of Adam, at its peak.
        training: a mapping of the other settings of the training, such as ``{"patience": 30}``, or a
            `modeflow.training.Training`.
        validation_fraction: share of the rows held out, where `fit` receives no validation rows.
        dequantize: ``"auto"`` finds the columns on a lattice (whole numbers, cents) and its step, ``"none"``
            takes all for continuous; or the names of those on a lattice; or a mapping from names to a step,
            "auto", "none" or ``{{"step": ..., "low": ..., "high": ...}}``, see `Schema.infer`.
        score_draws: offsets averaged over when rows with columns on a lattice are scored.
        ensemble: fits whose densities are averaged (`modeflow.latents.Ensemble`): likelier on new rows, and
            less a matter of the seed, for so many times the training. What is left open is chosen once, for
            all. Their states follow one another.
        n_jobs: processes in which the fits of an ensemble are made.
        stacking: whether a Gaussian mixture and a wide t stand beside the model, with the weights that make
            the validation rows likeliest (`modeflow.estimators.stacking`): exact, and never much behind a
            mixture. Where the latent is left open, too, so does a second fit (of an `NVF`), if that is of
            use. States stay what the model says. ``"auto"``: of numbers, where the flow is left open.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``. Densities are always scored in float64.
        random_state: seed; fitting neither reads nor disturbs torch's global generator.
        verbose: show progress: a bar on a terminal, else a line now and then.

    Attributes:
        model_: the fitted torch density, in the units of the data; latent_: the latent-variable model in it.
        domain_: what the rows are: names and kinds of the columns.
        flow_, flow_options_: the flow that was built, with all options that were set.
        n_states_, weights_: states in use and their prior probabilities.
        validation_: mean log-density of the held-out rows, with standard error and kind.
        history_: one row an epoch. training_: how training ended, and under ``second``, where another model
            was fitted to the end, too: which, whether it was kept, how its training ended.
            dead_states_: states switched off.
        selection_: what was learned of every flow and K tried.
        stacking_: weights of the model, the mixture, rows from anywhere and a second fit; None where the
            model is alone. beside_: what the second fit was built from, None without one.
"""


class _TableEstimator(Conditionals, Surprises, DensityEstimator):
    """What the estimators of tables share."""

    domain: ClassVar[type[Domain]] = TableDomain
    budget: ClassVar[Budget] = Budget(steps=20_000, epochs=30, between=50, weight_decay=2.0)
    domain_: TableDomain

    @property
    def schema_(self) -> Any:
        """Names and kinds of the columns."""
        return self.domain_.schema

    def _choices(self, settings: Settings, data: FitData) -> Choices:
        # Of one column all are the same.
        return Choices(settings.flows[:1] if data.train.shape[1] == 1 else settings.flows)


class NVF(_TableEstimator):
    __doc__ = rf"""Normalizing flow with a latent that says which island: an exact density for isolated modes.

    .. math:: p(x) = \sum_{{k=1}}^{{K}} \pi_k\, p(x \mid z = k)

    The states z and the flow that all of them share are learned together; which state a row belongs to is
    its posterior (`predict_proba`). With ``n_states=1`` it is the plain flow.

    Arguments:
        n_states: K, or ``"auto"``: the islands that are visible in the data, or another number up to
            `max_states` that is clearly better on rows it was not fitted to. What both choices cost together
            is measured in docs/benchmarks.md: about as much again as the fit itself.
        max_states: largest K tried by ``"auto"``. None: 32, or as many as there are islands that are seen
            (100 at the most).
        latent: ``"discrete"`` (islands); ``"tree"``, states of every column (their number is an option of the
            latent), on the tree of columns that say most of one another, summed exactly; or ``"continuous"``
            for data along a manifold: z is then Gaussian, the density a lower bound (IWAE), and `encode` says
            where on it a row lies. ``"auto"``: of numbers alone islands, unless a tree is clearly better on
            rows that neither was fitted to; a tree for tables with levels, times or missing cells, unless no
            cell is missing and flat states are clearly better (which have no conditionals). `n_states` is of
            the first, which then start on clusters of the rows; levels are a chain, each given those before
            it.
            ``"sequential"`` is a string of codes a row.
        latent_options: a mapping of the options of the latent, or the dataclass that has them:
            `modeflow.latents.DiscreteOptions` (prior, objective and its options, encoder),
            `modeflow.latents.TreeOptions` (``states``, ``likelihood``, ``proposal``),
            `modeflow.latents.ContinuousOptions` (``features``, ``posterior``, ``prior``, ``draws`` ...), or
            `modeflow.latents.TableCodes`. An option that the objective has no use for is refused.
        likelihood: p(x|z): ``"flow"``, or a decoder alone: ``"gaussian"``, ``"bernoulli"`` for columns of two
            values, or ``"brenier"`` for a continuous z (`modeflow.models.TableModel`). With a decoder the
            latent is continuous, unless it or `n_states` is said: a VAE, a discrete VAE or a VQ-VAE.
        likelihood_options: of a decoder, a mapping or a `modeflow.models.DecoderOptions`.
        columns: what columns are, where that is not to be found out: a mapping of names to kinds, such as
            ``{{"wind": "circular(360)", "zip": "categorical", "note": "drop"}}`` (`modeflow schema` prints
            them). A table is then mixed, as one with levels, times or missing cells is.
        {_COMMON}
    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    def __init__(
        self,
        n_states: int | str = "auto",
        *,
        max_states: int | None = None,
        latent: str = "auto",
        latent_options: Mapping[str, Any] | Options | None = None,
        likelihood: str = "flow",
        likelihood_options: Mapping[str, Any] | Options | None = None,
        columns: Mapping[str, Any] | Sequence[str] | None = None,
        flow: str = "auto",
        flow_options: Mapping[str, Any] | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 2e-3,
        training: Mapping[str, Any] | Training | None = None,
        validation_fraction: float = 0.1,
        dequantize: str | Sequence[str] | Mapping[str, Any] = "auto",
        score_draws: int = 16,
        ensemble: int = 1,
        n_jobs: int = 1,
        stacking: bool | str = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_states = n_states
        self.max_states = max_states
        self.latent = latent
        self.latent_options = latent_options
        self.likelihood = likelihood
        self.likelihood_options = likelihood_options
        self.columns = columns
        self.flow = flow
        self.flow_options = flow_options
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.training = training
        self.validation_fraction = validation_fraction
        self.dequantize = dequantize
        self.score_draws = score_draws
        self.ensemble = ensemble
        self.n_jobs = n_jobs
        self.stacking = stacking
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    domains: ClassVar[tuple[type[Domain], ...]] = (TableDomain, MixedDomain)

    def groups(self) -> dict[str, type[Options]]:
        check_choice("latent", self.latent, ("auto", *LATENTS))
        check_choice("likelihood", self.likelihood, TABLE_LIKELIHOODS)
        return {
            "latent_options": LATENTS[self._said_latent() or "discrete"],
            "likelihood_options": DecoderOptions,
            "training": Training,
        }

    def _said_latent(self) -> str | None:
        """The latent by its name, or by options that it alone has; None where it is left open."""
        if self.latent != "auto":
            return self.latent
        given = self.latent_options
        if self.likelihood != "flow":
            return "continuous" if self.n_states == "auto" else "discrete"
        for name in ("discrete", "tree"):
            kind = LATENTS[name]
            if isinstance(given, kind) or (
                isinstance(given, Mapping) and given and set(given) <= {f.name for f in fields(kind)}
            ):
                return name
        return "discrete" if given or self.n_states != "auto" else None

    def _takes_missing(self, latent: str | None) -> bool:
        """Whether the latent, as it is asked for, takes rows with missing cells of a decoder."""
        return latent is not None and LATENTS[latent].of(self.latent_options, "latent_options").takes_missing

    def _kind(self, X: Any) -> type[Domain]:
        latent = self._said_latent()
        mixed = latent == "tree" or isinstance(self.columns, Mapping) or self.likelihood == "bernoulli"
        mixed = mixed or (self.likelihood != "flow" and self._takes_missing(latent))
        if self.domain is not TableDomain:  # another that was added from outside
            return self.domain
        takes = latent is None or (LATENTS[latent].mixed and self.likelihood == "flow")
        return MixedDomain if mixed or (takes and MixedDomain.wants(X)) else TableDomain

    def _choices(self, settings: Settings, data: FitData) -> Choices:
        said, domain = self._said_latent(), data.domain
        odd = _odd(domain)
        latent = said or ("tree" if odd else "discrete")
        if latent != "discrete" and self.n_states != "auto":
            own = f": that of a tree's columns is latent_options.states={self.n_states}" * (latent == "tree")
            raise ConfigError(
                f"n_states={self.n_states} is of latent='discrete', not of '{latent}'{own}; leave it out"
            )
        if self.likelihood != "flow":
            return self._decoded(latent, domain)
        if odd:
            _check_mixed(latent, domain, odd)
        given = options_given(self.latent_options) if latent == "tree" else {}
        trees = self._trees(data, given)
        asked = given.get("states", "auto")
        rows = len(data.train) + len(data.validation)
        states = usual_tree_states(rows) if isinstance(asked, str) else int(asked)
        search = asked == "search"
        if latent == "tree":
            flat = said is None and not data.holed and _few_levels(domain)
            return Choices(trees, "auto" if flat else 1, tuple(MIXED_CHOICES) if flat else (), states, search)
        if latent == "discrete" and odd:
            return Choices(tuple(MIXED_CHOICES), self.n_states)
        # Of a bound no comparison: it is also one of posteriors. Of one column all flows are the same.
        several = latent == "discrete" and data.train.shape[1] > 1
        flows = settings.flows if several else settings.flows[:1]
        known = isinstance(domain, (TableDomain, MixedDomain))
        rivals = trees if said is None and several and settings.params["flow"] == "auto" and known else ()
        return Choices(flows, self.n_states if latent == "discrete" else 1, rivals, states, search)

    def _decoded(self, latent: str, domain: Domain) -> Choices:
        """Of a likelihood without a flow: states alone may be left open."""
        if self.flow != "auto" or self.flow_options:
            raise ConfigError(f"likelihood='{self.likelihood}' has no flow: leave out flow and flow_options")
        decoder_options(self.likelihood, self.likelihood_options)
        holes = (
            [f.name for f in domain.schema.features() if f.missing] if isinstance(domain, MixedDomain) else []
        )
        if holes and not self._takes_missing(latent):
            raise ConfigError(
                f"likelihood='{self.likelihood}' takes complete rows, and '{holes[0]}' has missing cells "
                "(NaN): latent='tree' or 'auto' takes them, and latent_options={'posterior': 'langevin'}"
            )
        columns = model_features(domain)
        other = [j for j, c in enumerate(columns) if c.levels != 2] if self.likelihood == "bernoulli" else []
        if other:
            raise ConfigError(
                f"likelihood='bernoulli' takes columns of two values alone, and column {other[0] + 1} is none"
            )
        width_of(self.likelihood, columns, latent)
        return Choices((NO_FLOW,), self.n_states if latent == "discrete" else 1)

    def _trees(self, data: FitData, given: Mapping[str, Any]) -> Sequence[str]:
        """Trees that may be built, by the options of the latent that were given."""
        asked, proposal = given.get("likelihood", "auto"), given.get("proposal", "auto")
        choices = HOLED_CHOICES if data.holed and proposal == "auto" else TREE_CHOICES
        mixed = isinstance(data.domain, MixedDomain)
        reals = not mixed or any(f.kind == "real" for f in model_features(data.domain))
        # A flow without a proposal takes no holes.
        flows = reals and not (data.holed and proposal is False)
        return [
            name
            for name, recipe in choices.items()
            if (likelihood := recipe.latent_options["likelihood"]) == asked
            or (asked == "auto" and (likelihood == "leaves" or flows))
        ]

    @classmethod
    def build(cls, settings: Settings, domain: Domain, n_states: int, steps: int | None) -> LatentModel:
        p, options = settings.params, settings.groups["latent_options"]
        return TableModel(
            model_features(domain),
            p["latent"],
            n_states,
            likelihood=p["likelihood"],
            flow=p["flow"],
            flow_options=p["flow_options"],
            latent_options=options.for_steps(steps) if steps else options,
            likelihood_options=settings.groups["likelihood_options"],
        )


def _odd(domain: Domain) -> str | None:
    """A column that is none of complete numbers."""
    if isinstance(domain, MixedDomain):
        for feature in domain.schema.features():
            if feature.levels or feature.circular or feature.atoms or feature.missing:
                return str(feature.name)
    return None


def _check_mixed(latent: str, domain: Any, odd: str) -> None:
    """Raise `ConfigError` where a latent does not take columns such as `odd`, or missing cells."""
    if not LATENTS[latent].mixed:
        raise ConfigError(
            f"latent='{latent}' takes complete columns of numbers alone, and '{odd}' is none: "
            "latent='tree' or 'auto' takes any"
        )
    holes = [f.name for f in domain.schema.features() if f.missing]
    if latent == "discrete" and holes:
        raise ConfigError(
            f"latent='discrete' takes complete rows, and '{holes[0]}' has missing cells (NaN): drop these "
            "rows, or take latent='tree' (without n_states)"
        )


def _few_levels(domain: Any) -> bool:
    """Whether flat states of mixed rows are worth a trial: levels few enough for their masked network."""
    return sum(f.levels for f in model_features(domain)) <= _MOST_LEVELS


class FlowDensity(_TableEstimator):
    __doc__ = rf"""A plain normalizing flow: an exact density by one invertible map to a Gaussian.

    .. math:: \log p(x) = \log N(T(x); 0, I) + \log|\det \partial T / \partial x|

    Arguments:
        {_COMMON}
    """

    def __init__(
        self,
        flow: str = "auto",
        *,
        flow_options: Mapping[str, Any] | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 2e-3,
        training: Mapping[str, Any] | Training | None = None,
        validation_fraction: float = 0.1,
        dequantize: str | Sequence[str] | Mapping[str, Any] = "auto",
        score_draws: int = 16,
        ensemble: int = 1,
        n_jobs: int = 1,
        stacking: bool | str = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.flow = flow
        self.flow_options = flow_options
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.training = training
        self.validation_fraction = validation_fraction
        self.dequantize = dequantize
        self.score_draws = score_draws
        self.ensemble = ensemble
        self.n_jobs = n_jobs
        self.stacking = stacking
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def groups(self) -> dict[str, type[Options]]:
        return {"training": Training}

    @classmethod
    def build(cls, settings: Settings, domain: Domain, n_states: int, steps: int | None) -> LatentModel:
        assert isinstance(domain, TableDomain)
        p = settings.params
        return TableModel(domain.schema.dim, "discrete", 1, flow=p["flow"], flow_options=p["flow_options"])


ESTIMATORS: dict[str, type[DensityEstimator]] = {
    "NVF": NVF,
    "FlowDensity": FlowDensity,
    "ImageDensity": ImageDensity,
}
