"""The HTML report: one file, nothing loaded from elsewhere, no script; the same for whatever was fitted.

A kind of report (`TableReport`, `ImageReport`) says what is its own: the result, and its `Section`s.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from modeflow._version import __version__
from modeflow.data import check_writable
from modeflow.data.table import atomic_write
from modeflow.report import words
from modeflow.report.contents import StateRow
from modeflow.report.curves import curves_of
from modeflow.report.latent import dead_states, latent_measures, states_section
from modeflow.report.sections import (
    Definition,
    Section,
    definitions_section,
    measured,
    measures_table,
    repeat_section,
    training_section,
)
from modeflow.runs import Run

__all__ = ["Report", "about", "render_report", "write_report"]


@dataclass(kw_only=True)
class Report(ABC):
    """What every report shows; whatever is None or empty is left out of the page.

    The page is, in this order: title, `fitted`, `headline`, warnings and notes; `sections`; measures;
    learning curves; states; `details`; how to repeat it; the definitions of what the sections use.

    Attributes:
        title: of the page.
        model: its name. parameters: every setting needed to repeat it, and `command`, which does.
        n_parameters: its trainable numbers.
        history: one mapping an epoch, as `modeflow.training.History.epochs`.
        states: one row a state; empty for a model without states.
        measures: rows ``{"name", "value", "best", "standard_error"}`` of what was measured beside the
            likelihood, the last two if known.
        warnings: shown in a box at the top. notes: remarks, shown below it.
        seed, seconds, version: of the run; how long it took; of modeflow.
        created: when, as text; None keeps the page the same every time.
    """

    #: What one of the data is called.
    unit: ClassVar[str] = "row"
    #: Of the terms that the measures use.
    measure_definitions: ClassVar[Sequence[Definition]] = ()

    title: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    n_parameters: int | None = None
    command: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    states: list[StateRow] = field(default_factory=list)
    measures: list[Mapping[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seed: int | None = None
    seconds: float | None = None
    version: str | None = __version__
    created: str | None = None

    @abstractmethod
    def fitted(self) -> str:
        """The sentence that says what was fitted to what."""

    @abstractmethod
    def headline(self) -> tuple[str, str]:
        """The result in one sentence: the number, and how it compares (or nothing)."""

    @abstractmethod
    def sections(self) -> list[Section]:
        """The likelihood, and pictures."""

    def details(self) -> list[Section]:
        """What comes after the training and the states."""
        return []

    def curves(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Learning curves: ``{panel: {name: [(epoch, value), ...]}}``."""
        return curves_of(self.history)

    def measures_section(self) -> Section:
        """What was measured beside the likelihood."""
        caption = "Measures of the model, its samples and its latent"
        table = measures_table("Measures", caption, self.measures, "best possible")
        return Section("measures", "Measures", table=table, definitions=self.measure_definitions)

    def states_section(self) -> Section:
        """The states and how much of the data each holds."""
        return states_section(self.states, self.unit)

    def own_warnings(self) -> list[str]:
        """The warnings that the report draws from its own numbers."""
        return dead_states(self.states, self.unit)

    def summary(self) -> dict[str, Any]:
        """The numbers of the report, for JSON."""
        return {"measures": [dict(m) for m in self.measures]} if self.measures else {}

    def lines(self) -> list[str]:
        """The numbers of the report, a line each, for people."""
        return [
            f"{m['name']}: {measured(m)}" + ("" if m.get("best") is None else f" (best: {m['best']})")
            for m in self.measures
        ]


def about(run: Run) -> dict[str, Any]:
    """What every report says of its run: arguments of `Report`."""
    result = run.result
    settings = {k: v for k, v in run.config.settings.items() if v is not None}
    return {
        "parameters": settings,
        "n_parameters": result.get("n_parameters"),
        "command": run.command,
        "history": list(run.estimator.history_),
        "measures": [*latent_measures(result), *result.get("measures", [])],
        "warnings": run.warnings,
        "seed": run.config["seed"],
        "seconds": result.get("seconds"),
    }


def render_report(report: Report) -> str:
    """Return the report as one HTML page that loads nothing from elsewhere."""
    sections = [
        *report.sections(),
        *([report.measures_section()] if report.measures else []),
        training_section(report.curves(), len(report.history)),
        *([report.states_section()] if report.states else []),
        *report.details(),
        repeat_section(report.model, report.n_parameters, report.parameters, report.command),
    ]
    result, comparisons = report.headline()
    environment = _environment()

    def render(section: Section) -> Markup:
        template = environment.get_template(f"{section.template}.html.jinja")
        return Markup(template.render(section=section, **section.context))

    return environment.get_template("page.html.jinja").render(
        report=report,
        result=result,
        comparisons=comparisons,
        warnings=[*report.warnings, *report.own_warnings()],
        sections=[*sections, definitions_section(sections)],
        render=render,
        made=_made(report),
    )


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("modeflow", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _made(report: Report) -> str:
    """Say what made the page, from which seed and in what time."""
    parts = [f"Created by modeflow {report.version}" if report.version else "Created by modeflow"]
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    if report.seconds is not None:
        parts.append(f"fitted in {words.duration(report.seconds)}")
    return ", ".join(parts)


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the report, all at once or not at all, and return its path.

    `path` is the file, or a folder that gets a ``report.html``.

    Raises:
        DataError: the file cannot be written (found before anything is drawn).
    """
    target = Path(path).expanduser()
    if target.is_dir():
        target = target / "report.html"
    check_writable(target)
    page = render_report(report)
    return atomic_write(target, lambda file: file.write_text(page, encoding="utf-8"))
