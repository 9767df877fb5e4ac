"""One column of a mixed table, data beside samples: bars of levels, histograms, rings, and bars of atoms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.data.columns import Circular, Column, Datetime, Feature, Steps
from modeflow.data.columns.cells import time_of
from modeflow.report.canvas import label, new_figure, say_nothing, styled
from modeflow.report.colours import DATA, FAINT, INK, MODEL
from modeflow.report.selection import frame
from modeflow.report.words import quantity, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bar", "Marginal", "level_names", "marginal_of", "marginal_of_numbers", "plot_marginal"]

#: Levels with a bar of their own, and atoms; bins of a histogram, and of a ring.
_LEVELS, _ATOMS, _BINS, _RING = 15, 6, 40, 36
#: Every picture has this size, inches, so that they stand in rows.
_SIZE = (4.1, 2.9)
#: How many times the median the largest values are (99.5 %) where the axis is logarithmic.
_SKEW = 15.0
#: Least share of positive numbers of such an axis, and least values of a lattice in its bins.
_POSITIVE, _IN_A_BIN = 0.95, 4
_DAY = 86400.0


@dataclass(frozen=True)
class Bar:
    """A level or an atom: its name, and its share of the known cells of data and of samples."""

    name: str
    data: float
    samples: float


@dataclass(frozen=True)
class Marginal:
    """What is drawn of a column.

    Attributes:
        name, spec: of the column, its kind in words. missing: share of its cells in the data.
        bars: its levels; of numbers, the atoms. rare: how many levels the last bar stands for.
        data, samples: numbers beside the atoms; None for a column of levels.
        step, offset: of a lattice. period, origin: of a circle.
        time: the column of times, which knows the seconds of its numbers.
    """

    name: str
    spec: str
    missing: float = 0.0
    bars: tuple[Bar, ...] = ()
    rare: int = 0
    data: np.ndarray | None = None
    samples: np.ndarray | None = None
    step: float = 0.0
    offset: float = 0.0
    period: float = 0.0
    origin: float = 0.0
    time: Datetime | None = None

    @property
    def alt(self) -> str:
        """What the picture shows, for those who do not see it."""
        if self.data is None:
            top = ", ".join(f"{b.name} {share(b.data)} and {share(b.samples)}" for b in self.bars[:5])
            return f"Levels of {self.name}, shares of data and of samples: {top}"
        what = "Ring" if self.period else "Histogram"
        atoms = "".join(f"; {b.name}: {share(b.data)} and {share(b.samples)}" for b in self.bars)
        return f"{what} of {self.name}, data and samples{atoms}"


def level_names(column: Column) -> list[str]:
    """The levels of a column as text, in the order of their codes; numbers as they are, times as dates."""
    levels = getattr(column, "levels", ())
    if isinstance(column, Datetime):
        return [str(time_of(v, column.date)) for v in levels]
    return [
        v if isinstance(v, str) else str(v).lower() if isinstance(v, bool) else f"{v:.12g}" for v in levels
    ]


def marginal_of(column: Column, data: np.ndarray, samples: np.ndarray) -> Marginal:
    """What is to be drawn of a column.

    Arguments:
        column: of a schema. data, samples: its cells as the schema encodes them, NaN where missing.
    """
    feature = column.feature()
    told: dict[str, Any] = {
        "name": column.name,
        "spec": column.spec,
        "missing": float(np.isnan(data).mean()) if len(data) else 0.0,
    }
    known = [x[np.isfinite(x)] for x in (data, samples)]
    if feature.levels:
        names = level_names(column)
        if isinstance(column, Steps) and len(names) > _LEVELS:  # numbers, too many for bars
            values = [np.array(column.levels)[x.astype(np.int64)] for x in known]
            told |= {
                "step": column.step,
                "offset": column.offset,
                "time": column if isinstance(column, Datetime) else None,
            }
            return Marginal(**told, data=values[0], samples=values[1])
        shares = [_shares(np.bincount(x.astype(np.int64), minlength=feature.levels)) for x in known]
        return Marginal(**told, **_bars(names, shares[0], shares[1], feature.ordered))
    atoms = feature.atoms
    bars = [Bar(quantity(a), *(float((x == a).mean()) if len(x) else 0.0 for x in known)) for a in atoms]
    bars = sorted(bars, key=lambda b: -b.data)[:_ATOMS]
    rest = [x[~np.isin(x, atoms)] for x in known]
    told |= {
        "step": feature.step,
        "offset": feature.offset,
        "time": column if isinstance(column, Datetime) else None,
    }
    if isinstance(column, Circular):
        told |= {"period": column.period, "origin": column.origin}
    return Marginal(**told, bars=tuple(bars), data=rest[0], samples=rest[1])


def marginal_of_numbers(feature: Feature, data: np.ndarray, samples: np.ndarray) -> Marginal:
    """The same of a column of complete numbers."""
    kind = f"lattice({feature.step:g})" if feature.step else "real"
    return Marginal(feature.name, kind, data=data, samples=samples, step=feature.step, offset=feature.offset)


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / max(1, counts.sum()))


def _bars(names: list[str], data: np.ndarray, samples: np.ndarray, ordered: bool) -> dict[str, Any]:
    """Bars of the most frequent levels, the others in one."""
    frequent = np.argsort(-data, kind="stable")
    if len(names) <= _LEVELS:
        shown = np.arange(len(names)) if ordered else frequent
        return {"bars": tuple(Bar(names[k], float(data[k]), float(samples[k])) for k in shown)}
    shown, rare = frequent[: _LEVELS - 1], frequent[_LEVELS - 1 :]
    shown = np.sort(shown) if ordered else shown
    bars = [Bar(names[k], float(data[k]), float(samples[k])) for k in shown]
    bars.append(Bar(f"{len(rare)} others", float(data[rare].sum()), float(samples[rare].sum())))
    return {"bars": tuple(bars), "rare": len(rare)}


# -- drawing ------------------------------------------------------------------------------------------


@styled
def plot_marginal(marginal: Marginal) -> Figure:
    """Draw a column: data filled, samples as a blue line."""
    figure = new_figure(*_SIZE)
    if marginal.data is None:
        _levels(figure.add_subplot(), marginal)
        return figure
    polar: dict[str, Any] = {"projection": "polar"} if marginal.period else {}
    if marginal.bars:
        wide = 0.1 + 0.09 * len(marginal.bars)
        grid = figure.add_gridspec(1, 2, width_ratios=[wide, 1 - wide])
        beside, axes = figure.add_subplot(grid[0]), figure.add_subplot(grid[1], **polar)
        _atoms(beside, marginal.bars)
    else:
        axes = figure.add_subplot(**polar)
    if not len(marginal.data):
        say_nothing(axes, "no other value")
    elif marginal.period:
        _ring(axes, marginal)
    else:
        _histogram(axes, marginal)
    return figure


def _percent(axis: Any, nbins: int = 5) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=nbins, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))


def _levels(axes: Axes, marginal: Marginal) -> None:
    bars = marginal.bars
    at = np.arange(len(bars))
    axes.barh(at, [b.data for b in bars], height=0.74, color=DATA, alpha=0.4, linewidth=0)
    axes.barh(at, [b.samples for b in bars], height=0.74, fill=False, edgecolor=MODEL, linewidth=1.4)
    axes.set_yticks(at, [label(b.name, 20) for b in bars], fontsize=8.5 if len(bars) <= 10 else 7.5)
    if marginal.rare:
        axes.get_yticklabels()[-1].set_fontstyle("italic")
    room = max(0.0, (4 - len(bars)) / 2)  # few bars do not grow fat
    axes.set_ylim(len(bars) - 0.4 + room, -0.6 - room)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, None)
    axes.margins(x=0.04)
    _percent(axes.xaxis)


def _atoms(axes: Axes, bars: tuple[Bar, ...]) -> None:
    at = np.arange(len(bars))
    axes.bar(at, [b.data for b in bars], width=0.7, color=DATA, alpha=0.4, linewidth=0)
    axes.bar(at, [b.samples for b in bars], width=0.7, fill=False, edgecolor=MODEL, linewidth=1.4)
    long = len(bars) > 1 and max(len(b.name) for b in bars) > 3
    axes.set_xticks(at, [b.name for b in bars], rotation=90 if long else 0)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.7, len(bars) - 0.3)
    if not any(b.data or b.samples for b in bars):
        axes.set_ylim(0, 0.01)
    axes.set_title("atom" if len(bars) == 1 else "atoms", fontsize=8.5, fontweight="normal", color=FAINT)
    _percent(axes.yaxis)


def _of_bins(x: np.ndarray | None, edges: np.ndarray) -> np.ndarray:
    """Share of the numbers in each bin."""
    assert x is not None
    return np.histogram(x, edges)[0] / max(1, len(x))


def _histogram(axes: Axes, marginal: Marginal) -> None:
    data, samples = marginal.data, marginal.samples
    assert data is not None and samples is not None
    low, high = frame(data, 0.02)
    powers = None if marginal.time else _powers_of(data, marginal.step)
    if powers is not None:
        edges = powers
        axes.set_xscale("log")
        axes.minorticks_off()
    else:
        edges = _edges(low, high, marginal.step, marginal.offset)
    off = [float(((x < edges[0]) | (x > edges[-1])).mean()) if len(x) else 0.0 for x in (data, samples)]
    at = marginal.time.seconds(edges) / _DAY if marginal.time else edges
    axes.stairs(_of_bins(data, edges), at, fill=True, color=DATA, alpha=0.4)
    axes.stairs(_of_bins(samples, edges), at, color=MODEL, linewidth=1.4)
    axes.set_xlim(at[0], at[-1])
    axes.set_ylim(0, None)
    _percent(axes.yaxis)
    if marginal.time:
        _dates(axes)
    elif powers is not None:
        _powers(axes, edges[0], edges[-1])
    else:
        _numbers(axes)
    if max(off) >= 0.0005:
        text = f"outside: {share(off[0])} of the data, {share(off[1])} of the samples"
        axes.set_title(text, fontsize=7.5, fontweight="normal", color=FAINT, loc="right", pad=3)


def _powers_of(data: np.ndarray, step: float) -> np.ndarray | None:
    """Edges of bins on a logarithmic axis, for skewed numbers nearly all of which are positive; None for
    others, and where the values of a lattice are too few for such bins."""
    above = data[data > 0]
    if not len(above) or len(above) < _POSITIVE * len(data):
        return None
    low, high = (float(q) for q in np.quantile(above, [0.001, 0.999]))
    edges = np.geomspace(low, high * (1 + 1e-9), _BINS + 1)
    skewed = bool(np.quantile(above, 0.995) > _SKEW * np.median(above))
    return edges if skewed and edges[1] - edges[0] >= _IN_A_BIN * step else None


def _edges(low: float, high: float, step: float, offset: float) -> np.ndarray:
    """Edges of bins, of which every one holds as many values of a lattice."""
    if not step:
        return np.linspace(low, high, _BINS + 1)
    width = step * max(1, int(np.ceil((high - low) / step / _BINS)))
    first = offset - step / 2 + np.floor((low - offset + step / 2) / width) * width
    return np.asarray(first + width * np.arange(int(np.ceil((high - first) / width)) + 1))


def _dates(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: quantity(v)))


def _powers(axes: Axes, low: float, high: float) -> None:
    """Ticks of a logarithmic axis: powers of ten, with twice and five times them where those are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    few = len(exponents) <= 4
    ticks = [m * 10.0**e for e in exponents for m in ((1, 3) if few else (1,))]
    ticks = [t for t in ticks if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 6) or 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: quantity(v)))


