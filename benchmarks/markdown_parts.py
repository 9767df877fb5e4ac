"""Pieces of the documents that are written from results."""

from __future__ import annotations

from typing import Any


def number(value: float, digits: int) -> str:
    """With a minus sign instead of a hyphen."""
    return f"{value:.{digits}f}".replace("-", "−")


def mean_se(entry: dict[str, float], digits: int = 4, scale: float = 1.0) -> str:
    """A mean and its standard error."""
    return f"{number(scale * entry['mean'], digits)} ± {scale * entry['standard_error']:.{digits}f}"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def place(content: dict[str, Any]) -> str:
    """When, where and with what a result was measured."""
    m = content["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    return f"*Measured {content['date']} on {m['processor']}, {m['cores']} cores; {versions}.*"


def between(text: str, lines: list[str], name: str = "measured") -> str:
    """`text` with what lies between the marks of that name replaced."""
    marks = (f"<!-- {name}:start -->", f"<!-- {name}:end -->")
    start, end = (text.index(mark) for mark in marks)
    return text[: start + len(marks[0])] + "\n".join(["", *lines, ""]) + text[end:]
