"""The HTML report: one file, nothing loaded from elsewhere, no script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.data import check_writable
from modeflow.report import words
from modeflow.report.canvas import label, to_png, to_svg, write_atomic
from modeflow.report.colours import state_colour, state_glyph
from modeflow.report.contents import ReportData, WorstRow
from modeflow.report.selection import as_states, as_table, choose_columns, frame

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

__all__ = ["render_report", "template_environment", "write_report"]

STATES_SHOWN = 60
WORST_COLUMNS = 6
BINS = 28


@dataclass
class Picture:
    """An image of the page: a data URI, what it shows for those who do not see it, and a caption."""

    uri: str
    alt: str
    caption: str = ""
    wide: bool = False


def _png(figure: Figure, alt: str, caption: str = "", wide: bool = False, dpi: int = 130) -> Picture:
    return Picture(to_png(figure, dpi), alt, caption, wide)


def _pictures(d: ReportData) -> list[Picture]:
    """Data beside samples, and the density where the table has one or two columns."""
    from modeflow.report import plots

    width = next((as_table("data", v).shape[1] for v in (d.data, d.samples) if v is not None), 0)
    grid = d.density
    if width == 0 and grid is not None:
        width = 1 if grid.ys is None else 2
    if width == 0:
        return []
    names = d.columns or [f"x{j}" for j in range(width)]
    clouds = (d.data, d.samples, d.data_states, d.sample_states)
    what = " and ".join(w for w, v in (("data", d.data), ("samples", d.samples)) if v is not None)
    if width == 1:
        figure = plots.plot_density(
            d.data, d.samples, grid, columns=names, data_states=d.data_states,
            sample_states=d.sample_states,
        )  # fmt: skip
        return [Picture(to_svg(figure), f"Histogram of {names[0]}: {what}", "", True)]
    if width == 2:
        present = (("data", d.data), ("density", grid), ("samples", d.samples))
        found = []
        for kind, value in present:
            if value is None:
                continue
            figure, caption = plots.plot_panel(kind, *clouds, names, grid)
            alt = f"{caption}, {names[1]} over {names[0]}"
            found.append(_png(figure, alt, caption))
        return found
    figure = plots.plot_pairs(*clouds, names)
    alt = f"Every pair of the columns drawn: {what}, with histograms of each column on the diagonal"
    return [_png(figure, alt, "", True, 125)]


def _latent_pictures(d: ReportData) -> list[Picture]:
    """The continuous latent of the rows drawn, its first two dimensions."""
    from modeflow.report.latent import plot_latent

    if d.latent is None or d.data is None:
        return []
    data, latent = as_table("data", d.data), as_table("latent", d.latent)
    shown = range(min(latent.shape[1], 2) if data.shape[1] == 2 else 1)
    found = []
    for dimension in shown:
        figure, caption = plot_latent(data, latent, d.columns, dimension)
        found.append(_png(figure, caption, caption))
    return found


def _sparkline(data: np.ndarray | None, samples: np.ndarray | None) -> dict[str, str] | None:
    """Outlines of two histograms in a 120 × 26 box: data filled, samples as a line."""
    if data is None or not np.isfinite(data).any():
        return None
    span = frame(data, 0.02)

    def heights(x: np.ndarray) -> np.ndarray:
        counts, _ = np.histogram(x[np.isfinite(x)], bins=BINS, range=span)
        return counts / max(1, np.isfinite(x).sum())

    filled = heights(data)
    line = heights(samples) if samples is not None else None
    top = max(filled.max(), line.max() if line is not None else 0.0, 1e-12)

    def path(h: np.ndarray) -> str:
        x = np.linspace(0, 120, BINS + 1)
        y = 26 - 25 * h / top
        return "".join(f"L{x[k]:.1f} {y[k]:.1f}L{x[k + 1]:.1f} {y[k]:.1f}" for k in range(BINS))

    return {
        "area": f"M0 26{path(filled)}L120 26Z",
        "line": "" if line is None else f"M0 26{path(line)}L120 26",
    }


def _column_rows(d: ReportData) -> list[dict[str, Any]]:
    data = None if d.data is None else as_table("data", d.data)
    samples = None if d.samples is None else as_table("samples", d.samples)
    rows: list[dict[str, Any]] = []
    for j, column in enumerate(d.data_summary.columns):
        inside = data is not None and j < data.shape[1]
        spark = _sparkline(
            data[:, j] if data is not None and inside else None,
            samples[:, j] if samples is not None and j < samples.shape[1] else None,
        )
        mean = words.in_column(column.mean, column.sd)
        rows.append({"column": column, "spark": spark, "mean": mean})
    return rows


def _shown_columns(d: ReportData, most: int) -> list[int]:
    """The columns that tables of states and rows show: the ones that the pictures draw."""
    if d.data is None:
        return list(range(min(len(d.columns), most)))
    table = as_table("data", d.data)
    states = as_states("data_states", d.data_states, len(table))
    return choose_columns(table, states, most)[0]


def _cell(d: ReportData, j: int, value: object, mean: bool = False) -> str:
    """Write a value of column `j` as finely as the column's spread warrants."""
    described = d.data_summary.columns
    if j >= len(described):
        return words.quantity(value)
    return words.in_column(value, described[j].sd, "continuous" if mean else described[j].kind)


