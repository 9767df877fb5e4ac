"""Names of the types of columns, which every frame has its own of."""

from __future__ import annotations

import re

__all__ = ["portable"]


def portable(dtype: str) -> str:
    """One name for the types that frames call differently: "int64", "float32", "bool", "text", "category",
    "date", "datetime", "duration", "period"; "" for others."""
    lower = dtype.lower()
    if re.fullmatch(r"u?int\d+", lower):
        return lower
    if lower in ("float32", "float", "halffloat", "float16"):
        return "float32"
    if lower in ("float64", "double") or lower.startswith("decimal"):
        return "float64"
    for start, name in (
        ("bool", "bool"),
        ("datetime", "datetime"),
        ("timestamp", "datetime"),
        ("timedelta", "duration"),
        ("duration", "duration"),
        ("period[", "period"),
        ("date", "date"),
    ):
        if lower.startswith(start):
            return name
    if lower.startswith(("category", "categorical", "enum", "dictionary")):
        return "category"
    return "text" if lower.startswith(("str", "object", "large_str", "text", "<u")) else ""
