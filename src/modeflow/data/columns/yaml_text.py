"""A schema as YAML: one line a column, with what was seen in the data above it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modeflow.data.columns.base import KINDS, Column
from modeflow.errors import ConfigError

__all__ = ["read_yaml", "write_yaml"]

_WIDTH = 110
_HELP = (
    "Each column with its kind and options; edit what is guessed wrong. Kinds:",
    "  real, positive(low), bounded(low..high), circular(period): a density",
    "  integer(low..high), lattice(step), datetime: probabilities of values on a lattice",
    "  categorical, boolean, ordinal(low < mid < high): probabilities of levels",
    "  constant: set aside; drop: left out; id: names the rows, say 'drop' or another kind",
    "An atom is a single value with a probability beside the density (zeros of rain).",
)


class _Dumper(yaml.SafeDumper):
    """Plain values, with all the digits that numbers have."""


def write_yaml(columns: Sequence[Column], frame: str, title: str = "") -> str:
    """The text of a schema."""
    lines = [f"# {title}"] if title else []
    lines += [f"# {line}" for line in _HELP]
    lines += ["", f"frame: {frame}", "columns:"]
    for column in columns:
        if column.about:
            lines.append(f"  # {' '.join(column.about.split())}")
        lines += [f"  {line}" for line in _entry(column)]
    return "\n".join(lines) + "\n"


def _entry(column: Column) -> list[str]:
    content = {"kind": column.kind, **column.options()}
    name = yaml.dump({column.name: 0}, Dumper=_Dumper, allow_unicode=True, width=10_000).rsplit(":", 1)[0]
    if name.startswith("? "):  # a long name; a quoted one is never split
        name = yaml.dump(
            column.name, Dumper=_Dumper, default_style='"', allow_unicode=True, width=10_000
        ).strip()
    text = yaml.dump(
        content, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
    first, *rest = text.strip().split("\n")
    return [f"{name}: {first}", *(f"  {line.strip()}" for line in rest)]


def read_yaml(text: str) -> tuple[str, dict[str, Any]]:
    """The kind of frame, and what is said of each column, in order.

    Raises:
        ConfigError: no YAML, or no schema; a column given twice.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        reason = getattr(error, "problem", None) or "no YAML"
        raise ConfigError(f"the schema cannot be read as YAML{line}: {reason}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("columns"), Mapping):
        raise ConfigError(
            "a schema file needs 'columns:' with a line for each column, such as 'wind: circular(360)' "
            f"(kinds: {', '.join(KINDS)})"
        )
    unknown = [key for key in content if key not in ("frame", "columns")]
    if unknown:
        raise ConfigError(f"a schema file has 'frame' and 'columns', not '{unknown[0]}'; is it indented?")
    said = {str(name): spec for name, spec in content["columns"].items()}
    return str(content.get("frame", "polars")), said


class _Loader(yaml.SafeLoader):
    """Refuses keys given twice; dates and times stay such."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _represent_time(dumper: yaml.SafeDumper, value: dt.datetime) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:timestamp", value.isoformat(" "))


_Dumper.add_representer(dt.datetime, _represent_time)
