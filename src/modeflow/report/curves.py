"""Learning curves, usage of states, and likelihoods beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.report.canvas import halo, label, new_figure, say_nothing, styled
from modeflow.report.colours import FAINT, INK, PALETTE, state_colour
from modeflow.report.contents import LikelihoodRow, StateRow
from modeflow.report.words import uncertain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_likelihoods", "curves_of", "plot_likelihoods", "plot_panel_of_curves", "plot_state_usage"]

# Words in a key, in this order, decide the panel; keys of the last line are bookkeeping and not drawn.
PANELS = (
    ("States in use", ("entropy", "usage", "perplexity", "dead", "alive", "states")),
    ("Log-likelihood, nats per row (higher is better)", ("log_lik", "loglik", "log_prob", "elbo")),
    ("Loss and its terms (lower is better)", ("",)),
)
SKIPPED = (
    "epoch", "step", "second", "time", "lr", "learning_rate", "per_s", "memory", "seed", "grad",
    "norm", "temperature", "beta", "best", "patience", "eta", "rows", "batch",
)  # fmt: skip


# Names that `modeflow.training` gives to mean log-densities.
LIKELIHOODS = ("validation", "training")


def _panel(key: str) -> str:
    low = key.lower()
    if low in LIKELIHOODS:
        return PANELS[1][0]
    return next(name for name, words in PANELS if any(w in low for w in words))


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in entry.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{name} "))
        elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _skipped(key: str) -> bool:
    words = key.lower().replace("/", " ").replace(".", " ").replace("-", "_").split()
    parts = {part for word in words for part in (word, *word.split("_"))}
    return any(s in parts or f"{s}s" in parts for s in SKIPPED) or "per_s" in key.lower()


def curves_of(
    history: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Sort a log into panels of curves: ``{panel: {key: [(epoch, value), ...]}}``."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for position, entry in enumerate(history):
        flat = _flat(entry)
        epoch = flat.get("epoch", flat.get("step", float(position + 1)))
        for key, value in flat.items():
            if _skipped(key) or not math.isfinite(epoch):
                continue
            if key.lower() == "usage_entropy":  # nats; as a number of states it shares an axis with counts
                key, value = "effective states", math.exp(min(value, 50.0))
            panels.setdefault(_panel(key), {}).setdefault(key, []).append((epoch, value))
    for curves in panels.values():
        for key in [k for k, c in curves.items() if not any(math.isfinite(v) for _, v in c)]:
            del curves[key]
    order = [PANELS[1][0], PANELS[2][0], PANELS[0][0]]
    return {name: panels[name] for name in order if panels.get(name)}


def as_likelihoods(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch of a table's log: likelihoods of both parts (higher is better), for one panel."""
    drawn = {k: v for k, v in row.items() if k not in ("nll", "train_loss")}
    if "nll" in row:
        drawn["training"] = -row["nll"]
    return drawn


