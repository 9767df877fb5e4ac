"""The section of docs/benchmarks.md on conditionals of one column."""

from __future__ import annotations

from typing import Any

from conditionals import CLASSIFIERS, FORECASTS, LABELS, NUMBERS
from markdown_parts import number, place, table

Runs = list[dict[str, Any]]


def _with_error(runs: Runs, key: str, factor: float = 1.0, digits: int = 3) -> str:
    """The mean over seeds, with the error of a mean over test rows."""
    mean = factor * sum(r[key] for r in runs) / len(runs)
    error = factor * sum(r[f"{key}_error"] ** 2 for r in runs) ** 0.5 / len(runs)
    return f"{number(mean, digits)} ± {error:.{digits}f}"


def _plain(runs: Runs, key: str, factor: float = 1.0, digits: int = 1) -> str:
    return number(factor * sum(r[key] for r in runs) / len(runs), digits)


def _numbers(runs: Runs) -> list[str]:
    return [
        _with_error(runs, "crps"),
        _with_error(runs, "log_score"),
        _plain(runs, "inside", 100),
        _plain(runs, "seconds"),
    ]


def _labels(runs: Runs) -> list[str]:
    return [
        _with_error(runs, "accuracy", 100, 1),
        _with_error(runs, "log_loss"),
        _plain(runs, "calibration_error", 100),
        _plain(runs, "seconds"),
    ]


def lines(content: dict[str, Any]) -> list[str]:
    """A table for each table."""
    s, runs = content["settings"], content["runs"]
    found = [
        "## One column given the others",
        "",
        "What a joint density of all columns costs where one is asked for, beside what is fitted to that one alone: not to win, to know. "
        f"At most 5,000 rows, {100 * s['test']:.0f} % of them for testing. *NVF, leaves* and *NVF, flow*: a tree of states, and a flow over it with a "
        "proposal, defaults; draws and probabilities of `predict_column`, densities of `log_prob_given` (under the flow by quadrature). "
        f"Rivals have their defaults: a gradient boosting of scikit-learn for each of {s['quantiles']} quantiles, a quantile forest, NGBoost with a normal "
        "distribution; *marginal* knows no other column. *CRPS* in standard deviations of the training targets; *log-score*: mean "
        "log-density, nats, in the same unit, by the cell of the target's lattice (higher is better), that of quantiles linear between them "
        f"and exponential beyond (which is unkind to a forest where values repeat), all mixed with {100 * s['floor']:.0f} % of a normal distribution so that nobody's is minus infinity; *in 95 %*: share between the "
        "outer quantiles. Labels: accuracy, log-loss, and the expected calibration error of the class predicted. Means over test rows ± their "
        "standard error; seconds of the processor, one thread, fitting and predicting.",
        "",
    ]
    parts: tuple[tuple[dict[str, Any], Any, Any, list[str]], ...] = (
        (NUMBERS, FORECASTS, _numbers, ["CRPS", "log-score, nats", "in 95 %, %", "seconds"]),
        (LABELS, CLASSIFIERS, _labels, ["accuracy, %", "log-loss, nats", "ECE, %", "seconds"]),
    )
    for names, methods, cells, header in parts:
        for name, target in names.items():
            here = [r for r in runs if r["table"] == name]
            if not here:
                continue
            said = target if isinstance(target, str) else target[0]
            training, test = here[0]["rows"]
            found += [
                f"**{name}: {said}** ({training:,} training, {test:,} test rows, {here[0]['columns']} columns)",
                "",
            ]
            by = {method: [r for r in here if r["method"] == method] for method in methods}
            found += [*table(["", *header], [[m, *cells(rows)] for m, rows in by.items() if rows]), ""]
    return [*found, place(content), "", "`python benchmarks/conditionals.py`", ""]
