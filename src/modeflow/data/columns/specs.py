"""What a user says of a column: ``circular(360)``, ``ordinal(low < mid < high)``, or a mapping of options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modeflow.data.columns.base import KINDS, Column, kind_named
from modeflow.data.columns.numeric import Numeric
from modeflow.errors import ConfigError, nearest

__all__ = ["ALIASES", "AUTO", "parse_spec"]

#: The kind that is found out.
AUTO = "auto"
#: Other words for kinds.
ALIASES = {
    "continuous": "real",
    "count": "integer",
    "category": "categorical",
    "nominal": "categorical",
    "bool": "boolean",
    "date": "datetime",
    "skip": "drop",
}
#: The option that a first number without a name is.
_FIRST = {
    "real": ("decimals",),
    "positive": ("low",),
    "bounded": ("low", "high"),
    "circular": ("period", "origin"),
    "lattice": ("step",),
    "datetime": ("step",),
}
_SPEC = re.compile(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_RANGE = re.compile(r"(.*?)\s*\.\.\s*(.*)")
_NAMED = re.compile(r"(\w+)\s*[=: ]\s*(.+)")


def parse_spec(said: Any, column: str) -> tuple[str, dict[str, Any]]:
    """Kind and options of what was said of a column.

    Arguments:
        said: text such as ``circular(360)``, ``integer(0..)``, ``positive(atom 0)``, ``categorical(a, b)``; a
            mapping with ``kind`` and options; or a `Column`.
        column: its name, for messages.

    Raises:
        ConfigError: an unknown kind (the nearest is named) or what cannot be read.
    """
    if isinstance(said, Column):
        content = said.to_dict()
        return content.pop("kind"), {k: v for k, v in content.items() if k != "name"}
    if isinstance(said, Mapping):
        options = dict(said)
        kind, inner = parse_spec(options.pop("kind", AUTO), column)
        return kind, {**inner, **options}
    found = _SPEC.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        raise ConfigError(
            f"column '{column}': {said!r} says no kind; say one such as 'real', 'circular(360)', "
            "'ordinal(low < mid < high)', or a mapping with 'kind'"
        )
    kind = ALIASES.get(found[1].lower(), found[1].lower())
    if kind == AUTO:
        return kind, {}
    if kind not in KINDS:
        words = [*KINDS, *ALIASES]
        raise ConfigError(
            f"column '{column}': kind '{found[1]}' is not known{nearest(found[1], words)} (kinds: "
            f"{', '.join(KINDS)})"
        )
    inside = (found[2] or "").strip()
    return kind, _options(kind, inside, column) if inside else {}


def _options(kind: str, inside: str, column: str) -> dict[str, Any]:
    if kind == "ordinal":
        return {
            "levels": tuple(_scalar(p) for p in re.split(r"\s*<\s*" if "<" in inside else r"\s*,\s*", inside))
        }
    parts = [p.strip() for p in inside.split(",")]
    if kind == "categorical":
        return {"levels": tuple(_scalar(p) for p in parts)}
    if not issubclass(kind_named(kind, column), Numeric):
        raise ConfigError(f"column '{column}': '{kind}' takes nothing in brackets, received '{inside}'")
    options: dict[str, Any] = {}
    places = list(_FIRST.get(kind, ()))
    known = list(kind_named(kind, column).__dataclass_fields__)
    for part in parts:
        if ends := _RANGE.fullmatch(part):
            for key, text in (("low", ends[1]), ("high", ends[2])):
                if text:
                    options[key] = _bound(text, kind, column)
        elif part.lower() == "closed":
            options["closed"] = True
        elif part.lower() == "as levels":
            options["as_levels"] = True
        elif (named := _NAMED.fullmatch(part)) and named[1] in ("atom", "atoms"):
            options["atoms"] = (*options.get("atoms", ()), *(_number(v, column) for v in named[2].split()))
        elif named and named[1] in known:
            options[named[1]] = _bound(named[2], kind, column)
        elif places:
            options[places.pop(0)] = _bound(part, kind, column)
        else:
            raise ConfigError(
                f"column '{column}': '{part}' in '{kind}({inside})' cannot be read; name the option, such as "
                "'step 5', '0..10' or 'atom 0'"
            )
    if isinstance(options.get("decimals"), float):
        options["decimals"] = int(options["decimals"])
    return options


def _bound(text: str, kind: str, column: str) -> Any:
    return text if kind == "datetime" and not re.fullmatch(r"[\d.]+", text) else _number(text, column)


def _number(text: str, column: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"column '{column}': '{text}' is no number") from error


def _scalar(text: str) -> Any:
    """A level: a number if it is written as one, text else; quotes make it text."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", text):
        return float(text)
    return text
