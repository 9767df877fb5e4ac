"""Formulas of docstrings for the API pages: ``.. math::`` and ``:math:`` as the renderer reads them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_BLOCK = re.compile(r"^( *)\.\. math::[ \t]*(.*(?:\n(?:\1 +\S.*))*)", re.MULTILINE)


def converted(text: str) -> str:
    """The docstring with its formulas between dollar signs."""

    def block(found: re.Match[str]) -> str:
        indent, body = found.group(1), " ".join(found.group(2).split())
        return f"{indent}$$\n{indent}{body}\n{indent}$$"

    return re.sub(r":math:`([^`]*)`", r"$\1$", _BLOCK.sub(block, text))


class Formulas(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object of the package."""
        if obj.docstring is not None:
            obj.docstring.value = converted(obj.docstring.value)