def _two(value: float | None) -> str:
    """Write a log-density with two decimals."""
    if value is None or not np.isfinite(value):
        return words.quantity(value)
    return f"{value:,.2f}".replace("-", "−")


def _truth_rows(d: ReportData) -> list[tuple[str, str, str]]:
    """What is known of the truth: name, this model's value, the truth's."""
    t, row = d.truth, d.model_row
    if t is None:
        return []
    rows: list[tuple[str, str, str]] = []
    if t.entropy is not None:
        ours = "–" if row is None else words.uncertain(-row.value, row.standard_error)
        rows.append(
            (
                "minus the mean log-density, nats per row (lower is better)",
                ours,
                words.uncertain(t.entropy, None),
            )
        )
    if t.bridge_mass is not None:
        name = "samples far from every mode"
        rows.append((name, words.share(t.bridge_mass), words.share(t.true_bridge_mass)))
    if t.modes_found is not None:
        rows.append(("modes that samples reach", words.integer(t.modes_found), words.integer(t.modes)))
    return rows


def _made(d: ReportData) -> str:
    """Say what made the page, from which seed and in what time."""
    parts = [f"Created by modeflow {d.version}" if d.version else "Created by modeflow"]
    if d.seed is not None:
        parts.append(f"seed {d.seed}")
    if d.seconds is not None:
        parts.append(f"fitted in {words.duration(d.seconds)}")
    return ", ".join(parts)


def _state_rows(d: ReportData, columns: list[int]) -> tuple[list[dict[str, Any]], int]:
    shown = d.states
    if len(shown) > STATES_SHOWN:
        shown = sorted(shown, key=lambda s: -s.usage)[:STATES_SHOWN]
    top = max((s.usage for s in shown), default=0.0) or 1.0
    rows = []
    for s in shown:
        mean = list(s.mean) if s.mean is not None else []
        rows.append(
            {
                "state": s,
                "colour": state_colour(s.index),
                "glyph": state_glyph(s.index),
                "bar": round(100 * s.usage / top, 1),
                "mean": [_cell(d, j, mean[j] if j < len(mean) else None, mean=True) for j in columns],
                "log_density": _two(s.log_density),
                "word": "pruned" if s.pruned else ("dead" if s.dead else ""),
            }
        )
    return rows, len(d.states) - len(shown)


def _stands_out(d: ReportData, row: WorstRow) -> str:
    """Say in which column a row is farthest from the mean."""
    best, text = 2.0, ""
    for column, value in zip(d.data_summary.columns, row.values, strict=False):
        if isinstance(value, str) or value is None or column.mean is None or not column.sd:
            continue
        away = (float(value) - column.mean) / column.sd
        if np.isfinite(away) and abs(away) > best:
            best = abs(away)
            side = "above" if away > 0 else "below"
            text = f"{label(column.name, 28)}: {words.quantity(abs(away), 2)} sd {side} the mean"
    return text


def _worst(d: ReportData, columns: list[int]) -> list[dict[str, Any]]:
    rows = sorted(d.worst_rows, key=lambda r: r.log_density)
    return [
        {
            "row": r,
            "values": [_cell(d, j, r.values[j] if j < len(r.values) else None) for j in columns],
            "log_density": _two(r.log_density),
            "why": _stands_out(d, r),
        }
        for r in rows
    ]


