"""The domains there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modeflow.data.parts import files_of, parts_of, reading_part
from modeflow.domains.base import Domain
from modeflow.domains.image import ImageDomain
from modeflow.domains.mixed import MixedDomain
from modeflow.domains.table import TableDomain

__all__ = ["DOMAINS", "domain_of"]

#: By name. What no other accepts is a table.
DOMAINS: dict[str, type[Domain]] = {kind.name: kind for kind in (TableDomain, ImageDomain, MixedDomain)}


def domain_of(
    source: str | os.PathLike[str] | None, settings: Mapping[str, Any] | None = None
) -> type[Domain]:
    """The domain of what DATA names, by the settings that say how it is read; of many files, of the first."""
    if files := files_of(source):
        with reading_part(next(parts_of(files[0]))):
            return domain_of(files[0], settings)
    others = [kind for kind in DOMAINS.values() if kind is not TableDomain]
    return next((kind for kind in others if kind.accepts(source, settings or {})), TableDomain)
