"""The domains there are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from modeflow.data.parts import Part, can_be_cut, files_of, is_large, parts_of, reading_part
from modeflow.domains.base import Domain
from modeflow.domains.image import ImageDomain
from modeflow.domains.mixed import MixedDomain
from modeflow.domains.table import TableDomain
from modeflow.errors import DataError

__all__ = ["DOMAINS", "domain_of"]

#: By name. What no other accepts is a table.
DOMAINS: dict[str, type[Domain]] = {kind.name: kind for kind in (TableDomain, ImageDomain, MixedDomain)}

#: Files that are looked at, where there are many.
_LOOKED_AT = 64


def domain_of(
    source: str | os.PathLike[str] | None, settings: Mapping[str, Any] | None = None
) -> type[Domain]:
    """The domain of what DATA names, by the settings that say how it is read.

    Of many files it is that of the first, or another that one of 64 of them has at its beginning; of a large
    one that is read in parts, another that one of its parts has.
    """
    said = settings or {}
    if files := files_of(source):
        every = -(-len(files) // _LOOKED_AT)
        return _of_parts(_beginnings(files[::every]), said)
    asked = said.get("stream")
    if source is not None and asked is not False and can_be_cut(source) and (asked or is_large(source)):
        return _of_parts(parts_of(source), said)
    return _domain_of(source, said)


def _domain_of(source: Any, settings: Mapping[str, Any]) -> type[Domain]:
    others = [kind for kind in DOMAINS.values() if kind is not TableDomain]
    return next((kind for kind in others if kind.accepts(source, settings)), TableDomain)


def _of_parts(parts: Iterable[Part], settings: Mapping[str, Any]) -> type[Domain]:
    """The first domain other than that of plain tables that one of the parts has."""
    for part in parts:
        with reading_part(part):
            found = _domain_of(part.file, settings)
        if found is not TableDomain:
            return found
    return TableDomain


def _beginnings(files: Sequence[Path]) -> Iterator[Part]:
    """The first part of every file that can be read."""
    for file in files:
        with suppress(DataError):
            yield next(parts_of(file))
