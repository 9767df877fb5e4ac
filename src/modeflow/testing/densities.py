"""Checks of the contract of `Density`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.errors import ShapeError
from modeflow.testing.bounds import check_bound
from modeflow.testing.quadrature import box_around, check_blocks, check_counts, check_entropy, midpoints
from modeflow.testing.temperature import check_temperature
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
    seeded,
    through_file,
    worst,
)

__all__ = ["DENSITY_CHECKS", "DensityCase", "check_density"]


@dataclass(frozen=True)
class DensityCase:
    """A density to check.

    Arguments:
        factory: builds it, without arguments; what is random in it comes from torch's global generator.
        event_shape: shape of one event, or the number of features.
        context_features: width of the context.
        contexts: rows ``(N, C)`` at each of which the density is integrated and sampled; random if None.
        result_dtype: type of the samples where it is not that of the model.
        idle: parts of names of parameters that no gradient of the objective reaches, on purpose.
        compiles: promises ``torch.compile(fullgraph=True)`` of `log_prob`.
        domain: map from the real line to the support.
        scale: of the perturbation of the parameters.
        cells: points per axis of the integration grid of a two-dimensional density.
        levels: where some features are codes, levels of each, 0 of one that is a real (one at the most): all
            cells are then summed over, and the real is integrated out.
    """

    factory: Callable[[], Density]
    event_shape: tuple[int, ...] | int
    context_features: int = 0
    contexts: Tensor | None = None
    result_dtype: torch.dtype | None = None
    idle: tuple[str, ...] = ()
    compiles: bool = False
    domain: Map | None = None
    scale: float = 0.2
    cells: int = 240
    levels: tuple[int, ...] = ()

    @property
    def event(self) -> tuple[int, ...]:
        """The event shape as a tuple."""
        return (self.event_shape,) if isinstance(self.event_shape, int) else tuple(self.event_shape)

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Density:
        """The perturbed density, in evaluation mode."""
        return build(self.factory, dtype, self.scale, seed)

    def inputs(self, dtype: torch.dtype = torch.float64, rows: int = 8) -> tuple[Tensor, Tensor | None]:
        """Events and context to try it on."""
        x = points(self.event, dtype, self.domain, rows)
        for j, levels in enumerate(self.levels):
            if levels:
                x[:, j] = torch.remainder((3 * x[:, j]).round(), levels)
        return x, self.some_contexts(rows, dtype)

    def some_contexts(self, rows: int, dtype: torch.dtype) -> Tensor | None:
        """Contexts ``(rows, C)``: the given ones in turn, or random."""
        if self.context_features == 0 or self.contexts is None:
            return contexts(rows, self.context_features, dtype)
        return self.contexts[torch.arange(rows) % len(self.contexts)].to(dtype)

    def each_context(self, dtype: torch.dtype) -> list[Tensor | None]:
        """Contexts at which the whole density is examined."""
        if self.context_features == 0:
            return [None]
        rows = 2 if self.contexts is None else len(self.contexts)
        return list(self.some_contexts(rows, dtype))  # type: ignore[arg-type]


@torch.no_grad()
def check_shapes(case: DensityCase) -> None:
    """Shapes, types and finiteness of `log_prob`; batches of one and of none; rows independent."""
    for dtype in (torch.float64, torch.float32):
        density = case.build(dtype)
        require(
            density.event_shape == case.event,
            f"event_shape is {density.event_shape}, expected {case.event}",
        )
        require(
            density.context_features == case.context_features,
            f"context_features is {density.context_features}, expected {case.context_features}",
        )
        x, context = case.inputs(dtype)
        full = density.log_prob(x, context)
        for rows in (len(x), 1, 0):
            part = None if context is None else context[:rows]
            log_prob = density.log_prob(x[:rows], part)
            require(
                log_prob.shape == (rows,),
                f"log_prob of {rows} rows has shape {tuple(log_prob.shape)}, expected ({rows},)",
            )
            require(log_prob.dtype == dtype, f"log_prob of {dtype} returns {log_prob.dtype}")
            require(torch.isfinite(log_prob).all(), f"log_prob ({dtype}) is not finite")
            require(
                torch.allclose(log_prob, full[:rows], rtol=1e-4, atol=1e-4),
                "a row alone has another log_prob than in a batch",
            )
        if context is not None:
            shared = density.log_prob(x, context[0])
            again = density.log_prob(x, context[:1].expand(len(x), -1))
            require(torch.equal(shared, again), "a shared context (C,) differs from its repetition")


@torch.no_grad()
def check_sample_shapes(case: DensityCase) -> None:
    """Shapes of samples; they depend on the generator alone; none can be drawn."""
    density = case.build(torch.float32)
    dtype = case.result_dtype or torch.float32
    context = case.some_contexts(3, torch.float32)
    calls: list[tuple[int, Tensor | None, tuple[int, ...]]] = [
        (5, None, (5,)),
        (1, None, (1,)),
        (0, None, (0,)),
    ]
    if context is not None:
        calls = [(n, context, (n, 3)) for n in (5, 1, 0)]
        calls += [(n, context[0], (n,)) for n in (5, 1, 0)] + [(4, context[:1], (4, 1))]
    for n, rows, lead in calls:
        given = "no context" if rows is None else f"a context of shape {tuple(rows.shape)}"
        x = density.sample(n, rows)
        require(
            tuple(x.shape) == (*lead, *case.event),
            f"sample({n}) with {given} has shape {tuple(x.shape)}, expected {(*lead, *case.event)}",
        )
        require(x.dtype == dtype, f"sample returns {x.dtype}, expected {dtype}")
        require(torch.isfinite(x).all(), "a sample is not finite")

    def draw(seed: int) -> Tensor:
        return density.sample(6, context, generator=torch.Generator().manual_seed(seed))

    require(torch.equal(draw(1), draw(1)), "the same generator gives two different samples")
    require(not torch.equal(draw(1), draw(2)), "the generator is ignored")
    if context is not None:
        # Row j of the context must act on column j of the samples: compare with each row alone.
        for j in range(len(context)):
            alone = density.sample(3000, context[j], torch.Generator().manual_seed(3))
            mean = density.sample(3000, context, torch.Generator().manual_seed(3))[:, j].mean(0)
            spread = alone.std(0) * math.sqrt(2 / 3000)
            require(
                ((mean - alone.mean(0)).abs() < 6 * spread).all(),
                f"samples with row {j} of a context differ from those with that row alone",
            )


def check_precision(case: DensityCase) -> None:
    """float32 agrees with float64, up to rounding of the input and of the result."""
    density = case.build(torch.float32)
    x, context = case.inputs(torch.float32)
    with torch.no_grad():
        single = density.log_prob(x, context).double()
    wide = x.double().requires_grad_(True)
    exact = as_double(density).log_prob(wide, None if context is None else context.double())
    slope = jacobian(exact, wide).norm(dim=(1, 2))
    size = 1 + exact.detach().abs() + (1 + row_max(x)) * slope
    error = (single - exact.detach()).abs()
    allowed = SLACK * torch.finfo(torch.float32).eps * size
    require((error <= allowed).all(), f"float32 log_prob differs from float64: {worst(error, allowed)}")


def check_context(case: DensityCase) -> None:
    """Every entry of the context changes the density."""
    if case.context_features == 0:
        return
    density = case.build()
    x, context = case.inputs()
    assert context is not None
    context = context.clone().requires_grad_(True)
    seen = (jacobian(density.log_prob(x, context), context).abs() > 1e-9).any(0)[0]
    for j in torch.nonzero(~seen).flatten().tolist():
        raise AssertionError(f"log_prob ignores entry {j} of the context")


@torch.no_grad()
def check_errors(case: DensityCase) -> None:
    """A wrong shape, or a context missing or unexpected, raises `ShapeError`."""
    density = case.build(torch.float32)
    x, context = case.inputs(torch.float32)
    wide = torch.cat((x, x), dim=-1)
    calls: dict[str, Callable[[], Any]] = {
        "an event of the wrong shape": lambda: density.log_prob(wide, context),
        "an event without a batch": lambda: density.log_prob(x[0], context),
        "a negative number of samples": lambda: density.sample(-1, context),
    }
    if context is None:
        calls["an unexpected context"] = lambda: density.log_prob(x, x.new_ones(len(x), 2))
        calls["an unexpected context, sampling"] = lambda: density.sample(2, x.new_ones(2, 2))
    else:
        narrow = torch.cat((context, context), dim=-1)
        calls["a missing context"] = lambda: density.log_prob(x)
        calls["a missing context, sampling"] = lambda: density.sample(2)
        calls["a context of the wrong width"] = lambda: density.log_prob(x, narrow)
        calls["a context of the wrong width, sampling"] = lambda: density.sample(2, narrow)
        calls["a context of the wrong length"] = lambda: density.log_prob(x, context[1:])
    for what, call in calls.items():
        try:
            call()
        except ShapeError:
            continue
        except Exception as error:
            raise AssertionError(f"{what} raises {type(error).__name__}, not ShapeError") from error
        raise AssertionError(f"{what} is accepted silently")


@torch.no_grad()
def check_mass(case: DensityCase) -> None:
    """The density integrates to one at every context, and samples follow it.

    One and two dimensions: a grid; the counts of 4,000 samples in blocks of it (χ²) and their mean
    log-density (the entropy). More: ``E_p[g(x) / p(x)] = 1`` for narrower Gaussians g. Codes: the sum over
    all cells, and the same tests of samples. A lower bound: see `modeflow.testing.bounds`. Each of these
    tests fails by chance less than once in a hundred thousand runs; the seeds are fixed.
    """
    density = case.build()
    for i, context in enumerate(case.each_context(torch.float64)):
        generator = torch.Generator().manual_seed(100 + i)
        if density.exactness == "lower bound":
            samples = density.sample(16_000, context, generator).double()
            check_bound(density, context, samples)
        elif case.levels:
            _sum(case, density, context, density.sample(8000, context, generator).double())
        elif len(case.event) == 1 and case.event[0] <= 2:
            samples = density.sample(4000, context, generator).double()
            _integrate(case, density, context, samples)
        else:
            samples = density.sample(16_000, context, generator).double()
            _importance(density, context, samples)


def _integrate(case: DensityCase, density: Density, context: Tensor | None, samples: Tensor) -> None:
    features = case.event[0]
    cells = case.cells if features == 2 else 4000
    low, high = box_around(samples)
    grid, volume = midpoints(low, high, cells)
    log_prob = torch.cat([density.log_prob(part, context) for part in grid.split(30_000)])
    mass = log_prob.exp() * volume
    total = float(mass.sum())
    where = "" if context is None else f" at context {[round(v, 3) for v in context.tolist()]}"
    require(abs(total - 1) < 1e-3, f"the density integrates to {total:.6f}, not 1{where}")
    check_counts(samples, mass, low, high, cells, where)
    check_entropy(density.log_prob(samples, context), log_prob, mass, where)


def _sum(case: DensityCase, density: Density, context: Tensor | None, samples: Tensor) -> None:
    """Over all cells of the codes, and over a grid of the real where there is one."""
    where = "" if context is None else f" at context {[round(v, 3) for v in context.tolist()]}"
    real = [j for j, levels in enumerate(case.levels) if not levels]
    blocks, fine, volume = 1, 1, 1.0
    axes = [torch.arange(levels).double() for levels in case.levels]
    if real:
        low, high = box_around(samples[:, real])
        blocks, fine = 20, 100
        grid, volume = midpoints(low, high, blocks * fine)
        axes[real[0]] = grid[:, 0]
    rows = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    log_prob = torch.cat([density.log_prob(part, context) for part in rows.split(30_000)])
    mass = log_prob.exp() * volume
    total = float(mass.sum())
    allowed = 1e-3 if real else 1e-10
    require(abs(total - 1) < allowed, f"the probabilities sum to {total:.12g}, not 1{where}")

    def place(x: Tensor) -> Tensor:
        found = torch.zeros(len(x), dtype=torch.long)
        for j, levels in enumerate(case.levels):
            if levels:
                found = levels * found + x[:, j].long()
            else:
                share = (x[:, j] - low) / (high - low)
                found = blocks * found + (share * blocks).long().clamp(0, blocks - 1)
        return found

    size = math.prod(levels or blocks for levels in case.levels)
    expected = mass.new_zeros(size).index_add(0, place(rows), mass) * len(samples)
    check_blocks(torch.bincount(place(samples), minlength=size).double(), expected, where)
    check_entropy(density.log_prob(samples, context), log_prob, mass, where)


def _importance(density: Density, context: Tensor | None, samples: Tensor) -> None:
    # The first samples place the Gaussians: in the middle and to either side along the first axes.
    pilot, rest = samples[:4000].flatten(1), samples[4000:]
    log_prob = density.log_prob(rest, context)
    covariance = 0.5 * torch.cov(pilot.mT) + 1e-9 * torch.eye(pilot.shape[1], dtype=pilot.dtype)
    mean, spread = pilot.mean(0), pilot.std(0)
    sides = torch.diag(0.8 * spread)[:4]
    strong = 0
    for wanted in (mean, *(mean + sides), *(mean - sides)):
        centre = pilot[int(((pilot - wanted) / spread).square().sum(1).argmin())]
        narrow = torch.distributions.MultivariateNormal(centre, covariance)
        ratio = (narrow.log_prob(rest.flatten(1)) - log_prob).exp()
        error = float(ratio.std()) / math.sqrt(len(rest))
        value = float(ratio.mean())
        require(
            abs(value - 1) < 5 * error,
            f"samples do not follow the density: E[g/p] is {value:.4f} ± {error:.4f}, expected 1",
        )
        strong += error < 0.05
    require(strong >= 2, "the test of samples is too weak for a density as twisted: lower `scale`")


def check_reparametrised(case: DensityCase) -> None:
    """`rsample_and_log_prob`, where implemented: the log-density is that of the samples."""
    density = case.build()
    context = case.some_contexts(6, torch.float64)
    try:
        with seeded(5):
            x, log_prob = density.rsample_and_log_prob(6, context)
    except NotImplementedError:
        return
    require(
        tuple(x.shape) == (6, *case.event) and log_prob.shape == (6,),
        f"rsample_and_log_prob has shapes {tuple(x.shape)} and {tuple(log_prob.shape)}",
    )
    expected = density.log_prob(x.detach(), context)
    error = float((log_prob - expected).detach().abs().max())
    require(error < 1e-8, f"rsample_and_log_prob: its log_prob is {error:.2g} off that of its samples")


def check_distribution(case: DensityCase) -> None:
    """`to_distribution` is a `torch.distributions.Distribution` with the same density."""
    density = case.build()
    x, context = case.inputs()
    distribution = density.to_distribution(context)
    batch = () if context is None else (len(x),)
    require(
        tuple(distribution.batch_shape) == batch and tuple(distribution.event_shape) == case.event,
        f"to_distribution has shapes {distribution.batch_shape}, {distribution.event_shape}",
    )
    require(
        torch.equal(distribution.log_prob(x), density.log_prob(x, context)),
        "to_distribution has another log_prob",
    )
    shape = tuple(distribution.sample(torch.Size((2, 3))).shape)
    require(shape == (2, 3, *batch, *case.event), f"to_distribution samples have shape {shape}")


def check_gradients(case: DensityCase) -> None:
    """A finite gradient of the loss reaches every parameter (in training mode, seeded)."""
    for dtype in (torch.float64, torch.float32):
        density = case.build(dtype)
        if not any(p.requires_grad for p in density.parameters()):
            return
        density.train()
        x, context = case.inputs(dtype, rows=64)
        with seeded(7):
            if context is None:
                loss = density.objective(x).value
            else:
                loss = -density.log_prob(x, context).mean()
        require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}, expected a scalar")
        require(torch.isfinite(loss), f"the loss ({dtype}) is not finite")
        check_parameter_gradients(density, loss, case.idle)


@torch.no_grad()
def check_saving(case: DensityCase) -> None:
    """The state, through a safetensors file into a newly built density, gives the same `log_prob`."""
    density = case.build(torch.float32)
    x, context = case.inputs(torch.float32)
    fresh = through_file(density, case.build(torch.float32, seed=1234))
    require(
        torch.equal(density.log_prob(x, context), fresh.log_prob(x, context)),
        "a density loaded from its state gives another log_prob",
    )


@torch.no_grad()
def check_compile(case: DensityCase) -> None:
    """``torch.compile(fullgraph=True)`` accepts `log_prob` and changes nothing."""
    if not case.compiles:
        return
    density = case.build()
    x, context = case.inputs()
    torch.compiler.reset()
    compiled = torch.compile(density.log_prob, fullgraph=True, backend="eager")
    difference = (compiled(x, context) - density.log_prob(x, context)).abs().max()
    require(difference < 1e-9, f"compiling changes log_prob by {float(difference):.2g}")


DENSITY_CHECKS: dict[str, Callable[[DensityCase], None]] = {
    "shapes": check_shapes,
    "sample shapes": check_sample_shapes,
    "errors": check_errors,
    "precision": check_precision,
    "context": check_context,
    "mass": check_mass,
    "temperature": check_temperature,
    "reparametrised": check_reparametrised,
    "distribution": check_distribution,
    "gradients": check_gradients,
    "saving": check_saving,
    "compile": check_compile,
}


def check_density(
    factory: Callable[[], Density],
    event_shape: tuple[int, ...] | int,
    context_features: int = 0,
    **options: Any,
) -> None:
    """Run every check of `DENSITY_CHECKS` on a density.

    Arguments:
        factory: builds the density, without arguments.
        event_shape: shape of one event, or the number of features.
        context_features: width of the context.
        options: the other fields of `DensityCase`.

    Raises:
        AssertionError: naming the check, what is wrong and by how much.
    """
    case = DensityCase(factory, event_shape, context_features, **options)
    for name, check in DENSITY_CHECKS.items():
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
