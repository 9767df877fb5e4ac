"""Numbers of every size through every transform, both ways."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

#: Rows at once, and the largest number tried: its square must be a number, as that of a Gaussian's exponent.
_BLOCK = 4096
_LARGEST = {torch.float32: 1e18, torch.float64: 1e150}


def fuzzed(n: int, features: int, kind: torch.dtype, generator: torch.Generator) -> Tensor:
    """Rows whose cells are, by turns: usual, of any size, tiny, denormal, knots and their neighbours, zeros."""
    tiny, eps = torch.finfo(kind).tiny, torch.finfo(kind).eps
    shape = (n, features)
    usual = 3 * torch.randn(shape, generator=generator, dtype=kind)
    sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0).to(kind)
    exponent = torch.rand(shape, generator=generator, dtype=torch.float64)
    top = torch.tensor(_LARGEST[kind], dtype=torch.float64).log10()
    huge = sign * (10 ** (exponent * top)).to(kind)
    small = sign * (10 ** (-exponent * top)).to(kind)
    denormal = sign * (tiny * exponent).to(kind)
    whole = torch.randint(-6, 7, shape, generator=generator).to(kind)
    knots = whole * (1 + torch.randint(-1, 2, shape, generator=generator).to(kind) * eps)
    kinds = torch.stack([usual, usual, huge, small, denormal, knots, torch.zeros(shape, dtype=kind)])
    which = torch.randint(0, len(kinds), (1, *shape), generator=generator)
    return kinds.gather(0, which)[0]


def _one(case: Any, kind: torch.dtype, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
    layer = case.build(kind)
    n = len(x)
    x = x.view(n, *case.event)
    if case.domain is not None:
        x = case.domain(x.clamp(-12, 12))  # beyond, a sigmoid is its end
    x = x[torch.isfinite(x).flatten(1).all(1)]
    context = None
    if case.context_features:
        context = torch.randn(len(x), case.context_features, generator=generator, dtype=kind)
    u, logabsdet = layer(x, context)
    flat = u.flatten(1)
    bad = ~(torch.isfinite(flat).all(1) & torch.isfinite(logabsdet))
    found = {"inputs": len(x), "not_finite": int(bad.sum())}
    if bool(bad.any()):
        found["example"] = x[bad][0].flatten()[:6].tolist()
    if not layer.bijective:
        return found
    near = (x.flatten(1).abs() < 10).all(1) & ~bad
    if bool(near.any()):
        some = None if context is None else context[near]
        back = layer.inverse(u[near], some)[0]
        away = ((back - x[near]).abs() / (1 + x[near].abs())).flatten(1).amax(1).double()
        found["errors"] = away
    # A row of NaN, of infinities: no exception, and the rows beside it stay what they are.
    mixed = x[:8].clone()
    mixed[0], mixed[1], mixed[2] = torch.nan, torch.inf, -torch.inf
    given = None if context is None else context[:8]
    beside = layer(mixed, given)[0][3:]
    found["neighbours_changed"] = int(
        not torch.equal(beside.nan_to_num(7), layer(x[:8], given)[0][3:].nan_to_num(7))
    )
    return found


def transforms(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Every transform in both precisions; yields all results so far."""
    from constructors import TRANSFORMS

    rows: dict[str, Any] = dict(before.get("rows", {}))
    for name, case in TRANSFORMS.items():
        for label, kind in (("float32", torch.float32), ("float64", torch.float64)):
            row = dict(rows.get(f"{name} {label}", {"inputs": 0, "not_finite": 0, "neighbours_changed": 0}))
            errors = []
            features = 1
            for size in case.event:
                features *= size
            generator = torch.Generator().manual_seed(row["inputs"] + 1)
            started = row["inputs"]
            with torch.no_grad():
                while (row["inputs"] - started) * features < count:
                    x = fuzzed(min(_BLOCK, count), features, kind, generator)
                    try:
                        found = _one(case, kind, x, generator)
                    except Exception as error:  # what is looked for
                        row["exception"] = f"{type(error).__name__}: {str(error)[:200]}"
                        break
                    for key in ("inputs", "not_finite", "neighbours_changed"):
                        row[key] = row[key] + found.get(key, 0)
                    if "example" in found:
                        row["example"] = found["example"]
                    if "errors" in found:
                        errors.append(found["errors"])
                    if not found["inputs"]:
                        break
            if errors:
                spread = torch.cat(errors)
                levels = torch.quantile(
                    spread[:1_000_000], torch.tensor([0.5, 0.99, 1.0], dtype=torch.float64)
                )
                row["inverse_error"] = dict(zip(("median", "p99", "largest"), levels.tolist(), strict=True))
            row["numbers"] = row["inputs"] * features
            rows[f"{name} {label}"] = row
        yield {"rows": rows}
