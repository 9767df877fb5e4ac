"""JSON that every program reads."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["json_text"]


def json_text(value: Any, **how: Any) -> str:
    """JSON of plain values, made as `json.dumps` makes it; numbers that are not finite, which JSON does not
    have, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **how)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **how)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
