"""Checks of the contract of `Transform`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeflow.testing.tools import (
    SLACK,
    Map,
    as_double,
    build,
    check_parameter_gradients,
    contexts,
    jacobian,
    points,
    require,
    row_max,
    through_file,
    worst,
)
from modeflow.transforms.base import Transform

__all__ = ["TRANSFORM_CHECKS", "TransformCase", "check_transform"]


@dataclass(frozen=True)
class TransformCase:
    """A transform to check.

    Arguments:
        factory: builds it, without arguments; what is random in it comes from torch's global generator.
        event_shape: shape of one event, or the number of features.
        context_features: width of the context.
        structure: boolean ``(D, D)``; entry (i, j) says whether output i depends on input j. The zeros
            must hold exactly, and each promised dependence must show somewhere. None: not checked.
        context_outputs: boolean ``(D,)``: outputs that depend on every entry of the context. None: some
            output must.
        volume_preserving: the log-determinant must be zero exactly.
        result_dtype: type of the results where it is not that of the input.
        idle: parts of names of parameters that no gradient reaches, on purpose.
        compiles: promises ``torch.compile(fullgraph=True)``.
        domain, codomain: maps from the real line to where forward and inverse are defined.
        scale: of the perturbation of the parameters.
        inverse_error: absolute error allowed beside rounding, for an inverse found by iteration, and for a
            log-determinant that is right up to the error of a solver.
        noise_shape: shape of the noise, where it is not that of the data.
    """

    factory: Callable[[], Transform]
    event_shape: tuple[int, ...] | int
    context_features: int = 0
    structure: Tensor | None = None
    context_outputs: Tensor | None = None
    volume_preserving: bool = False
    result_dtype: torch.dtype | None = None
    idle: tuple[str, ...] = ()
    compiles: bool = False
    domain: Map | None = None
    codomain: Map | None = None
    scale: float = 0.2
    inverse_error: float = 0.0
    noise_shape: tuple[int, ...] | None = None

    @property
    def event(self) -> tuple[int, ...]:
        """The event shape as a tuple."""
        return (self.event_shape,) if isinstance(self.event_shape, int) else tuple(self.event_shape)

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Transform:
        """The perturbed transform, in evaluation mode."""
        return build(self.factory, dtype, self.scale, seed)

    def inputs(self, dtype: torch.dtype = torch.float64, rows: int = 8) -> tuple[Tensor, Tensor | None]:
        """Data and context to try it on."""
        return points(self.event, dtype, self.domain, rows), contexts(rows, self.context_features, dtype)

    def noise(self, dtype: torch.dtype = torch.float64, rows: int = 8) -> Tensor:
        """Noise to try the inverse on."""
        return points(self.noise_shape or self.event, dtype, self.codomain, rows, seed=17)


@dataclass(frozen=True)
class _Conditioning:
    """How far rounding errors may spread, per row, from the float64 Jacobian at x."""

    size: Tensor
    stretch: Tensor
    shrink: Tensor
    logabsdet: Tensor
    slope: Tensor
    matrix: Tensor

    def allowed_x(self, dtype: torch.dtype) -> Tensor:
        """Error of ``inverse(forward(x))``: a rounding error of u, amplified by the inverse Jacobian."""
        return SLACK * torch.finfo(dtype).eps * self.size * self.shrink * self.stretch

    def allowed_u(self, dtype: torch.dtype) -> Tensor:
        """Error of ``forward``."""
        return SLACK * torch.finfo(dtype).eps * self.size * self.stretch

    def allowed_round_u(self, dtype: torch.dtype) -> Tensor:
        """Error of ``forward(inverse(u))``."""
        return self.allowed_x(dtype) * self.stretch

    def allowed_logabsdet(self, dtype: torch.dtype, error_x: Tensor) -> Tensor:
        """Error of the log-determinant, given that of x."""
        d = self.matrix.shape[-1]
        own = SLACK * torch.finfo(dtype).eps * (d + self.logabsdet.abs())
        return own + self.slope * error_x


def _conditioning(transform: Transform, x: Tensor, context: Tensor | None) -> _Conditioning:
    exact = as_double(transform)
    x = x.detach().double().requires_grad_(True)
    context = None if context is None else context.double()
    u, logabsdet = exact(x, context)
    matrix = jacobian(u, x)
    singular = torch.linalg.svdvals(matrix)
    slope = jacobian(logabsdet, x).norm(dim=(1, 2))
    return _Conditioning(
        size=1 + row_max(x) + row_max(u),
        stretch=singular[:, 0].clamp_min(1.0),
        shrink=(1 / singular[:, -1]).clamp_min(1.0),
        logabsdet=torch.linalg.slogdet(matrix).logabsdet,
        slope=slope,
        matrix=matrix,
    )


def _shapes(case: TransformCase, name: str, x: Tensor, out: tuple[Tensor, Tensor]) -> None:
    u, logabsdet = out
    dtype = case.result_dtype or x.dtype
    rows = x.shape[0]
    event = (case.noise_shape if name.startswith("forward") else None) or case.event
    require(tuple(u.shape) == (rows, *event), f"{name} maps shape {tuple(x.shape)} to {tuple(u.shape)}")
    require(
        logabsdet.shape == (rows,),
        f"{name} returns a log-determinant of shape {tuple(logabsdet.shape)}, expected ({rows},)",
    )
    for value, what in ((u, "values"), (logabsdet, "a log-determinant")):
        require(value.dtype == dtype, f"{name} of {x.dtype} returns {what} of {value.dtype}")
        require(torch.isfinite(value).all(), f"{name} returns {what} that are not finite")


@torch.no_grad()
def check_shapes(case: TransformCase) -> None:
    """Shapes, types and finiteness; batches of one and of none; rows independent; inputs unchanged."""
    for dtype in (torch.float64, torch.float32):
        transform = case.build(dtype)
        x, context = case.inputs(dtype)
        for name, function, values in (
            ("forward", transform.forward, x),
            ("inverse", transform.inverse, case.noise(dtype)),
        ):
            before = values.clone()
            full = function(values, context)
            _shapes(case, name, values, full)
            require(torch.equal(values, before), f"{name} changes its input in place")
            for rows in (slice(0, 1), slice(0, 0)):
                part = None if context is None else context[rows]
                few = function(values[rows], part)
                _shapes(case, f"{name} of a batch of {len(values[rows])}", values[rows], few)
                for a, b in zip(few, full, strict=True):
                    error = row_max(a - b[rows]) if len(a) else a.new_zeros(1)
                    size = 1 + float(row_max(b).amax())
                    require(
                        float(error.max()) <= SLACK * torch.finfo(dtype).eps * size * 10,
                        f"{name}: a row alone gives another result than in a batch",
                    )
        if case.context_features == 0:
            u, _ = transform(x, x.new_ones(len(x), 3))
            require(
                torch.equal(u, transform(x)[0]),
                "a transform with context_features=0 must ignore the context",
            )


def check_inverse(case: TransformCase) -> None:
    """``inverse(forward(x)) = x`` and ``forward(inverse(u)) = u``, and opposite log-determinants."""
    for dtype in (torch.float64, torch.float32):
        transform = case.build(dtype)
        x, context = case.inputs(dtype)
        for rows in (len(x), 1):
            c = None if context is None else context[:rows]
            _round_trip(transform, x[:rows], c, dtype, case.inverse_error)
            _round_trip_noise(transform, case.noise(dtype)[:rows], c, dtype, case.inverse_error)


def _compare(what: str, error: Tensor, allowed: Tensor, dtype: torch.dtype) -> None:
    require((error <= allowed).all(), f"{what} ({dtype}): {worst(error, allowed)}")


def _round_trip(transform: Transform, x: Tensor, c: Tensor | None, dtype: torch.dtype, extra: float) -> None:
    with torch.no_grad():
        u, forth = transform(x, c)
        back, back_logabsdet = transform.inverse(u, c)
    at = _conditioning(transform, x, c)
    allowed = at.allowed_x(dtype) + extra
    _compare("inverse(forward(x)) is not x", row_max(back - x), allowed, dtype)
    _compare(
        "the log-determinant of the inverse is not minus that of the map",
        (forth + back_logabsdet).double().abs(),
        2 * at.allowed_logabsdet(dtype, allowed) + extra,
        dtype,
    )


def _round_trip_noise(
    transform: Transform, u: Tensor, c: Tensor | None, dtype: torch.dtype, extra: float
) -> None:
    with torch.no_grad():
        x, _ = transform.inverse(u, c)
        again, _ = transform(x, c)
    at = _conditioning(transform, x, c)
    allowed = at.allowed_round_u(dtype) + extra * at.stretch
    _compare("forward(inverse(u)) is not u", row_max(again - u), allowed, dtype)


def check_logabsdet(case: TransformCase) -> None:
    """The log-determinant is that of autograd's Jacobian, in both directions; types agree."""
    for dtype in (torch.float64, torch.float32):
        transform = case.build(dtype)
        x, context = case.inputs(dtype)
        with torch.no_grad():
            u, logabsdet = transform(x, context)
        at = _conditioning(transform, x, context)
        allowed_x = SLACK * torch.finfo(dtype).eps * at.size
        error = (logabsdet.double() - at.logabsdet).abs()
        allowed = at.allowed_logabsdet(dtype, allowed_x) + case.inverse_error
        _compare("forward: log-determinant differs from autograd's", error, allowed, dtype)
        with torch.no_grad():
            exact = as_double(transform)(x.double(), None if context is None else context.double())
        _compare("forward differs from float64", row_max(u - exact[0]), at.allowed_u(dtype), dtype)
        if case.volume_preserving:
            require((logabsdet == 0).all(), "the log-determinant is not exactly zero")

    transform = case.build()
    noise = case.noise().requires_grad_(True)
    x, logabsdet = transform.inverse(noise, context if context is None else context.double())
    matrix = jacobian(x, noise)
    singular = torch.linalg.svdvals(matrix)
    size = 1 + row_max(noise) + row_max(x)
    condition = singular[:, 0].clamp_min(1) * (1 / singular[:, -1]).clamp_min(1)
    slope = 1 + jacobian(logabsdet, noise).norm(dim=(1, 2))
    _compare(
        "inverse: log-determinant differs from autograd's",
        (logabsdet - torch.linalg.slogdet(matrix).logabsdet).abs().detach(),
        SLACK * torch.finfo(noise.dtype).eps * size * condition * slope + case.inverse_error,
        noise.dtype,
    )


