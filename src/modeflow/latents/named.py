"""Objectives by name, each a class whose arguments are its options: nothing that is asked for is dropped."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from modeflow.errors import ConfigError, nearest

__all__ = ["build_named", "check_named", "option_names"]

M = TypeVar("M", bound=nn.Module)


def option_names(kind: type[nn.Module]) -> tuple[str, ...]:
    """The options that an objective takes, by its class."""
    return tuple(name for name in inspect.signature(kind.__init__).parameters if name != "self")


def _named(kinds: Mapping[str, type[M]], name: str) -> type[M]:
    if name not in kinds:
        raise ConfigError(
            f"objective {name!r} is not known{nearest(str(name), kinds)} (one of {', '.join(kinds)})"
        )
    return kinds[name]


def check_named(kinds: Mapping[str, type[M]], name: str, options: Iterable[str]) -> None:
    """Refuse options that an objective has no use for.

    Arguments:
        kinds: objectives by name. name: of one of them. options: names.

    Raises:
        ConfigError: naming the option, and those that there are; or if the objective is unknown.
    """
    known = option_names(_named(kinds, name))
    every = sorted({option for kind in kinds.values() for option in option_names(kind)})
    for option in options:
        if option not in known:
            hint = "" if option in every else nearest(option, every)
            has = ", ".join(known) or "none"
            raise ConfigError(f"objective '{name}' has no use for {option!r}{hint} (its options: {has})")


def build_named(kinds: Mapping[str, type[M]], name: str, options: Mapping[str, Any]) -> M:
    """Build an objective by name with options of its own.

    Raises:
        ConfigError: if the name is unknown, naming the nearest; or for an option that it has no use for.
    """
    check_named(kinds, name, options)
    return _named(kinds, name)(**options)
