"""`modeflow models`."""

from __future__ import annotations

import argparse
from typing import Any

from modeflow.cli.commands._output import emit

_NVF_PAPER = "Dong et al. 2022, arXiv:2211.11638"

_IMAGES = (
    ("nvf", "ImageNVF", "lower bound", "1 pass, and the prior's", _NVF_PAPER),
    ("vae", "ImageVAE", "lower bound", "16 passes", "Kingma and Welling 2013, arXiv:1312.6114"),
    ("discrete-vae", "ImageVAE", "exact", "K passes", "Jang et al. 2017, arXiv:1611.01144"),
    (
        "vq-vae",
        "ImageVAE",
        "lower bound",
        "1 pass, and the prior's",
        "van den Oord et al. 2017, arXiv:1711.00937",
    ),
)


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
    rows += [
        {
            "name": name,
            "recipe": recipe,
            "paper": paper,
            "event": "image",
            "density": density,
            "cost": {"log_prob": cost, "sample": "1 pass"},
            "note": "of images, by --model; see modeflow.models.ImageModel",
        }
        for name, recipe, density, cost, paper in _IMAGES
    ]
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
