"""Numbers and sentences: what a report may claim, and how it says it.

A difference is called better or worse only where it exceeds two standard errors and where the kinds of
the two numbers allow it: a lower bound that lies below a rival has not shown that its model is worse. Bounds
that come from offsets which both share, row by row, say nothing about the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from modeflow.report.contents import LikelihoodRow
from modeflow.transforms.base import Exactness

__all__ = [
    "Comparison",
    "compare",
    "duration",
    "in_column",
    "integer",
    "join",
    "log_density",
    "plural",
    "quantity",
    "share",
    "uncertain",
]

Verdict = Literal["better", "worse", "not distinguishable", "not decided", "not compared"]


def integer(value: int | None) -> str:
    """Return ``12,345``, or a dash for None."""
    return "–" if value is None else f"{int(value):,}"


def plural(count: int, word: str) -> str:
    """Return ``1 row`` or ``12,345 rows``."""
    return f"{integer(count)} {word}" + ("" if count == 1 else "s")


def quantity(value: object, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, or a dash for what is missing."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    x = float(value)  # type: ignore[arg-type]
    if not math.isfinite(x):
        return "–" if math.isnan(x) else ("−∞" if x < 0 else "∞")
    if x == 0:
        return "0"
    size = abs(x)
    if size >= 10.0 ** (digits + 3) or size < 1e-4:
        mantissa, exponent = f"{x:.{digits - 2}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    elif size >= 10.0**digits or x == int(x):
        text = f"{x:,.0f}"
    else:
        text = f"{x:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def in_column(value: object, sd: float | None, kind: str = "continuous") -> str:
    """Return a value of a column to about a hundredth of the column's standard deviation `sd`."""
    if isinstance(value, str) or value is None or sd is None or not math.isfinite(sd) or sd <= 0:
        return quantity(value)
    x = float(value)  # type: ignore[arg-type]
    places = 0 if kind == "integer" and x == round(x) else max(0, 2 - math.floor(math.log10(sd)))
    if not math.isfinite(x) or places > 6 or abs(x) >= 1e9:
        return quantity(x)
    text = f"{x:,.{places}f}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def log_density(value: float | None) -> str:
    """Return a log-density with two decimals."""
    return quantity(value) if value is None or not math.isfinite(value) else f"{value:,.2f}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a fraction in per cent, or a dash for None."""
    return "–" if value is None or not math.isfinite(value) else f"{quantity(100 * value, 3)} %"


def duration(seconds: float) -> str:
    """Return ``2 h 5 min``, ``3 min 12 s`` or ``4.1 s``."""
    if seconds < 60:
        return f"{quantity(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _decimals(error: float | None) -> int:
    if error is None or not math.isfinite(error) or error <= 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(error))))


def uncertain(value: float, error: float | None, sign: bool = False) -> str:
    """Return ``−1.234 ± 0.012``: two digits of the standard error decide those of the value."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("−∞" if value < 0 else "+∞")
    places = _decimals(error)
    text = f"{value:{'+' if sign else ''},.{places}f}".replace("-", "−")
    if error is None or not math.isfinite(error):
        return text
    return f"{text} ± {error:,.{places}f}"


@dataclass
class Comparison:
    """The fitted model beside another row: ``difference`` is model − other, nats per row."""

    other: LikelihoodRow
    difference: float | None
    standard_error: float | None
    paired: bool
    verdict: Verdict
    words: str

    @property
    def cell(self) -> str:
        """The difference as it stands in the table."""
        if self.difference is None:
            return "–"
        return uncertain(self.difference, self.standard_error, sign=True)


def _difference(model: LikelihoodRow, other: LikelihoodRow) -> tuple[float, float | None, bool]:
    if other.difference is not None:
        return other.difference, other.difference_standard_error, True
    difference = model.value - other.value
    errors = [model.standard_error, other.standard_error]
    if other.role == "known" and errors[1] is None:
        errors[1] = 0.0
    if any(e is None or not math.isfinite(e) for e in errors):
        return difference, None, False
    return difference, math.hypot(*[float(e or 0.0) for e in errors]), False


def _kinds(model: LikelihoodRow, other: LikelihoodRow, paired: bool) -> tuple[Exactness, Exactness]:
    """What the two numbers are beside each other: in pairs, apart from the offsets that they share."""
    if paired and model.own_kind is not None and other.own_kind is not None:
        return model.own_kind, other.own_kind
    return model.kind, other.kind


def compare(model: LikelihoodRow, other: LikelihoodRow) -> Comparison:
    """Return what may be said of `model` beside `other`."""
    known = other.role == "known"
    name = "the best possible value" if known else other.name
    if not known and None not in (model.n, other.n) and model.n != other.n:
        words = f"not compared with {name}, which was scored on other rows ({integer(other.n)})"
        return Comparison(other, None, None, False, "not compared", words)
    difference, error, paired = _difference(model, other)

    def done(verdict: Verdict, words: str) -> Comparison:
        return Comparison(other, difference, error, paired, verdict, words)

    if not math.isfinite(difference):
        return done("not compared", f"not compared with {name} (a value is not finite)")
    size = uncertain(abs(difference), error)
    side = "above" if difference > 0 else "below"
    if error is None or not math.isfinite(error):
        return done("not decided", f"{size} {side} {name} (no standard error, so not tested)")
    if abs(difference) <= 2 * error:
        gap = uncertain(difference, error, sign=True)
        return done("not distinguishable", f"not distinguishable from {name} ({gap})")
    kinds = _kinds(model, other, paired)
    # The higher number must not be an upper hand by a bound.
    if kinds[1 if difference > 0 else 0] == "lower bound":
        whose = f"the lower bound of {name}" if difference > 0 else name
        return done("not decided", f"{size} {side} {whose} (a bound, so which is better is open)")
    verdict: Verdict = "better" if difference > 0 else "worse"
    tail = " (by an estimate)" if "estimate" in kinds else ""
    if "lower bound" in (model.kind, other.kind) and "lower bound" not in kinds:
        tail = " (both dequantised alike)"
    if known:
        return done(verdict, f"{size} {side} {name}, {uncertain(other.value, None)}{tail}")
    return done(verdict, f"{size} {verdict} than {name}{tail}")


def join(phrases: list[str]) -> str:
    """Return ``a; b; and c.``"""
    if len(phrases) < 2:
        return "".join(f"{p}." for p in phrases)
    return "; ".join(phrases[:-1]) + f"; and {phrases[-1]}."
