"""The report of a mixed table: likelihoods, columns beside samples, missing cells, the tree, fidelity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from modeflow.domains import MixedDomain
from modeflow.latents import mutual_information
from modeflow.metrics import LogLikelihood
from modeflow.report import words
from modeflow.report.canvas import label, new_figure, styled
from modeflow.report.colours import DATA, INK
from modeflow.report.contents import LikelihoodRow
from modeflow.report.curves import as_likelihoods
from modeflow.report.fidelity import Agreement, agreement_of, agreement_section
from modeflow.report.latent import model_name
from modeflow.report.likelihoods import likelihood_section, parts_section
from modeflow.report.marginals import Marginal, marginal_of, plot_marginal
from modeflow.report.page import Report, about
from modeflow.report.sections import Column, Picture, Section, Table, long_name
from modeflow.report.sharing import Sharing, sharing_of, sharing_section
from modeflow.report.trees import TreeView, tree_section
from modeflow.report.what_if import Answer, answer_of, questions_of, what_if_section
from modeflow.runs import Run
from modeflow.transforms.base import Exactness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MixedReport", "gather_mixed", "plot_missing"]

#: Rows drawn from the model and compared; training rows that are drawn, and of which the tree is told.
_DRAWN, _SHOWN = 5000, 20_000
#: Columns with a picture, and with a bar of missing cells.
_PICTURES, _BARS = 40, 40
#: How a missing cell is left out of the density of a row, in words.
_LEFT_OUT: dict[Exactness, str] = {
    "exact": ", exactly",
    "lower bound": " by draws from a tree without the flow: such rows have a lower bound of their density",
    "estimate": " by draws: such rows have an estimate of their density",
}


@dataclass(kw_only=True)
class MixedReport(Report):
    """Everything the report of a mixed table shows.

    Attributes:
        size: how many rows of what.
        likelihoods: of the test rows, the model's first. parts: of every part. units: of those.
        marginals: what is drawn of every column. rows: that they are of, of the data and of samples.
        aside: columns that are not modelled, with their kind. incomplete: share of rows with a missing cell.
        holes: what the density of these is.
        tree: of latent states, if the model has one. answers: columns given levels of others.
        agreement: of samples and held-out rows. sharing: what of them would give rows away.
        measured: plain values for `summary`.
    """

    size: str
    likelihoods: list[LikelihoodRow]
    parts: dict[str, LogLikelihood]
    units: str
    marginals: list[Marginal]
    rows: tuple[int, int]
    aside: list[str] = field(default_factory=list)
    incomplete: float = 0.0
    holes: Exactness = "exact"
    tree: TreeView | None = None
    answers: list[Answer] = field(default_factory=list)
    agreement: Agreement | None = None
    sharing: Sharing | None = None
    measured: dict[str, Any] = field(default_factory=dict)

    def fitted(self) -> str:
        return f"{self.size}; {words.integer(self.n_parameters)} parameters."

    def headline(self) -> tuple[str, str]:
        row, others = self.likelihoods[0], self.likelihoods[1:]
        value = words.uncertain(row.value, row.standard_error)
        text = f"{value} nats per row ({row.kind}) on {words.plural(row.n or 0, 'test row')}"
        phrases = [words.compare(row, other).words for other in others]
        return text + (";" if phrases else "."), words.join(phrases)

    def sections(self) -> list[Section]:
        parts = {
            part: f"{words.uncertain(row.value, row.standard_error)} ({words.plural(row.n, 'row')})"
            for part, row in self.parts.items()
        }
        kinds = {part: row.kind for part, row in self.parts.items()}
        note = "Of the training rows as many as there are test rows (at least a thousand) were scored."
        found = [
            likelihood_section(self.likelihoods, self.likelihoods[0]),
            parts_section(parts, self.units, kinds, "Likelihood of each part", note),
            self._columns_section(),
        ]
        if any(m.missing for m in self.marginals):
            found.append(missing_section(self.marginals, self.incomplete, self.holes))
        if self.tree is not None and len(self.tree.names) > 1:
            found.append(tree_section(self.tree))
        if self.answers:
            found.append(what_if_section(self.answers))
        if self.agreement is not None:
            found.append(agreement_section(self.agreement))
        if self.sharing is not None:
            found.append(sharing_section(self.sharing))
        return found

    def _agreements(self) -> dict[str, float]:
        shape = None if self.agreement is None else self.agreement.samples.shape
        return {} if shape is None else shape.columns

    def _columns_section(self) -> Section:
        """A picture of every column, or of those that agree least."""
        agree, shown, more = self._agreements(), self.marginals, ""
        if len(shown) > _PICTURES:
            worst = sorted(shown, key=lambda m: agree.get(m.name, 0.0))[:_PICTURES]
            shown = [m for m in shown if m in worst]
            more = f" Of {len(self.marginals)} columns the {_PICTURES} whose samples agree least are drawn."
        text = (
            f"Grey: {words.plural(self.rows[0], 'training row')}; blue line: "
            f"{words.plural(self.rows[1], 'sample')}. Shares are of the cells that are there; of a column "
            f"with atoms, the histogram is of the other cells.{more}"
        )
        pictures = [Picture.lines(plot_marginal(m), m.alt, _caption(m)) for m in shown]
        note = f"Not modelled: {', '.join(self.aside)}." if self.aside else ""
        return Section("columns", "Columns: data beside samples", (text,), pictures=pictures, note=note,
                       link="Columns")  # fmt: skip

    def details(self) -> list[Section]:
        agree = self._agreements()
        columns = [
            Column("column", lambda m: long_name(m.name, 40)),
            Column("kind", lambda m: label(m.spec, 70)),
            Column("missing", lambda m: words.share(m.missing) if m.missing else "", True),
            *[Column("Shape", lambda m: f"{agree[m.name]:.3f}" if m.name in agree else "–", True)]
            * bool(agree),
        ]
        table = Table(
            "Kinds of columns", "Columns: kind, missing cells and agreement of samples", columns,
            self.marginals, summary=words.plural(len(self.marginals), "column"),
            open=len(self.marginals) <= 20,
        )  # fmt: skip
        return [Section("kinds", "Kinds of columns", table=table)]

    def summary(self) -> dict[str, Any]:
        keys = ("name", "value", "standard_error", "kind", "n")
        rows = [{key: getattr(r, key) for key in keys} for r in self.likelihoods]
        told: dict[str, Any] = {**self.measured, "likelihoods": rows}
        if self.agreement is not None:
            told["fidelity"] = self.agreement.to_dict()
        if self.sharing is not None:
            told["sharing"] = self.sharing.to_dict()
        if self.tree is not None:
            told["tree"] = [list(edge) for edge in self.tree.edges]
        return {**told, **super().summary()}

    def lines(self) -> list[str]:
        found = [f"{part:12} {value}" for part, value in self.parts.items()]
        found += [
            f"{'':12} {words.compare(self.likelihoods[0], other).words}" for other in self.likelihoods[1:]
        ]
        if self.agreement is not None:
            found += self.agreement.lines()
        if self.sharing is not None:
            found += self.sharing.verdict
        return [*found, *super().lines()]


def _caption(marginal: Marginal) -> Markup:
    holes = f", {words.share(marginal.missing)} missing" if marginal.missing else ""
    return Markup("<strong>{}</strong>: {}{}").format(
        label(marginal.name, 40), label(marginal.spec, 64), holes
    )


def missing_section(marginals: Sequence[Marginal], incomplete: float, kind: Exactness) -> Section:
    """Shares of missing cells, where there are any; `kind`: how well the density leaves them out."""
    holes = sorted((m for m in marginals if m.missing), key=lambda m: -m.missing)
    some = words.plural(len(holes), "column")
    text = (
        f"{words.share(incomplete)} of the rows lack a cell, in {some}. What is missing is left out of the "
        f"density of a row{_LEFT_OUT[kind]}; samples are whole rows."
    )
    if len(holes) > _BARS:
        text += f" The {_BARS} columns that lack the most are drawn."
    listed = "; ".join(f"{m.name} {words.share(m.missing)}" for m in holes[:_BARS])
    alt = f"Share of missing cells of each column: {listed}"
    picture = Picture.lines(plot_missing(holes[:_BARS]), alt, kind="chart")
    return Section("missing", "Missing cells", (text,), pictures=[picture])


@styled
def plot_missing(holes: Sequence[Marginal]) -> Figure:
    """Draw the share of missing cells of columns."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(6.6, 0.62 + 0.25 * max(2, len(holes)))
    axes = figure.add_subplot()
    at = np.arange(len(holes))
    axes.barh(at, [m.missing for m in holes], height=0.68, color=DATA, alpha=0.5, linewidth=0)
    for k, m in enumerate(holes):
        axes.annotate(
            words.share(m.missing), (m.missing, k), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.set_yticks(at, [label(m.name, 30) for m in holes])
    axes.set_ylim(max(2, len(holes)) - 0.5, -0.5)
    axes.set_xlim(0, min(1.12, 1.14 * max(m.missing for m in holes)))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("missing cells")
    return figure


def gather_mixed(
    run: Run,
    *,
    baselines: bool = True,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> MixedReport:
    """Collect everything the report of a run on a mixed table shows; see `gather`."""
    estimator, result, seed = run.estimator, run.result, run.config["seed"]
    domain = estimator.domain_
    assert isinstance(domain, MixedDomain)
    estimator.verbose = not quiet
    data, parts = run.data()
    if announce is not None:
        announce(f"drawing {_DRAWN} rows and comparing them")
    schema = domain.schema
    train, test = (schema.encode(part, "score") for part in (domain.some(parts.train, _SHOWN), parts.test))
    samples = schema.encode(estimator.sample(_DRAWN, random_state=seed + 1)[0], "score")
    tree = _tree(estimator, domain, train)
    asked = [] if tree is None else questions_of(domain, tree, train)
    told, measured = about(run), {domain.measure: result[domain.measure]}
    return MixedReport(
        **{**told, "history": [as_likelihoods(row) for row in told["history"]]},
        title=f"{model_name(run)} fitted to {data.name}",
        model=model_name(run),
        notes=list(dict.fromkeys([*data.notes, *result.get("notes", [])])),
        size=domain.size_text(result),
        likelihoods=_likelihoods(run, parts.test, train if baselines else None, test),
        parts={part: domain.likelihood(row) for part, row in result[domain.measure].items()},
        units=domain.units,
        marginals=[
            marginal_of(column, train[:, j], samples[:, j]) for j, column in enumerate(schema.modelled)
        ],
        rows=(len(train), len(samples)),
        aside=[f"{c.name} ({c.spec})" for c in schema.columns if not c.modelled],
        incomplete=float(np.isnan(train).any(1).mean()),
        holes=estimator.latent_.marginals or "exact",
        tree=tree,
        answers=[answer_of(estimator, name, given, train, random_state=seed + 2) for name, given in asked],
        agreement=agreement_of(schema, test, samples, train, _DRAWN),
        sharing=sharing_of(schema, test, samples, train),
        measured=measured,
    )


def _likelihoods(run: Run, test: Any, train: np.ndarray | None, values: np.ndarray) -> list[LikelihoodRow]:
    """The model on the test rows, and beside it columns that say nothing of each other."""
    estimator, row = run.estimator, run.result["log_likelihood"]["test"]
    value = float("nan") if row["value"] is None else row["value"]
    ours = LikelihoodRow(
        model_name(run), value, row["standard_error"], row["kind"], row["n"],
        run.result.get("n_parameters"), role="model",
        own_kind=estimator.density_kind_of(test, offsets=False),
    )  # fmt: skip
    if train is None or len(values) != row["n"]:
        return [ours]
    alone = estimator.domain_.trivial(train, values, None)
    apart = estimator.score_samples(test) - alone.log_prob
    if not np.isfinite(apart).all() or len(apart) < 2:
        return [ours]
    root = len(apart) ** 0.5
    note = "levels as often as in the training rows, numbers normal scores"
    return [
        ours,
        LikelihoodRow(
            alone.name, float(alone.log_prob.mean()), float(alone.log_prob.std(ddof=1) / root),
            estimator.model_.transform.exactness, row["n"], note=note, difference=float(apart.mean()),
            difference_standard_error=float(apart.std(ddof=1) / root), own_kind="exact",
        ),
    ]  # fmt: skip


def _tree(estimator: Any, domain: MixedDomain, train: np.ndarray) -> TreeView | None:
    """The tree of latent states, and what the training rows tell of its edges."""
    latent: Any = estimator.latent_
    if latent.describe().kind != "tree":
        return None
    leaves, parents = latent.likelihood.leaves, latent.prior.tree.parents
    rows = domain.to_tensor(np.where(np.isfinite(train), train, np.nan)).to(estimator.model_.device)
    u = leaves.hide_absent(estimator.model_.encode(rows)[0])
    information = mutual_information(u.detach().cpu(), leaves.features)
    words_of = {"code": "levels", "circular": "angle"}
    plain = [words_of.get(feature.kind, "number") for feature in leaves.features]
    kinds = [*plain[: domain.schema.dim], *["atom?"] * (len(plain) - domain.schema.dim)]
    shared = [float(information[k, p]) if p >= 0 else 0.0 for k, p in enumerate(parents)]
    return TreeView(list(domain.feature_names), kinds, list(parents), shared)
