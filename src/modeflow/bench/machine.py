"""Where and when a number was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from modeflow._version import __version__

__all__ = ["machine", "today"]


def machine() -> dict[str, Any]:
    """Processor, cores and versions, so that a number can be placed."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    versions = {"modeflow": __version__, "python": platform.python_version()}
    for name in (
        "torch",
        "numpy",
        "scikit-learn",
        "zuko",
        "nflows",
        "normflows",
        "flowjax",
        "jax",
        "libcirkit",
    ):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system(), "versions": versions}


def today() -> str:
    """The date, UTC."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()
