"""What a page is made of: sections of words, pictures and tables, and the sections that every page has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from markupsafe import Markup

from modeflow.report import words
from modeflow.report.canvas import image_to_png, label, to_png, to_svg
from modeflow.report.curves import plot_panel_of_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Column",
    "Definition",
    "Picture",
    "Section",
    "Table",
    "definitions_section",
    "measured",
    "measures_table",
    "repeat_section",
    "training_section",
]


@dataclass(frozen=True)
class Definition:
    """A term that a section uses, and what it means."""

    term: str
    text: str | Markup


@dataclass(frozen=True)
class Picture:
    """An image of the page: a data URI, what it shows for those who do not see it, a caption.

    `kind` decides the size: ``""`` (a panel), ``"wide"``, ``"chart"``, ``"curve"``; ``"pixels"`` are not
    smoothed.
    """

    uri: str
    alt: str
    caption: str = ""
    kind: str = ""

    @classmethod
    def drawn(cls, figure: Figure, alt: str, caption: str = "", kind: str = "", dpi: int = 130) -> Picture:
        """A figure of many points, as PNG."""
        return cls(to_png(figure, dpi), alt, caption, kind)

    @classmethod
    def lines(cls, figure: Figure, alt: str, caption: str = "", kind: str = "") -> Picture:
        """A figure of few lines, as SVG."""
        return cls(to_svg(figure), alt, caption, kind)

    @classmethod
    def pixels(cls, image: np.ndarray, alt: str, caption: str = "") -> Picture:
        """An 8-bit image as it is, ``(H, W)`` or ``(H, W, 3)``."""
        return cls(image_to_png(image), alt, caption, "pixels")


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and what it says of a row (text is escaped, `Markup` is not).

    Attributes:
        number: whether it stands at the right.
        whole: the heading in full, where it was shortened.
        grouped: whether it stands under the table's `group`, after those that do not.
    """

    title: str
    cell: Callable[[Any], str | Markup]
    number: bool = False
    whole: str = ""
    grouped: bool = False

    @classmethod
    def named(cls, name: str, cell: Callable[[Any], str | Markup], grouped: bool = False) -> Column:
        """A column of numbers under a name from the data, however long."""
        return cls(label(name, 16), cell, True, name, grouped)


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column heads its row.

    Attributes:
        label: what the region is called that scrolls. caption: what the table holds, for those who do not
            see it.
        css: class of a row. stacked: whether rows become blocks on a narrow screen, for tables of few rows.
        group: heading over the columns that are `grouped`.
        summary: words under which the table can be folded away, and it is unless `open`.
    """

    label: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    css: Callable[[Any], str] = field(default=lambda row: "")
    stacked: bool = False
    group: str = ""
    summary: str = ""
    open: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page: what is given of words, pictures and a table, in this order.

    Attributes:
        id: of the section in the page, for links.
        title: its heading.
        text: paragraphs. items: of a list. legend: of the pictures. note: in small print, at the end. Text is
            escaped, `Markup` is not.
        definitions: terms that the section uses; the page explains each once, at its end.
        link: its name in the table of contents, if not the title.
        template, context: for another content, a template in ``templates/`` and what it shows.
    """

    id: str
    title: str
    text: Sequence[str] = ()
    items: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    legend: Sequence[str] = ()
    table: Table | None = None
    note: str = ""
    definitions: Sequence[Definition] = ()
    link: str = ""
    template: str = "content"
    context: Mapping[str, Any] = field(default_factory=dict)


def kind(text: str) -> Markup:
    """A word in a frame."""
    return Markup('<span class="kind">{}</span>').format(text)


def long_name(name: str, length: int = 1000) -> Markup:
    """A name from the data, shortened where it is too long and whole in a tooltip."""
    return Markup('<span class="name" title="{}">{}</span>').format(name, label(name, length))


def training_section(curves: Mapping[str, Mapping[str, list[tuple[float, float]]]], epochs: int) -> Section:
    """Learning curves, a panel each, or that there are none."""
    look = "curve" if len(curves) == 1 else "panel"
    pictures = [
        Picture.lines(
            plot_panel_of_curves(name, lines),
            f"{name} over {words.plural(epochs, 'epoch')}: {', '.join(lines)}",
            kind=look,
        )
        for name, lines in curves.items()
    ]
    none = "Too few epochs for a curve." if epochs else "No training history was recorded."
    return Section("training", "Training", text=() if pictures else (none,), pictures=pictures)


def measures_table(label: str, caption: str, measures: Sequence[Mapping[str, Any]], best: str) -> Table:
    """What was measured, beside what would be `best`.

    Arguments:
        measures: mappings of ``name``, ``value``, ``best`` and ``standard_error``, the last two if known.
            Values are numbers, or text that stays as it is.
    """
    columns = [
        Column("measure", lambda m: m["name"]),
        Column("this model", measured, True),
    ]
    if any(m.get("best") is not None for m in measures):
        said = Column(best, lambda m: "" if m.get("best") is None else words.quantity(m["best"]), True)
        columns.append(said)
    return Table(label, caption, columns, measures, stacked=True)


def measured(measure: Mapping[str, Any]) -> str:
    """The value of a measure with its standard error, as text."""
    value, error = measure["value"], measure.get("standard_error")
    if error is None or value is None or isinstance(value, str):
        return words.quantity(value)
    return words.uncertain(value, error)


def repeat_section(
    model: str, n_parameters: int | None, parameters: Mapping[str, Any], command: str
) -> Section:
    """The command and the settings that make the model again."""
    size = "" if n_parameters is None else f", {words.plural(n_parameters, 'trainable parameter')}"
    config = ""
    if parameters:
        config = str(
            yaml.safe_dump(_plain(parameters), sort_keys=False, allow_unicode=True, width=88)
        ).rstrip()
    context = {"command": command, "model": model + size, "config": config}
    return Section("repeat", "How to repeat this", template="repeat", context=context)


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


def definitions_section(sections: Iterable[Section]) -> Section:
    """What the terms of these sections mean, each once."""
    found = {d.term: d for s in sections for d in s.definitions}
    context = {"definitions": list(found.values())}
    return Section("definitions", "Definitions", template="definitions", context=context)
