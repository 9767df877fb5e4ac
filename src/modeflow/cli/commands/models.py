"""`modeflow models`."""

from __future__ import annotations

import argparse
from typing import Any

from modeflow.cli.commands._output import emit

_NVF_PAPER = "Dong et al. 2022, arXiv:2211.11638"


def run(args: argparse.Namespace) -> int:
    """List the models with paper, exactness and cost."""
    from modeflow.flows import FLOWS
    from modeflow.native import native_kernels

    rows: list[dict[str, Any]] = [
        {
            "name": "nvf",
            "recipe": "NVF",
            "paper": _NVF_PAPER,
            "event": "vector",
            "density": "exact",
            "cost": {"log_prob": "K passes (pruned: 1 to 2)", "sample": "that of its flow"},
            "note": "K states and one conditional flow, any of those below (--set flow=NAME)",
        }
    ]
    rows += [
        {
            "name": info.key,
            "recipe": info.name,
            "paper": info.paper,
            "event": info.event,
            "density": info.density,
            "cost": {"log_prob": info.cost_log_prob, "sample": info.cost_sample},
            "note": "a plain flow with --model, the likelihood of nvf with --set flow=",
        }
        for info in FLOWS.values()
    ]
    rows += _companions()
    header = ("name", "event", "density", "log_prob", "sample", "paper")
    table = [header] + [
        (r["name"], r["event"], r["density"], r["cost"]["log_prob"], r["cost"]["sample"], r["paper"])
        for r in rows
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
    kernels = native_kernels()
    lines += ["", f"native kernels: {kernels}"]
    emit(args, {"models": rows, "native_kernels": kernels}, lines)
    return 0


def _companions() -> list[dict[str, Any]]:
    """The companion systems, and NVF for images, a line for each kind of data that they take."""
    from modeflow.models import COMPANIONS

    nvf = {"recipe": "ImageNVF", "paper": _NVF_PAPER, "density": "lower bound"}
    dear = "1 pass, and the prior's"
    note = "of images, by --model; see modeflow.models.ImageModel"
    rows: list[dict[str, Any]] = [
        {"name": "nvf", **nvf, "event": "image", "cost": {"log_prob": dear, "sample": dear}, "note": note}
    ]
    for name, system in COMPANIONS.items():
        for event, settings in (("vector", system.table), ("image", system.image)):
            if settings is not None:
                rows.append(
                    {
                        "name": name,
                        "recipe": system.recipe,
                        "paper": system.paper,
                        "event": event,
                        "density": system.density,
                        "cost": {"log_prob": system.log_prob, "sample": system.sample},
                        "note": f"{system.title}, by --model; see modeflow.models.{system.recipe}",
                    }
                )
    return rows
