"""Learning curves, usage of states, and likelihoods beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.report.canvas import label, new_figure, say_nothing, styled
from modeflow.report.colours import FAINT, INK, PALETTE, state_colour
from modeflow.report.contents import LikelihoodRow, StateRow
from modeflow.report.words import uncertain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_of", "plot_learning_curves", "plot_likelihoods", "plot_state_usage"]

# Words in a key, in this order, decide the panel; keys of the last line are bookkeeping and not drawn.
PANELS = (
    ("States", ("entropy", "usage", "perplexity", "dead", "alive", "states")),
    ("Log-likelihood, nats per row (higher is better)", ("log_lik", "loglik", "log_prob", "elbo")),
    ("Loss and its terms (lower is better)", ("",)),
)
SKIPPED = (
    "epoch", "step", "second", "time", "lr", "learning_rate", "per_s", "memory", "seed", "grad",
    "norm", "temperature", "beta", "best", "patience", "eta", "rows", "batch",
)  # fmt: skip


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
            low = key.lower()
            panel = next(name for name, words in PANELS if any(w in low for w in words))
            panels.setdefault(panel, {}).setdefault(key, []).append((epoch, value))
    order = [PANELS[1][0], PANELS[2][0], PANELS[0][0]]
    return {name: panels[name] for name in order if name in panels}


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
def plot_learning_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw a training log: log-likelihoods, loss terms and the use of states, one panel each.

    Entries are dictionaries with ``epoch`` and any numbers, nested or not; keys may be missing from some
    entries. Bookkeeping (times, learning rates, norms) is not drawn.
    """
    from matplotlib.ticker import MaxNLocator

    panels = curves_of(history)
    if not panels:
        figure = new_figure(6, 1.6)
        say_nothing(figure.add_subplot(), "no training history was recorded")
        return figure
    figure = new_figure(max(5.4, 4.6 * len(panels)), 3.6)
    for k, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), k + 1)
        axes.set_title(name, fontsize=9.5)
        axes.set_xlabel("epoch")
        for c, (key, points) in enumerate(curves.items()):
            x, y = np.array(points).T
            valid = "valid" in key.lower() or key.lower().startswith("val")
            look = "-" if valid or c < len(PALETTE) else "--"
            axes.plot(
                x, np.where(np.isfinite(y), y, np.nan), look, color=PALETTE[c % len(PALETTE)],
                marker="o" if len(x) < 3 else None, markersize=4, label=label(_key(key), 32),
            )  # fmt: skip
            if valid and name.startswith("Log") and np.isfinite(y).any():
                _mark_best(axes, x, y)
        clip = _limits(list(curves.values()))
        if clip:
            axes.set_ylim(clip[0], clip[1])
            axes.annotate(
                "first epochs off the scale", (0.98, 0.02), xycoords="axes fraction", ha="right",
                color=FAINT, fontsize=8,
            )  # fmt: skip
        axes.legend(loc="best", handlelength=1.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _key(key: str) -> str:
    return " ".join(key.replace("_", " ").replace("/", " ").split())


def _mark_best(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    best = int(np.nanargmax(np.where(np.isfinite(y), y, np.nan)))
    axes.plot(x[best], y[best], "o", color=INK, markersize=5, zorder=5)
    axes.annotate(
        f"best: epoch {x[best]:g}", (x[best], y[best]), xytext=(0, 7), textcoords="offset points",
        ha="right" if x[best] > np.mean(x) else "left", color=INK, fontsize=8.5,
    )  # fmt: skip


@styled
def plot_state_usage(states: Sequence[StateRow]) -> Figure:
    """Draw how much of the data each state holds, beside its prior weight."""
    if not states:
        figure = new_figure(6, 1.6)
        say_nothing(figure.add_subplot(), "the model has no states")
        return figure
    many = len(states) > 60
    shown = sorted(states, key=lambda s: -s.usage) if many else list(states)
    figure = new_figure(9.2, 2.9)
    axes = figure.add_subplot()
    x = np.arange(len(shown))
    colours = [state_colour(-1 if many else s.index) for s in shown]
    axes.bar(x, [s.usage for s in shown], color=PALETTE[0] if many else colours, width=0.7)
    priors = [math.nan if s.prior_weight is None else s.prior_weight for s in shown]
    if any(math.isfinite(p) for p in priors):
        ends: dict[str, Any] = {"color": INK, "linewidth": 1.6, "zorder": 3}
        axes.hlines(priors, x - 0.42, x + 0.42, label="prior weight", **ends)
        axes.legend(loc="upper right")
    axes.set_ylabel("share of the rows")
    axes.set_ylim(0, None)
    axes.margins(x=0.01)
    axes.grid(axis="x", visible=False)
    if many:
        axes.set_xlabel(f"{len(shown)} states, from the most to the least used")
    else:
        axes.set_xticks(x, [str(s.index) for s in shown])
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
    shown = [r for r in rows if math.isfinite(r.value)]
    figure = new_figure(9.2, 0.75 + 0.42 * max(1, len(shown)))
    axes = figure.add_subplot()
    if not shown:
        say_nothing(axes, "no finite likelihood to draw")
        return figure
    for k, r in enumerate(shown):
        colour = PALETTE[0] if r is model else (INK if r.role == "known" else FAINT)
        error = 2 * r.standard_error if r.standard_error else 0.0
        axes.plot([r.value - error, r.value + error], [k, k], color=colour, linewidth=2.2)
        axes.plot(r.value, k, "D" if r.role == "known" else "o", color=colour, markersize=7)
        if r.kind == "lower bound":
            axes.annotate(
                "", (r.value, k), xytext=(34, 0), textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": colour, "linewidth": 1.4},
            )  # fmt: skip
        axes.annotate(
            uncertain(r.value, r.standard_error), (r.value, k), xytext=(0, 7),
            textcoords="offset points", ha="center", color=colour, fontsize=8.5,
        )  # fmt: skip
        if r.role == "known":
            axes.axvline(r.value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(shown)), [label(r.name, 38) for r in shown])
    axes.set_ylim(len(shown) - 0.5, -0.75)
    axes.margins(x=0.09)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("nats per row, mean over the test rows ± 2 standard errors (higher is better)")
    return figure
