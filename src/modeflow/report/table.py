"""The report of a table: likelihoods beside baselines, data beside samples, states, columns, worst rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from modeflow.data import Split, Table
from modeflow.domains import TableDomain
from modeflow.estimators import DensityEstimator
from modeflow.estimators.stacking import Stacked
from modeflow.report import words
from modeflow.report.columns import columns_section, worst_section, write_in_column
from modeflow.report.contents import DataSummary, DensityGrid, LikelihoodRow, StateRow, WorstRow
from modeflow.report.curves import as_likelihoods
from modeflow.report.latent import latent_pictures, model_name, state_legend, states_section
from modeflow.report.likelihoods import likelihood_section
from modeflow.report.page import Report, about
from modeflow.report.plots import plot_density, plot_pairs, plot_panel
from modeflow.report.sections import Picture, Section, measures_table
from modeflow.report.selection import as_states, as_table, choose_columns
from modeflow.report.tabulate import describe_columns, find_worst, tabulate_states
from modeflow.report.what_if import Answer, answer_of, questions_of_numbers, what_if_section
from modeflow.runs import Run, fit_baselines, solver_note

__all__ = ["TableReport", "density_grid", "gather_table"]

#: Rows drawn and shown; enough for a picture, few enough for a page.
_SHOWN = 4000
_WORST = 12
#: Columns that the tables of states and of rows show.
_COLUMNS = 6
#: Rows whose states are counted; a share to three digits needs no more.
_COUNTED = 50_000
#: Rows by which questions are found, and that stand beside the answers; columns, beyond which none is asked.
_ASKED, _ASKED_COLUMNS = 10_000, 32


@dataclass(kw_only=True)
class TableReport(Report):
    """Everything the report of a table shows.

    Attributes:
        data_summary: what was fitted.
        likelihoods: the fitted model's row first (or ``role="model"``), others beside it.
        data, samples: (rows, columns) arrays in the units of the data for the pictures (thousands of rows
            are enough); `data_states` and `sample_states` hold a state for each row.
        columns: names; taken from `data_summary` if empty.
        latent: a continuous z of every row of `data` (its posterior's mean), ``(rows, dimensions)``.
        density: for one or two columns.
        worst_rows: least likely rows; `worst_rows_of` says in what their numbers count.
        truth: measures of data drawn from a known density, whose own value is their ``best``.
        answers: columns given values of others.
    """

    data_summary: DataSummary
    likelihoods: list[LikelihoodRow] = field(default_factory=list)
    data: np.ndarray | None = None
    data_states: np.ndarray | None = None
    samples: np.ndarray | None = None
    sample_states: np.ndarray | None = None
    columns: list[str] = field(default_factory=list)
    latent: np.ndarray | None = None
    density: DensityGrid | None = None
    worst_rows: list[WorstRow] = field(default_factory=list)
    worst_rows_of: str = "the data"
    truth: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.columns:
            self.columns = [column.name for column in self.data_summary.columns]

    @property
    def model_row(self) -> LikelihoodRow | None:
        """The row of the fitted model: the one with that role, or else the first that is not known."""
        rows = [r for r in self.likelihoods if r.role != "known"]
        return next((r for r in rows if r.role == "model"), rows[0] if rows else None)

    def _label(self) -> str:
        live = sum(not s.pruned for s in self.states)
        return f"{self.model} with {words.plural(live, 'state')}" if live else self.model

    def fitted(self) -> str:
        s = self.data_summary
        text = f"{self._label()}, fitted to {words.plural(s.train_rows, 'row')} and "
        text += f"{words.plural(len(s.columns) or len(self.columns), 'column')} of {s.source}"
        parts = ((s.validation_rows, "validation"), (s.test_rows, "the test"))
        held = [f"{words.integer(n)} for {part}" for n, part in parts if n]
        return text + (f"; held out: {' and '.join(held)}." if held else ".")

    def headline(self) -> tuple[str, str]:
        row = self.model_row
        if row is None:
            return "No likelihood was measured.", ""
        where = f" on {words.plural(row.n, 'test row')}" if row.n is not None else ""
        result = f"{self._label()}: {words.uncertain(row.value, row.standard_error)} nats per row"
        result += f" ({row.kind}){where}"
        if not math.isfinite(row.value):
            return result + ".", "The density is zero or undefined at a test row, see the worst rows."
        phrases = [words.compare(row, r).words for r in self.likelihoods if r is not row]
        return result + (";" if phrases else "."), words.join(phrases)

    def sections(self) -> list[Section]:
        found = [likelihood_section(self.likelihoods, self.model_row)] if self.likelihoods else []
        if self.truth:
            text = "The rows were drawn from a density that is known, so the model can be held against it."
            caption = "What is known of the true density, and what the model makes of it"
            table = measures_table("The truth", caption, self.truth, "the truth")
            found.append(Section("truth", "Beside the truth", (text,), table=table, link="The truth"))
        asked = [what_if_section(self.answers)] if self.answers else []
        return found + self._pictures_section() + asked

    def _pictures_section(self) -> list[Section]:
        data = None if self.data is None else as_table("data", self.data)
        pictures = self._pictures()
        if data is not None and self.latent is not None:
            pictures += latent_pictures(as_table("latent", self.latent), data, self.columns)
        if not pictures:
            return []
        text = []
        if len(self.columns) > 2:
            text = [
                "Below the diagonal the data, above it samples from the model with the axes exchanged: the "
                "better the model, the more symmetric the picture. On the diagonal, data are filled and "
                "samples are the blue line."
            ]
        elif self.density is not None and self.density.ys is not None:
            text = [
                "The density has colour down to 12 nats below its peak, a factor of 160,000: a bridge "
                "between two islands would show as a band of colour."
            ]
        return [
            Section(
                "pictures",
                "Pictures" if self.samples is None or self.data is None else "Data beside samples",
                text=text,
                pictures=pictures,
                legend=state_legend(self.data_states, self.sample_states),
                note="No samples were drawn for this report." if self.samples is None else "",
                link="Pictures",
            )
        ]

    def _pictures(self) -> list[Picture]:
        """Data beside samples, and the density where the table has one or two columns."""
        present = {"data": self.data, "samples": self.samples}
        width = next((as_table("data", v).shape[1] for v in present.values() if v is not None), 0)
        grid = self.density
        if width == 0 and grid is not None:
            width = 1 if grid.ys is None else 2
        if width == 0:
            return []
        names = self.columns or [f"x{j}" for j in range(width)]
        clouds = (self.data, self.samples)
        states = (self.data_states, self.sample_states)
        what = " and ".join(name for name, v in present.items() if v is not None)
        if width == 1:
            figure = plot_density(*clouds, grid, *states, columns=names)
            return [Picture.lines(figure, f"Histogram of {names[0]}: {what}", kind="wide")]
        if width == 2:
            panels = {"data": self.data, "density": grid, "samples": self.samples}
            drawn = [plot_panel(k, *clouds, *states, names, grid) for k, v in panels.items() if v is not None]
            return [
                Picture.drawn(f, f"{caption}, {names[1]} over {names[0]}", caption) for f, caption in drawn
            ]
        alt = f"Every pair of the columns drawn: {what}, with histograms of each column on the diagonal"
        return [Picture.drawn(plot_pairs(*clouds, *states, names), alt, kind="wide", dpi=125)]

    def _shown_columns(self) -> list[int]:
        """The columns that tables of states and rows show: the ones that the pictures draw."""
        if self.data is None:
            return list(range(min(len(self.columns), _COLUMNS)))
        table = as_table("data", self.data)
        states = as_states("data_states", self.data_states, len(table))
        return [j for j in choose_columns(table, states, _COLUMNS)[0] if j < len(self.columns)]

    def states_section(self) -> Section:
        described, shown, names = self.data_summary.columns, self._shown_columns(), self.columns

        def write(j: int) -> Callable[[float | None], str]:
            return lambda mean: write_in_column(described, j, mean, mean=True)

        means = {j: (names[j], write(j)) for j in shown}
        hidden = f"Means of {len(shown)} of {len(names)} columns." if len(names) > len(shown) else ""
        return states_section(self.states, self.unit, means, hidden)

    def details(self) -> list[Section]:
        data, samples = (None if x is None else as_table("rows", x) for x in (self.data, self.samples))
        found = [columns_section(self.data_summary, data, samples)]
        if self.worst_rows:
            described, shown = self.data_summary.columns, self._shown_columns()
            where, states = self.worst_rows_of, bool(self.states)
            found.append(worst_section(self.worst_rows, described, self.columns, shown, where, states))
        return found

    def own_warnings(self) -> list[str]:
        found, row = [], self.model_row
        for other in self.likelihoods:
            if row is None or other.role != "known" or row.kind != "exact":
                continue
            c = words.compare(row, other)
            if c.difference and c.standard_error and c.difference > 3 * c.standard_error:
                found.append(
                    f"The model scores {words.uncertain(c.difference, c.standard_error)} nats per row above "
                    "the true density, which no density does on fresh rows: check that no test row "
                    "was used for training."
                )
        return found + super().own_warnings()

    def summary(self) -> dict[str, Any]:
        keys = ("name", "value", "standard_error", "kind", "n")
        rows = [{key: getattr(r, key) for key in keys} for r in self.likelihoods]
        return {"log_likelihood": rows, **super().summary()}

    def lines(self) -> list[str]:
        rows = [
            f"{r.name:24} {r.value:10.4f}" + (f" ± {r.standard_error:.4f}" if r.standard_error else "")
            for r in self.likelihoods
        ]
        return [*rows, *super().lines()]


def gather_table(
    run: Run,
    *,
    baselines: bool = True,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> TableReport:
    """Collect everything the report of a run on a table shows; see `gather`."""
    dataset, parts = run.data()
    split = cast(Split, parts)  # or what a streamed run has, a sample of whose rows are its training rows
    estimator, kind = run.estimator, run.estimator.latent_.describe().kind
    estimator.verbose = not quiet
    sample, sample_states = estimator.sample(_SHOWN, random_state=run.config["seed"] + 1)
    rng = np.random.default_rng(0)
    shown = split.train.take(np.sort(rng.permutation(len(split.train))[:_SHOWN]))
    scores = estimator.score_samples(TableDomain.rows(split.test))
    states = estimator.predict(TableDomain.rows(split.test)) if estimator.n_states_ > 1 else None
    numbers = None if split.indices is None else split.indices[2]
    columns = describe_columns(split.train.values, split.train.columns)
    told = about(run)
    return TableReport(
        **{**told, "history": [as_likelihoods(row) for row in told["history"]]},
        title=f"{model_name(run)} fitted to {dataset.name}",
        model="NVF" if run.config["model"] == "nvf" else run.config["model"],
        data_summary=DataSummary(dataset.name, *split.sizes, columns=columns, notes=list(dataset.notes)),
        likelihoods=_likelihoods(run, split, baselines, quiet, announce),
        states=_states(estimator, split.train, states, scores),
        data=shown.values,
        data_states=estimator.predict(TableDomain.rows(shown)),
        samples=np.asarray(sample),
        sample_states=sample_states if sample_states.ndim == 1 else None,
        columns=list(split.train.columns),
        latent=estimator.encode(TableDomain.rows(shown)) if kind == "continuous" else None,
        density=density_grid(estimator, split.train.values),
        worst_rows=find_worst(split.test.values, scores, states, _WORST, numbers),
        worst_rows_of="the test part of the data" if numbers is None else dataset.name,
        truth=_truth(run.result.get("truth"), run.result["log_likelihood"]["test"]),
        answers=_answers(run, split.train.values, announce),
    )


def _answers(run: Run, train: np.ndarray, announce: Callable[[str], None] | None) -> list[Answer]:
    """What some columns say of others, where the density is a sum over states and its columns are few."""
    estimator = run.estimator
    domain = cast(TableDomain, estimator.domain_)
    few = train[np.sort(np.random.default_rng(0).permutation(len(train))[:_ASKED])]
    if estimator.latent_.describe().kind not in ("none", "discrete") or few.shape[1] > _ASKED_COLUMNS:
        return []
    asked = questions_of_numbers(domain, few)
    if asked and announce is not None:
        announce("drawing columns given others")
    seed = run.config["seed"] + 2
    return [answer_of(estimator, name, given, few, random_state=seed) for name, given in asked]


def _note(result: dict[str, Any]) -> str:
    """What decides the model's number beside its weights: the bound, the steps of a solver."""
    notes, bounds = [solver_note(result.get("solver"))], result.get("bounds")
    if bounds:  # which bound a continuous latent's number is, and what the looser one would be
        elbo = bounds["elbo"]
        error = "" if elbo["standard_error"] is None else f" ± {elbo['standard_error']:.3f}"
        notes.insert(0, f"IWAE with {bounds['draws']} draws; the ELBO is {_number(elbo['value']):.3f}{error}")
    if stacked := result.get("stacking"):
        notes.append(f"stacking: {Stacked(**stacked).words}")
    return "; ".join(filter(None, notes))


def _likelihoods(
    run: Run, split: Split, baselines: bool, quiet: bool, announce: Callable[[str], None] | None
) -> list[LikelihoodRow]:
    result = run.result
    test, truth = result["log_likelihood"]["test"], result.get("truth")
    ours = LikelihoodRow(
        model_name(run),
        _number(test["value"]),
        test["standard_error"],
        test["kind"],
        test["n"],
        result.get("n_parameters"),
        note=_note(result),
        role="model",
        own_kind=run.estimator.latent_.exactness,
    )
    others = [
        LikelihoodRow(**{k: v for k, v in row.items() if k != "seconds"})
        for row in (fit_baselines(run, split, quiet, announce) if baselines else [])
    ]
    known = (
        [
            LikelihoodRow(
                "true density",
                truth["log_likelihood"],
                n=test["n"],
                note="the same test rows under the density they were drawn from",
                role="known",
                difference=-truth["gap"],
                difference_standard_error=truth["gap_standard_error"],
            )
        ]
        if truth
        else []
    )
    return [ours, *others, *known]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _truth(truth: dict[str, Any] | None, test: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of the density that the rows were drawn from, as measures."""
    if not truth:
        return []
    rows: list[dict[str, Any]] = [
        {
            "name": "minus the mean log-density, nats per row (lower is better)",
            "value": -_number(test["value"]),
            "standard_error": test["standard_error"],
            "best": words.uncertain(-truth["log_likelihood"], None),
        }
    ]
    if truth.get("bridge_mass") is not None:
        mass, true = words.share(truth["bridge_mass"]), words.share(truth["true_bridge_mass"])
        rows.append({"name": "samples far from every mode", "value": mass, "best": true})
    if truth.get("modes_found") is not None:
        found = {"value": truth["modes_found"], "best": truth.get("modes")}
        rows.append({"name": "modes that samples reach", **found})
    return rows


def _states(
    estimator: DensityEstimator, train: Table, test_states: np.ndarray | None, scores: np.ndarray
) -> list[StateRow]:
    if estimator.n_states_ < 2:
        return []
    rng = np.random.default_rng(0)
    part = train if len(train) <= _COUNTED else train.take(rng.permutation(len(train))[:_COUNTED])
    proba = estimator.predict_proba(TableDomain.rows(part))
    return tabulate_states(
        part.values, proba, estimator.weights_, test_states=test_states, test_log_density=scores
    )


def density_grid(estimator: DensityEstimator, values: np.ndarray, size: int = 240) -> DensityGrid | None:
    """Log-density over the range of the data, for one or two continuous columns; else None."""
    domain = estimator.domain_
    if not isinstance(domain, TableDomain) or values.shape[1] > 2 or domain.schema.lattice_columns:
        return None
    names = tuple(domain.schema.columns)
    return DensityGrid.around(
        lambda x: estimator.score_samples(TableDomain.rows(Table(x, names))), values, size
    )
