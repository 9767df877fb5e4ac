"""XGBoost, where it is installed."""

from __future__ import annotations

from typing import Any

from modeflow.errors import ConfigError

__all__ = ["xgboost"]


def xgboost() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed, or its library cannot be loaded.
    """
    try:
        import xgboost as module
    # Where the library within lacks another (OpenMP on macOS), xgboost raises an error of its own.
    except (ImportError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"this score needs xgboost: pip install 'modeflow[synthetic]' ({reason})"
        ) from error
    return module
