"""The flow of an ordinary differential equation as a transform."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.nets.randomness import stream
from modeflow.transforms.base import Transform

__all__ = ["ODE", "divergence", "halve_steps", "has_solver"]

M = TypeVar("M", bound=nn.Module)

METHODS = ("rk4", "midpoint", "euler", "dopri5", "dopri8", "bosh3")
_FIXED = ("rk4", "midpoint", "euler")
_EXACT_UP_TO = 64


def solver(adjoint: bool) -> Any:
    """The solver, imported when it is first needed.

    Raises:
        ConfigError: if torchdiffeq is not installed.
    """
    try:
        import torchdiffeq
    except ImportError as error:
        raise ConfigError("continuous flows need torchdiffeq: pip install 'modeflow[ode]'") from error
    return torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint


def divergence(value: Tensor, x: Tensor, create_graph: bool, noise: Tensor | None = None) -> Tensor:
    """``tr ∂value/∂x`` of each row: exactly, or as ``noise' (∂value/∂x) noise``; shape ``(B,)``."""
    if noise is not None:
        (product,) = torch.autograd.grad(value, x, noise, create_graph=create_graph)
        return (product * noise).flatten(1).sum(1)
    flat = value.flatten(1)
    total = torch.zeros_like(flat[:, 0])
    for i in range(flat.shape[1]):
        (line,) = torch.autograd.grad(
            flat[:, i].sum(), x, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
        if line is not None:
            total = total + line.flatten(1)[:, i]
    return total


class _Augmented(nn.Module):
    """The field beside its divergence; the context rides along so that the adjoint sees it."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.noise: Tensor | None = None
        self.track = False
        self.evaluations = 0

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.evaluations += 1
        z, rest = state[0], state[2:]
        with torch.enable_grad():
            z = z if self.track and z.requires_grad else z.detach().requires_grad_(True)
            value = self.field(t, z, rest[0] if rest else None)
            trace = divergence(value, z, create_graph=self.track, noise=self.noise)
        if not self.track:
            value, trace = value.detach(), trace.detach()
        return (value, trace, *(torch.zeros_like(r) for r in rest))


class ODE(Transform):
    r"""``u = z(T)`` where ``dz/dt = g(t, z, c)`` and ``z(t_0) = x``.

    .. math:: \log\left|\det \frac{\partial u}{\partial x}\right|
        = \int_{t_0}^{T} \operatorname{tr} \frac{\partial g}{\partial z}\, dt

    up to the error of the solver: an estimate, for its steps decide (`halve_steps` shows by how much). A
    method of fixed steps (`rk4`) treats every row alike, whatever its batch; an adaptive one (`dopri5`)
    chooses its steps for the whole batch. In evaluation mode the trace is exact up to 64 features; beyond,
    and while training with ``trace="hutchinson"``, it is estimated with one random vector a row, held fixed
    during a solve.

    Arguments:
        field: g, called ``field(t, z, context)``.
        features: D. context_features: width of the context.
        times: the increasing grid ``(t_0, ..., T)``; fixed-step methods take one step from each to the next.
        method: one of rk4, midpoint, euler (fixed), dopri5, dopri8, bosh3 (adaptive).
        rtol, atol: tolerances of adaptive methods.
        adjoint: recompute backwards instead of storing the solve; memory does not grow with the steps.
        trace: while training, ``"exact"`` or ``"hutchinson"``.

    Attributes:
        n_evaluations: of the field in the last call.

    Raises:
        ConfigError: for an option that is not allowed, or where torchdiffeq is missing (at the first call).

    Reference:
        Chen et al., *Neural Ordinary Differential Equations*, 2018, https://arxiv.org/abs/1806.07366;
        Grathwohl et al., *FFJORD*, 2019, https://arxiv.org/abs/1810.01367
    """

    times: Tensor

    exactness = "estimate"
    one_pass_inverse = False

    def __init__(
        self,
        field: nn.Module,
        features: int,
        context_features: int = 0,
        times: Tensor | None = None,
        method: str = "rk4",
        rtol: float = 1e-6,
        atol: float = 1e-6,
        adjoint: bool = False,
        trace: str = "exact",
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}; received {method!r}")
        if trace not in ("exact", "hutchinson"):
            raise ConfigError(f"trace must be 'exact' or 'hutchinson', received {trace!r}")
        self.function = _Augmented(field)
        self.features, self.context_features = features, context_features
        self.method, self.rtol, self.atol, self.adjoint, self.trace = method, rtol, atol, adjoint, trace
        grid = torch.linspace(0, 1, 13, dtype=torch.float64) if times is None else times.double()
        self.register_buffer("times", grid, persistent=False)
        self.n_evaluations = 0

    def _noise(self, x: Tensor) -> Tensor | None:
        estimated = self.features > _EXACT_UP_TO or (self.training and self.trace == "hutchinson")
        if not estimated:
            return None
        signs = torch.randint(0, 2, x.shape, device=x.device, generator=stream(x.device))
        return signs.to(x.dtype) * 2 - 1

    def _solve(self, x: Tensor, context: Tensor | None, times: Tensor) -> tuple[Tensor, Tensor]:
        rest = (context,) if self.context_features and context is not None else ()
        if len(x) == 0:
            return x, x.new_zeros(0)
        function = self.function
        function.noise, function.evaluations = self._noise(x), 0
        function.track = torch.is_grad_enabled()
        options: dict[str, Any] = {"method": self.method}
        grid = times.to(x)
        if self.method not in _FIXED:
            grid = grid[[0, -1]]
            options |= {"rtol": self.rtol, "atol": self.atol}
        adjoint = self.adjoint and function.track
        state = (x, x.new_zeros(x.shape[0]), *rest)
        result = solver(adjoint)(function, state, grid, **options)
        self.n_evaluations = function.evaluations
        return result[0][-1], result[1][-1]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(x, context, self.times)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(u, context, self.times.flip(0))

    def halve(self) -> None:
        """Take steps half as long from now on (of an adaptive method: a sixteenth of the tolerances)."""
        middle = (self.times[1:] + self.times[:-1]) / 2
        self.times = torch.cat((self.times, middle)).sort().values
        self.rtol, self.atol = self.rtol / 16, self.atol / 16


def has_solver(module: nn.Module) -> bool:
    """Whether the steps of a solver decide what a model says."""
    return any(isinstance(part, ODE) for part in module.modules())


def halve_steps(module: M) -> M:
    """A copy of a model whose solvers take steps half as long: how far it differs shows the solver's error.

    The error of a method of order p falls by 2^p, so that the difference is nearly the error of the original.
    """
    finer = copy.deepcopy(module)
    for part in finer.modules():
        if isinstance(part, ODE):
            part.halve()
    return finer