def check_structure(case: TransformCase) -> None:
    """The Jacobian has exactly the promised zeros, and every promised dependence shows."""
    if case.structure is None:
        return
    x, context = case.inputs()
    x.requires_grad_(True)
    matrix = jacobian(case.build()(x, context)[0], x)
    seen = (matrix != 0).any(0)
    for i, j in torch.nonzero(seen & ~case.structure).tolist():
        raise AssertionError(f"output {i} depends on input {j}, which the structure forbids")
    for i, j in torch.nonzero(~seen & case.structure).tolist():
        raise AssertionError(f"output {i} does not depend on input {j}, though it should")


def check_context(case: TransformCase) -> None:
    """Every entry of the context changes the map (each promised output of it), in both directions."""
    if case.context_features == 0:
        return
    transform = case.build()
    for name, function, values in (
        ("forward", transform.forward, case.inputs()[0]),
        ("inverse", transform.inverse, case.noise()),
    ):
        context = contexts(len(values), case.context_features, values.dtype)
        assert context is not None
        context.requires_grad_(True)
        out, _ = function(values, context)
        seen = (jacobian(out, context).abs() > 1e-9).any(0)
        for j in torch.nonzero(~seen.any(0)).flatten().tolist():
            raise AssertionError(f"{name} ignores entry {j} of the context")
        if case.context_outputs is not None:
            for i, j in torch.nonzero(~seen & case.context_outputs[:, None]).tolist():
                raise AssertionError(f"{name}: output {i} ignores entry {j} of the context")


