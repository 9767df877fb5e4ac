"""The settings of a fit as text, read from the parameters of the estimators and their groups."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from modeflow.domains import DOMAINS
from modeflow.estimators.images import ImageTraining
from modeflow.models import IMAGE_LATENTS, LATENTS, DecoderOptions, LikelihoodOptions
from modeflow.options import Options
from modeflow.runs.config import MODELS, _Model, several
from modeflow.training import Training

__all__ = ["settings_help"]

_WIDTH = 100


def settings_help() -> str:
    """Of every domain the parameters with their defaults, then the groups, field by field."""
    parts = ["settings (--set KEY=VALUE, or YAML), with their defaults"]
    for name, domain in DOMAINS.items():
        model = _Model.of(next(iter(MODELS[name])), name)
        top = {k: v for k, v in model.defaults.items() if not k.endswith("_options") and k != "training"}
        words = " ".join(f"{key}={_text(value)}" for key, value in {**domain.defaults, **top}.items())
        parts.append(f"{several(name)}:\n{_wrapped(words, 2, 2)}")
    parts.append(_group("training", Training))
    changed = {n: d for n, d, _ in ImageTraining.fields_help()}
    others = [f"{n}={_text(changed[n])}" for n, d, _ in Training.fields_help() if changed[n] != d]
    parts[-1] += f"\n  (of images: {' '.join(others)})"
    latents: dict[str, Mapping[str, type[Options]]] = {"tables": LATENTS, "images": IMAGE_LATENTS}
    for rows, kinds in latents.items():
        for latent, kind in kinds.items():
            if kind.fields_help():
                parts.append(_group("latent_options", kind, f" ({rows}, latent={latent})"))
    parts.append(_group("likelihood_options", DecoderOptions, " (tables)"))
    parts.append(_group("likelihood_options", LikelihoodOptions, " (images)"))
    return "\n\n".join(parts) + "\n"


def _group(name: str, kind: type[Options], where: str = "") -> str:
    lines = [f"{name}{where}:"]
    for field, default, text in kind.fields_help():
        lines.append(f"  {name}.{field}={_text(default)}\n{_wrapped(text.replace('`', ''), 6, 6)}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    """As YAML has it, in one piece."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


def _wrapped(text: str, first: int, others: int) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=" " * first, subsequent_indent=" " * others)