def _plain(value: object) -> object:
    """Reduce a parameter to what YAML can write; anything foreign becomes its text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(v) for v in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)


def _config(parameters: Mapping[str, Any]) -> str:
    import yaml

    if not parameters:
        return ""
    text = yaml.safe_dump(_plain(parameters), sort_keys=False, allow_unicode=True, width=88)
    return str(text).rstrip()


def _likelihood_rows(d: ReportData) -> list[dict[str, Any]]:
    model = d.model_row
    rows: list[dict[str, Any]] = []
    for r in d.likelihoods:
        c = None if model is None or r is model else words.compare(model, r)
        rows.append(
            {
                "row": r,
                "model": r is model,
                "value": words.uncertain(r.value, r.standard_error),
                "comparison": c,
            }
        )
    return rows


def _legend(d: ReportData) -> list[dict[str, Any]]:
    """Colours and shapes of the states that occur in the pictures."""
    found: set[int] = set()
    for states in (d.data_states, d.sample_states):
        if states is not None:
            found |= {int(z) for z in np.unique(np.asarray(states))}
    if len(found) < 2 or len(found) > STATES_SHOWN:
        return []
    return [{"z": z, "colour": state_colour(z), "glyph": state_glyph(z)} for z in sorted(found)]


def _context(d: ReportData) -> dict[str, Any]:
    from modeflow.report import curves, plots

    pictures = [*_pictures(d), *_latent_pictures(d)]
    columns = _shown_columns(d, WORST_COLUMNS)
    names = d.columns
    states, states_hidden = _state_rows(d, columns)
    result, comparisons = words.headline(d)
    chart = usage = None
    worst = _worst(d, columns)
    likelihoods = _likelihood_rows(d)
    if len(d.likelihoods) > 1:
        chart = Picture(
            to_svg(plots.plot_likelihoods(d.likelihoods, d.model_row)),
            "Log-likelihoods of all models with two standard errors; the table below has the numbers",
            "", True,
        )  # fmt: skip
    learning = [
        Picture(
            to_svg(curves.plot_panel_of_curves(name, lines)),
            f"{name} over {words.plural(len(d.history), 'epoch')}: {', '.join(lines)}",
        )
        for name, lines in curves.curves_of(d.history).items()
    ]
    if len(d.states) > 1:
        alt = "Share of the rows that each state holds, and its prior weight; the table has the numbers"
        usage = Picture(to_svg(plots.plot_state_usage(d.states)), alt, "", True)
    return {
        "d": d,
        "fitted": words.fitted(d),
        "result": result,
        "comparisons": comparisons,
        "warnings": [*d.warnings, *words.own_warnings(d)],
        "likelihoods": likelihoods,
        "compared": any(r["comparison"] for r in likelihoods),
        "sized": any(r.n_parameters is not None for r in d.likelihoods),
        "truth": _truth_rows(d),
        "made": _made(d),
        "unpaired": any(
            r["comparison"] and not r["comparison"].paired and r["comparison"].other.role != "known"
            for r in likelihoods
        ),
        "chart": chart,
        "pictures": pictures,
        "legend": _legend(d) if pictures else [],
        "pairs": bool(pictures) and len(names) > 2,
        "density": d.density is not None and d.density.ys is not None,
        "learning": learning,
        "usage": usage,
        "states": states,
        "states_hidden": states_hidden,
        "effective": float(np.exp(d.usage_entropy)) if d.usage_entropy is not None else None,
        "shown_names": [names[j] for j in columns if j < len(names)],
        "columns": _column_rows(d),
        "missing": any(c.missing for c in d.data_summary.columns),
        "worst": worst,
        "reasons": any(w["why"] for w in worst),
        "scored_states": any(s.log_density is not None for s in d.states),
        "weighted": any(s.prior_weight is not None for s in d.states),
        "config": _config(d.model.parameters),
    }


def template_environment() -> Environment:
    """Where the pages' templates are found, and what they may call."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("modeflow", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quantity"] = words.quantity
    environment.filters["integer"] = words.integer
    environment.filters["short"] = label
    environment.globals["plural"] = words.plural
    return environment


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page that loads nothing from elsewhere."""
    return template_environment().get_template("template.html.jinja").render(_context(data))


def write_report(data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write the report, all at once or not at all, and return its path.

    `path` is the file, or a folder that gets a ``report.html``.

    Raises:
        DataError: the file cannot be written (found before anything is drawn).
    """
    target = Path(path).expanduser()
    if target.is_dir():
        target = target / "report.html"
    check_writable(target)
    return write_atomic(target, render_report(data).encode("utf-8"))