def _limits(curves: Sequence[list[tuple[float, float]]]) -> tuple[float, float, bool] | None:
    """The range of the later three quarters of each curve; True if earlier values fall outside."""
    every = [v for c in curves for _, v in c if math.isfinite(v)]
    late = [v for c in curves for _, v in c[len(c) // 4 :] if math.isfinite(v)]
    if not late:
        return None
    low, high = min(late), max(late)
    if high - low <= 0 or (max(every) - min(every)) <= 3 * (high - low):
        return None
    pad = 0.15 * (high - low)
    return low - pad, high + pad, True


@styled
def plot_panel_of_curves(name: str, curves: Mapping[str, list[tuple[float, float]]]) -> Figure:
    """Draw one panel of `curves_of` by itself, for a page that sets its panels side by side."""
    figure = new_figure(4.1, 3.2)
    _draw_curves(figure.add_subplot(), name, curves)
    return figure


def _draw_curves(axes: Axes, name: str, curves: Mapping[str, list[tuple[float, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    title, _, rest = name.partition(" (")
    axes.set_title(title, fontsize=10, pad=18 if rest else 6)
    if rest:
        axes.annotate(
            rest.rstrip(")"), (0, 1), xytext=(0, 5), xycoords="axes fraction",
            textcoords="offset points", color=FAINT, fontsize=8.5,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    for c, (key, points) in enumerate(curves.items()):
        x, y = np.array(points).T
        valid = key.lower().startswith("val") or "valid" in key.lower()
        colour = PALETTE[c % len(PALETTE)]
        axes.plot(
            x, np.where(np.isfinite(y), y, np.nan), "-" if c < len(PALETTE) else "--", color=colour,
            marker="o" if len(x) < 3 else None, markersize=4, label=label(_key(key), 32),
        )  # fmt: skip
        if valid and name.startswith("Log"):
            _mark_best(axes, x, y)
            axes.margins(y=0.14)  # room for its words
    clip = _limits(list(curves.values()))
    if clip:
        axes.set_ylim(clip[0], clip[1])
        axes.annotate(
            "first epochs off the scale", (0.02, 0.02), xycoords="axes fraction", color=FAINT, fontsize=8,
            path_effects=halo(), zorder=6,
        )  # fmt: skip
    axes.legend(loc="best", handlelength=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def _key(key: str) -> str:
    return " ".join(key.replace("_", " ").replace("/", " ").split())


def _mark_best(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    best = int(np.nanargmax(np.where(np.isfinite(y), y, np.nan)))
    axes.plot(x[best], y[best], "o", color=INK, markersize=5, zorder=5)
    axes.annotate(
        f"best: epoch {x[best]:g}", (x[best], y[best]), xytext=(0, 7), textcoords="offset points",
        ha="right" if x[best] > np.mean(x) else "left", color=INK, fontsize=8.5,
        path_effects=halo(), zorder=6,
    )  # fmt: skip


@styled
def plot_state_usage(states: Sequence[StateRow], unit: str = "row") -> Figure:
    """Draw how much of the data each state holds, beside its prior weight."""
    from matplotlib.ticker import PercentFormatter

    if not states:
        figure = new_figure(6, 1.6)
        say_nothing(figure.add_subplot(), "the model has no states")
        return figure
    many = len(states) > 60
    shown = sorted(states, key=lambda s: -s.usage) if many else list(states)
    figure = new_figure(8.2, 2.8)
    axes = figure.add_subplot()
    x = np.arange(len(shown))
    colours = [state_colour(-1 if many else s.index) for s in shown]
    axes.bar(x, [s.usage for s in shown], color=PALETTE[0] if many else colours, width=0.7)
    priors = [math.nan if s.prior_weight is None else s.prior_weight for s in shown]
    if any(math.isfinite(p) for p in priors):
        ends: dict[str, Any] = {"color": INK, "linewidth": 1.6, "zorder": 3}
        axes.hlines(priors, x - 0.42, x + 0.42, label="prior weight", **ends)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    axes.set_ylabel(f"share of the {unit}s")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.margins(x=0.01)
    axes.grid(axis="x", visible=False)
    if many:
        axes.set_xlabel(f"{len(shown)} states, from the most to the least used")
    else:
        axes.set_xticks(x, [str(s.index) for s in shown], fontsize=8.5 if len(shown) <= 40 else 6.5)
        axes.set_xlabel("state")
    for k, s in enumerate(shown if not many else []):
        word = "pruned" if s.pruned else ("dead" if s.dead else "")
        if word:
            axes.annotate(
                word, (k, 0), xytext=(0, 4), textcoords="offset points", rotation=90, ha="center",
                va="bottom", fontsize=8.5, color=FAINT,
            )  # fmt: skip
    return figure


@styled
def plot_likelihoods(rows: Sequence[LikelihoodRow], model: LikelihoodRow | None = None) -> Figure:
    """Draw the log-likelihoods with two standard errors each; an arrow leads up from a lower bound."""
    from matplotlib.ticker import MaxNLocator

    shown = [r for r in rows if math.isfinite(r.value)]
    figure = new_figure(6.6, 0.75 + 0.44 * max(1, len(shown)))
    axes = figure.add_subplot()
    if not shown:
        say_nothing(axes, "no finite likelihood to draw")
        return figure
    for k, r in enumerate(shown):
        colour = PALETTE[0] if r is model else (INK if r.role == "known" else FAINT)
        error = 2 * r.standard_error if r.standard_error else 0.0
        axes.plot([r.value - error, r.value + error], [k, k], color=colour, linewidth=2.2)
        axes.plot(r.value, k, "D" if r.role == "known" else "o", color=colour, markersize=7)
        text = uncertain(r.value, r.standard_error)
        if r.kind == "lower bound":
            axes.annotate(
                "", xy=(r.value + error, k), xytext=(26, 0), textcoords="offset points",
                arrowprops={
                    "arrowstyle": "<|-", "color": colour, "linewidth": 1.2, "linestyle": (0, (2, 1.5)),
                    "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9,
                },
            )  # fmt: skip
            text = f"{text} or more"
        axes.annotate(
            text, (r.value, k), xytext=(0, 7), textcoords="offset points", ha="center", color=colour,
            fontsize=8.5, bbox={"facecolor": "white", "linewidth": 0, "pad": 0.8}, zorder=4,
        )  # fmt: skip
        if r.role == "known":
            axes.axvline(r.value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(shown)), [label(r.name, 30) for r in shown])
    axes.set_ylim(len(shown) - 0.5, -0.75)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("nats per row ± 2 standard errors (higher is better)")
    return figure
