"""Figures without global state: a clean style, atomic saving, and encoding into a page."""

from __future__ import annotations

import base64
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

from modeflow.data.table import atomic_write
from modeflow.errors import ConfigError, nearest
from modeflow.report.colours import FAINT, GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = [
    "halo",
    "image_to_png",
    "label",
    "new_figure",
    "save_picture",
    "styled",
    "to_png",
    "to_svg",
]

P = ParamSpec("P")
T = TypeVar("T")

STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a column may be called "price in $"
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#aab2ba",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "modeflow",
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the caller has set, and leave that as it was."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, STYLE))
        yield


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function in the report's style."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return function(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    """Return an empty white figure (inches), outside pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def label(text: object, length: int = 24) -> str:
    """Return a name that fits on an axis: one line, no control characters, at most `length` long."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    if len(line) <= length:
        return line
    tail = (length - 1) // 2  # names that share a long beginning still differ at the end
    return line[: length - 1 - tail] + "…" + line[len(line) - tail :]


def halo() -> list[Any]:
    """Path effects that set text off from the lines beneath it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white")]


def say_nothing(axes: Axes, words: str) -> None:
    """Turn axes into one centred remark."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color=FAINT)


def _render(figure: Figure, target: Any, suffix: str, dpi: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        with style():
            metadata = NO_METADATA if suffix == "svg" else None
            figure.savefig(target, format=suffix, dpi=dpi, facecolor="white", metadata=metadata)


def to_png(figure: Figure, dpi: int = 130, colours: int = 192) -> str:
    """Return the figure as a PNG data URI with a palette of `colours` (a third of the weight)."""
    from PIL import Image

    buffer = io.BytesIO()
    _render(figure, buffer, "png", dpi)
    buffer.seek(0)
    with Image.open(buffer) as picture:
        return _png_uri(picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE))


def image_to_png(image: np.ndarray) -> str:
    """Return an 8-bit image, ``(H, W)`` or ``(H, W, 3)``, as a PNG data URI."""
    from PIL import Image

    return _png_uri(Image.fromarray(np.ascontiguousarray(image)))


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG data URI."""
    buffer = io.BytesIO()
    _render(figure, buffer, "svg", 100)
    return _uri("svg+xml", buffer)


def _png_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return _uri("png", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_picture(fig: Figure, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Save a figure as .png, .svg or .pdf, by the ending of `path`, and return the path."""
    target = Path(path)
    suffix = target.suffix.lower().lstrip(".")
    allowed = ("png", "svg", "pdf")
    if suffix not in allowed:
        raise ConfigError(
            f"cannot save a picture as {target.name!r}: the name must end in .png, .svg or .pdf"
            + nearest(suffix, allowed)
        )
    buffer = io.BytesIO()
    _render(fig, buffer, suffix, dpi)
    return atomic_write(target, lambda file: file.write_bytes(buffer.getvalue()))
