"""The report of whatever has none of its own: likelihoods, measures, training, and how to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modeflow.report.likelihoods import parts_section
from modeflow.report.page import Report, about
from modeflow.report.sections import Section
from modeflow.runs import Run

__all__ = ["PlainReport", "gather_plain"]


@dataclass(kw_only=True)
class PlainReport(Report):
    """What every run can say of itself.

    Attributes:
        size: how many rows of what size. likelihoods: by the part that was scored, in words.
        units: that they are in. density: what they are. measured: the same as plain values, by their key.
    """

    size: str
    likelihoods: dict[str, str]
    units: str
    density: str
    measured: dict[str, Any]

    def fitted(self) -> str:
        return f"{self.model}: {self.size}."

    def headline(self) -> tuple[str, str]:
        return f"{self.likelihoods['test']} on test rows", ""

    def sections(self) -> list[Section]:
        return [parts_section(self.likelihoods, self.units, dict.fromkeys(self.likelihoods, self.density))]

    def summary(self) -> dict[str, Any]:
        return {**self.measured, **super().summary()}

    def lines(self) -> list[str]:
        return [f"{part:12} {value}" for part, value in self.likelihoods.items()] + super().lines()


def gather_plain(run: Run, **_: Any) -> PlainReport:
    """Collect what the report of a run shows; see `gather`."""
    domain, result = run.config.domain, run.result
    parts = result[domain.measure]
    return PlainReport(
        **about(run),
        title=f"{run.config['model']} fitted to {result['data']}",
        model=run.config["model"],
        notes=list(result["notes"]),
        size=domain.size_text(result),
        likelihoods={part: str(domain.likelihood(row)) for part, row in parts.items()},
        units=domain.units,
        density=result["density"],
        measured={domain.measure: parts},
    )
