"""From a run folder to what its report shows."""

from __future__ import annotations

from collections.abc import Callable

from modeflow.report.image import gather_image
from modeflow.report.mixed import gather_mixed
from modeflow.report.page import Report
from modeflow.report.plain import gather_plain
from modeflow.report.table import gather_table
from modeflow.runs import Run

__all__ = ["KINDS", "gather"]

#: Who collects the report of a run, by its domain; what is in no line gets a plain page.
KINDS: dict[str, Callable[..., Report]] = {
    "table": gather_table,
    "image": gather_image,
    "mixed": gather_mixed,
}


def gather(
    run: Run,
    *,
    baselines: bool = True,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Collect everything the report of a run shows.

    Arguments:
        run: from `load_run` or `fit_run`.
        baselines: fit (once) and show what else one would try on the same split: of a table, a Gaussian
            mixture and a plain flow; of a mixed table, columns that are independent.
        quiet: no progress bar.
        announce: called with a line before each long step.

    Raises:
        DataError: if the data of the run is not where it was.
    """
    collect = KINDS.get(run.config.domain.name, gather_plain)
    return collect(run, baselines=baselines, quiet=quiet, announce=announce)
