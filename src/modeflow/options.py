"""Settings as objects: typed, checked where they are made, and documented in one place.

A group of settings is a dataclass that derives from `Options`. Each field has its text in the docstring of
the class, one entry a field, so that help and pages are read from there (`Options.fields_help`). An estimator
takes such an object as a parameter: scikit-learn's `clone` and ``set_params(group__field=...)`` work on it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

import numpy as np

from modeflow.errors import ConfigError, nearest

__all__ = ["Options", "check_choice", "check_positive", "check_sizes"]

#: An entry of a docstring's section: the name of a field, a colon, text.
_ENTRY = re.compile(r"    (\w+): +(.*)")


@dataclass(kw_only=True)
class Options:
    """Base of groups of settings: a dataclass whose fields are they.

    Subclasses check values in `__post_init__` (they may not change them) and describe every field in the
    section "Arguments" of their docstring, or of that of the class they have it from.
    """

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: for one that is not allowed.
        """

    # -- in the manner of scikit-learn -----------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; `deep` adds those of groups within, as ``group__name``."""
        params: dict[str, Any] = {}
        for field in fields(self):
            value = params[field.name] = getattr(self, field.name)
            if deep and isinstance(value, Options):
                params |= {f"{field.name}__{name}": v for name, v in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set settings by name, those of groups within as ``group__name``; all or, on an error, none.

        Raises:
            ConfigError: for an unknown name, or a value that is not allowed.
        """
        before = self.get_params(deep=False)
        inner: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for key, value in params.items():
            name, _, rest = key.partition("__")
            if rest:
                inner.setdefault(name, {})[rest] = value
            else:
                own[name] = value
        self._check_names([*own, *inner], type(self).__name__)
        for name, group in inner.items():
            value = own.get(name, before[name])
            if not isinstance(value, Options):
                raise ConfigError(f"{type(self).__name__}: {name} has no settings within")
            own[name] = type(value)(**value.get_params(deep=False)).set_params(**group)
        try:
            for name, value in own.items():
                setattr(self, name, value)
            self.__post_init__()
        except ConfigError:
            for name, value in before.items():
                setattr(self, name, value)
            raise
        return self

    # -- from and to plain values ----------------------------------------------------------------

    @classmethod
    def of(cls, given: Any, what: str) -> Self:
        """The settings that a user gave: None for the defaults, an object of this class, or a mapping.

        Arguments:
            given: by the user. what: the user calls it, for the message.

        Raises:
            ConfigError: for an unknown name (the nearest is named), or something else.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            cls._check_names(given, what)
            try:
                found = cls(**given)
            except (TypeError, AttributeError):  # of a check that met another kind of value
                cls._check_kinds(given, what)
                raise
            cls._check_kinds(given, what)
            return found
        received = type(given).__name__ if isinstance(given, Options) else repr(given)
        raise ConfigError(f"{what} must be {cls.__name__} or a mapping of its options, received {received}")

    @classmethod
    def _check_names(cls, names: Iterable[Any], what: str) -> None:
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                has = ", ".join(known) or "none"
                raise ConfigError(f"{what}: {name!r} is not known{nearest(name, known)} (options: {has})")

    @classmethod
    def _check_kinds(cls, given: Mapping[str, Any], what: str) -> None:
        """Refuse a text for a number, and the like, by what the fields are declared to be."""
        declared = get_type_hints(cls)
        for name, value in given.items():
            if not _is(value, declared[name]):
                kinds = _kinds(declared[name])
                raise ConfigError(f"{what}.{name} must be {kinds}, received {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for files."""
        return {name: _plain(value) for name, value in self.get_params(deep=False).items()}

    # -- help ------------------------------------------------------------------------------------

    @classmethod
    def fields_help(cls) -> list[tuple[str, Any, str]]:
        """Of every field its name, its default and its text."""
        texts: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            texts |= _entries(kind.__doc__ or "")
        return [(field.name, _default(field), texts.get(field.name, "")) for field in fields(cls)]


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _entries(docstring: str) -> dict[str, str]:
    """Text by name, of entries ``name: text`` that may go on in deeper lines."""
    texts: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if entry := _ENTRY.fullmatch(line):
            name, texts[entry[1]] = entry[1], entry[2]
        elif name and line.startswith("     "):
            texts[name] += " " + line.strip()
        else:
            name = ""
    return texts


#: Kinds of values in the words of a message.
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


def _is(value: Any, declared: Any) -> bool:
    """Whether a value is of a declared kind; of kinds that are not known here, any is."""
    origin, within = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in within)
    if declared is bool:
        return isinstance(value, bool | np.bool_)
    if declared in (int, float):
        return isinstance(value, Integral if declared is int else Real) and not isinstance(value, bool)
    if origin is tuple or origin is Sequence or origin is list:
        some = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        return some and (origin is tuple or all(_is(each, within[0]) for each in value))
    return not isinstance(declared, type) or declared not in _WORDS or isinstance(value, declared)


def _kinds(declared: Any) -> str:
    origin, within = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return " or ".join(_kinds(each) for each in within)
    if origin is tuple or origin is Sequence or origin is list:
        return "a list"
    return _WORDS.get(declared, str(getattr(declared, "__name__", declared)))


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    # Numbers of numpy: a plain one.
    return value.item() if hasattr(value, "item") and not isinstance(value, (str, bytes)) else value


# -- checks that are needed in many places ----------------------------------------------------------


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise `ConfigError`, naming the nearest, for a value that is none of those allowed."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        quoted = [f"'{n}'" for n in names]
        some = f"{', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else quoted[0]
        raise ConfigError(f"{name} must be {some}, received {value!r}{nearest(str(value), names)}")


def check_positive(name: str, value: float) -> None:
    """Raise `ConfigError` unless a number is above 0 and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be above 0 and finite, received {value!r}")


def check_sizes(**sizes: Any) -> None:
    """Raise `ConfigError` for a size that is not a positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be an integer of 1 or more, received {value!r}")
