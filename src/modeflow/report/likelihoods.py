"""Log-likelihoods beside each other on a page, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from modeflow.report import words
from modeflow.report.contents import LikelihoodRow
from modeflow.report.curves import plot_likelihoods
from modeflow.report.sections import Column, Definition, Picture, Section, Table, kind, long_name

__all__ = ["LIKELIHOOD_TERMS", "likelihood_section", "parts_section"]

_VERDICTS = {"better": "ours is better", "worse": "ours is worse"}
_BESIDE_TRUTH = {"better": "ours is above", "worse": "ours is below"}
_PAIRED = Markup('<abbr title="measured in pairs, row by row">p</abbr>')

LIKELIHOOD_TERMS = (
    Definition(
        "Nats per row",
        "The natural logarithm of the density that the model gives to a row, averaged over rows. Higher is "
        "better. A model that scores 0.1 nats more gives each row, on (geometric) average, 10.5 % more "
        "density. 1 nat is 1.44 bits.",
    ),
    Definition(
        "Log-density in the units of the data",
        "Standardising and every other step before the model is part of the density. Its value depends on "
        "the units: writing a column in grams instead of kilograms lowers it by ln 1000. So only numbers on "
        "the same columns in the same units compare, and a density may exceed 1 and its logarithm 0.",
    ),
    Definition(
        "Exact, lower bound, estimate",
        Markup(
            "<em>Exact</em>: the log-density itself, up to rounding. <em>Lower bound</em>: the true value "
            "is this or more; two models do not rank by bounds alone, except where both are bounds because "
            "whole numbers were dequantised, by the same offsets. <em>Estimate</em>: random draws or the "
            "steps of a solver decide it, and it may lie on either side."
        ),
    ),
    Definition(
        "Standard error",
        "The standard deviation of the log-density over the rows scored, divided by the root of their "
        "number: how much the mean would move with another test set of that size. It does not cover another "
        "training run.",
    ),
)


def likelihood_section(rows: Sequence[LikelihoodRow], model: LikelihoodRow | None) -> Section:
    """The table of likelihoods: the `model` and others beside it, each compared with it."""
    compared = {id(r): words.compare(model, r) for r in rows if model is not None and r is not model}
    note = "± is one standard error over all rows scored."
    if compared:
        note += (
            " The difference is this model minus the row’s; one of less than two standard errors counts as "
            "not distinguishable."
        )
    if any(not c.paired and c.other.role != "known" for c in compared.values()):
        note += Markup(
            " Differences without a {} combine both standard errors as if the two were measured on "
            "different rows, which is wider than needed when the rows are the same."
        ).format(_PAIRED)

    def difference(row: LikelihoodRow) -> str | Markup:
        c = compared.get(id(row))
        if c is None:
            return ""
        return Markup("{} {}").format(c.cell, _PAIRED) if c.paired else c.cell

    def verdict(row: LikelihoodRow) -> str:
        c = compared.get(id(row))
        if c is None:
            return "this model" if row is model else ""
        return (_BESIDE_TRUTH if row.role == "known" else _VERDICTS).get(c.verdict, c.verdict)

    beside = [Column("difference", difference, True), Column("verdict", verdict)]
    table = Table(
        "Likelihoods",
        "Mean log-likelihood of each model over the test rows",
        [
            Column("model", _name),
            Column("nats per row", lambda r: words.uncertain(r.value, r.standard_error), True),
            Column("kind", lambda r: kind(r.kind)),
            *beside * bool(compared),
            Column("rows", lambda r: words.integer(r.n), True),
            *[Column("parameters", lambda r: words.integer(r.n_parameters), True)]
            * any(r.n_parameters is not None for r in rows),
        ],
        rows,
        css=lambda r: "model" if r is model else "",
        stacked=True,
    )
    pictures = []
    if len(rows) > 1:
        alt = "Log-likelihoods of all models with two standard errors; the table below has the numbers"
        pictures = [Picture.lines(plot_likelihoods(rows, model), alt, kind="chart")]
    return Section(
        "likelihood", "Likelihood", pictures=pictures, table=table, note=note, definitions=LIKELIHOOD_TERMS
    )


def _name(row: LikelihoodRow) -> Markup:
    notes = [row.note, "no model does better on average" if row.role == "known" else ""]
    note = "; ".join(filter(None, notes))
    name = long_name(row.name)
    return Markup('{} <span class="note">{}</span>').format(name, note) if note else name


def parts_section(
    likelihoods: Mapping[str, str],
    units: str,
    kinds: Mapping[str, str],
    title: str = "Likelihood",
    note: str = "",
) -> Section:
    """The mean likelihood of each part of the data.

    Arguments:
        likelihoods: by the part that was scored, in words. units: that they are in. kinds: what they are.
        title: of the section. note: in small print.
    """
    columns = [
        Column("part", lambda r: r[0]),
        Column(units, lambda r: r[1], True),
        Column("kind", lambda r: kind(kinds[r[0]])),
    ]
    rows = list(likelihoods.items())
    table = Table("Likelihoods", "Mean likelihood of each part", columns, rows, stacked=True)
    name = "likelihood" if title == "Likelihood" else "parts"
    return Section(name, title, table=table, note=note)