def check_gradients(case: TransformCase) -> None:
    """A finite gradient reaches every parameter and the input, in both directions and both types."""
    for dtype in (torch.float64, torch.float32):
        transform = case.build(dtype)
        x, context = case.inputs(dtype)
        for function, values in (
            (transform.forward, x),
            (transform.inverse, case.noise(dtype)),
        ):
            values = values.clone().requires_grad_(True)
            out, logabsdet = function(values, context)
            loss = (0.5 * out.square().flatten(1).sum(1) + (out.flatten(1).sum(1)).sin() - logabsdet).mean()
            if any(p.requires_grad for p in transform.parameters()):
                check_parameter_gradients(transform, loss, case.idle)
            else:
                loss.backward()
            require(torch.isfinite(values.grad).all(), "the gradient of the input is not finite")  # type: ignore[arg-type]


@torch.no_grad()
def check_saving(case: TransformCase) -> None:
    """The state, through a safetensors file into a newly built transform, gives the same results."""
    transform = case.build(torch.float32)
    x, context = case.inputs(torch.float32)
    fresh = through_file(transform, case.build(torch.float32, seed=1234))
    for a, b in zip(transform(x, context), fresh(x, context), strict=True):
        require(torch.equal(a, b), "a transform loaded from its state gives another result")


@torch.no_grad()
def check_compile(case: TransformCase) -> None:
    """``torch.compile(fullgraph=True)`` accepts both directions and changes nothing."""
    if not case.compiles:
        return
    transform = case.build()
    x, context = case.inputs()
    for function, values in ((transform.forward, x), (transform.inverse, case.noise())):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        for a, b in zip(compiled(values, context), function(values, context), strict=True):
            require(torch.allclose(a, b, rtol=1e-9, atol=1e-9), "compiling changes the result")


TRANSFORM_CHECKS: dict[str, Callable[[TransformCase], None]] = {
    "shapes": check_shapes,
    "inverse": check_inverse,
    "logabsdet": check_logabsdet,
    "structure": check_structure,
    "context": check_context,
    "gradients": check_gradients,
    "saving": check_saving,
    "compile": check_compile,
}


def check_transform(
    factory: Callable[[], Transform],
    event_shape: tuple[int, ...] | int,
    context_features: int = 0,
    **options: Any,
) -> None:
    """Run every check of `TRANSFORM_CHECKS` on a transform.

    Arguments:
        factory: builds the transform, without arguments.
        event_shape: shape of one event, or the number of features.
        context_features: width of the context.
        options: the other fields of `TransformCase`.

    Raises:
        AssertionError: naming the check, what is wrong and by how much.
    """
    case = TransformCase(factory, event_shape, context_features, **options)
    for name, check in TRANSFORM_CHECKS.items():
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