def _ring(axes: Any, marginal: Marginal) -> None:
    """A histogram around the circle, clockwise from 0 at the top, as on a clock."""
    step, period, origin = marginal.step, marginal.period, marginal.origin
    bins = _RING
    if step:
        values = round(period / step)
        bins = next(k for k in range(min(values, 2 * _RING), 0, -1) if values % k == 0)
    width = period / bins
    edges = origin - step / 2 + width * np.arange(bins + 1)
    turn = 2 * np.pi / period
    found = [_of_bins(_turned(x, edges[0], period), edges) for x in (marginal.data, marginal.samples)]
    top = max(float(heights.max()) for heights in found) or 1.0
    hole = 0.45 * top
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    look: dict[str, Any] = {"width": width * turn, "bottom": hole, "align": "edge"}
    axes.bar(edges[:-1] * turn, found[0], color=DATA, alpha=0.4, linewidth=0, **look)
    fine = np.concatenate([np.linspace(a, b, 8) for a, b in itertools.pairwise(edges * turn)])
    line = hole + np.repeat(found[1], 8)
    axes.plot(np.append(fine, fine[0]), np.append(line, line[0]), color=MODEL, linewidth=1.4)
    axes.plot(np.linspace(0, 2 * np.pi, 200), np.full(200, hole), color=FAINT, linewidth=0.7)
    axes.set_ylim(0, hole + 1.03 * top)
    axes.set_yticks([])
    axes.spines["polar"].set_visible(False)
    values = round(period / step) if step else 0
    whole = (k for k in (8, 12, 6, 9, 7, 10, 5, 4, 3) if values % k == 0)
    count = values if 0 < values <= 12 else next(whole, 8)
    first = np.ceil(origin / (period / count) - 1e-9)
    ticks = period / count * (first + np.arange(count))
    axes.set_xticks(ticks * turn, [quantity(t) for t in ticks])
    axes.tick_params(axis="x", pad=-2, labelsize=8.5)
    axes.text(
        0.5, 0.5, f"up to\n{100 * top:.2g} %", ha="center", va="center", transform=axes.transAxes,
        fontsize=7, color=FAINT,
    )  # fmt: skip


def _turned(x: np.ndarray | None, start: float, period: float) -> np.ndarray:
    assert x is not None
    return np.asarray(start + np.mod(x - start, period))
