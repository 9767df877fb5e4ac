"""Differential equations and contractions against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.flows import FFJORD, ResidualFlow
from modeflow.nets import ConcatSquash, ContractiveMLP, LipSwish, SpectralConv2d, SpectralLinear
from modeflow.testing import jacobian, perturb
from modeflow.transforms import ODE, Contractive
from modeflow.transforms.ode import divergence

DOUBLE = torch.float64


class Linear(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, x, context=None):
        return x @ self.matrix.mT


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_linear_equation_is_the_matrix_exponential(method):
    a = 0.8 * torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    ode = ODE(Linear(a), 3, times=torch.linspace(0, 1, 65), method=method, rtol=1e-10, atol=1e-10)
    x = torch.randn(5, 3, dtype=DOUBLE)
    u, logabsdet = ode(x)
    assert torch.allclose(u, x @ torch.linalg.matrix_exp(a).mT, atol=1e-7)
    assert torch.allclose(logabsdet, a.trace().expand(5), atol=1e-9)
    assert ode.n_evaluations == 4 * 64 if method == "rk4" else ode.n_evaluations > 10


def test_the_trace_is_the_jacobians_and_its_estimate_is_unbiased():
    field = perturb(ConcatSquash(3, (16,)), 1.0).double()
    x = torch.randn(4, 3, dtype=DOUBLE).requires_grad_(True)
    value = field(torch.tensor(0.3), x)
    exact = torch.diagonal(jacobian(value, x), dim1=1, dim2=2).sum(1)
    assert torch.allclose(divergence(value, x, True), exact, atol=1e-12)
    big = x.detach().repeat(10_000, 1).requires_grad_(True)
    torch.manual_seed(0)
    noise = torch.randint(0, 2, big.shape) * 2.0 - 1
    some = divergence(field(torch.tensor(0.3), big), big, False, noise.double()).view(10_000, 4)
    error = some.std(0) / 100
    assert ((some.mean(0) - exact).abs() < 5 * error).all()
    assert error.max() < 0.05


def test_the_adjoint_gives_the_same_gradient():
    results = []
    for adjoint in (False, True):
        torch.manual_seed(0)
        field = perturb(ConcatSquash(2, (8,), 2), 0.7).double()
        ode = ODE(field, 2, 2, method="dopri5", rtol=1e-10, atol=1e-10, adjoint=adjoint)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(6, 2, dtype=DOUBLE, generator=generator).requires_grad_(True)
        c = torch.randn(6, 2, dtype=DOUBLE, generator=generator).requires_grad_(True)
        u, logabsdet = ode(x, c)
        (u.square().sum() - logabsdet.sum()).backward()
        results.append([x.grad, c.grad, *(p.grad for p in ode.parameters())])
    for a, b in zip(*results, strict=True):
        assert a.abs().max() > 1e-4
        assert (a - b).abs().max() < 1e-5


def test_finer_steps_converge_at_fourth_order():
    field = perturb(ConcatSquash(2, (16,)), 1.0).double()
    x = torch.randn(20, 2, dtype=DOUBLE)
    fine = ODE(field, 2, times=torch.linspace(0, 1, 257))(x)[1]
    errors = [
        float((ODE(field, 2, times=torch.linspace(0, 1, n + 1))(x)[1] - fine).abs().max()) for n in (8, 16)
    ]
    assert errors[0] / errors[1] > 10


def test_hutchinson_while_training_exact_in_evaluation():
    flow = perturb(FFJORD(3, trace="hutchinson", hidden_features=(8,)), 0.5)
    x = torch.randn(10, 3)
    torch.manual_seed(0)
    a, b = flow.train().log_prob(x), flow.log_prob(x)
    assert not torch.equal(a, b)
    assert torch.equal(flow.eval().log_prob(x), flow.log_prob(x))


def test_the_singular_values_are_bounded():
    layer = SpectralLinear(6, 9, 0.9)
    with torch.no_grad():
        layer.weight.mul_(30)
    assert torch.linalg.svdvals(layer.normalised().detach())[0] == pytest.approx(0.9, rel=1e-5)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
    assert torch.equal(layer.normalised(), layer.weight)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_norm_of_a_convolution_is_that_of_the_operator(kernel):
    layer = SpectralConv2d(2, 3, kernel, 0.9).double()
    with torch.no_grad():
        layer.weight.mul_(5)
    basis = torch.eye(2 * 5 * 4, dtype=DOUBLE).view(-1, 2, 5, 4)
    with torch.no_grad():
        matrix = F.conv2d(basis, layer.weight, padding=kernel // 2).flatten(1)
        exact = torch.linalg.svdvals(matrix)[0]
        assert float(layer.norm(5, 4)) == pytest.approx(float(exact), rel=1e-3)
        acting = (layer.eval()(basis) - layer(torch.zeros_like(basis))).flatten(1)
    assert 0.88 < float(torch.linalg.svdvals(acting)[0]) <= 0.9
    # The reshaped kernel's norm is another number: it would not do.
    if kernel == 3:
        assert abs(float(torch.linalg.svdvals(layer.weight.flatten(1))[0]) - float(exact)) > 0.05 * float(
            exact
        )
    layer.norm(5, 4).backward()
    assert layer.weight.grad.abs().max() > 0


def test_lipswish_has_slope_at_most_one():
    x = torch.linspace(-30, 30, 20_001, dtype=DOUBLE).requires_grad_(True)
    for raw in (-3.0, 0.5, 4.0):
        swish = LipSwish().double()
        with torch.no_grad():
            swish.raw.fill_(raw)
        (slope,) = torch.autograd.grad(swish(x).sum(), x)
        assert slope.abs().max() <= 1.0


class Affine(nn.Module):
    bound = 0.8

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x, context=None):
        return x @ self.matrix.mT


def test_the_roulette_is_unbiased_and_so_is_its_gradient():
    """Linear g: log det(I + A) and its gradient (I + A)^-T are known. Five standard errors, seed fixed."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, dtype=DOUBLE, generator=generator)
    a = 0.7 * a / torch.linalg.matrix_norm(a, 2)
    layer = Contractive(Affine(a), 4, exact_features=0).train()
    x = torch.zeros(100, 4, dtype=DOUBLE)
    torch.manual_seed(0)
    values, gradients = [], []
    for _ in range(1500):
        layer.zero_grad()
        estimate = layer(x)[1].mean()
        estimate.backward()
        values.append(estimate.detach())
        gradients.append(layer.g.matrix.grad.clone())
    eye = torch.eye(4, dtype=DOUBLE)
    value, gradient = torch.stack(values), torch.stack(gradients)
    exact, slope = torch.linalg.slogdet(eye + a).logabsdet, torch.linalg.inv(eye + a).mT
    error = value.std() / math.sqrt(len(value))
    assert abs(float(value.mean() - exact)) < 5 * float(error)
    assert float(error) < 0.05
    spread = gradient.std(0) / math.sqrt(len(gradient))
    assert ((gradient.mean(0) - slope).abs() < 5 * spread).all()
    assert float(spread.max()) < 0.1
    assert torch.allclose(layer.eval()(x)[1], exact.expand(100), atol=1e-12)


def test_the_chance_of_many_terms_does_not_vanish():
    layer = Contractive(Affine(torch.zeros(1, 1)), 1)
    for k in range(1, 40):
        exact = 1 - sum(math.exp(-2.0) * 2.0**i / math.factorial(i) for i in range(k))
        assert layer.probability(k) > 0
        if k < 10:
            assert layer.probability(k) == pytest.approx(exact, rel=1e-8)


def test_the_inverse_converges_or_says_so():
    g = perturb(ContractiveMLP(3, (16,), coefficient=0.99), 5.0).double()
    layer = Contractive(g, 3)
    u = 5 * torch.randn(20, 3, dtype=DOUBLE)
    x, _ = layer.inverse(u)
    assert (layer(x)[0] - u).abs().max() < 1e-10

    class Broken(Affine):
        bound = 0.5

    with pytest.raises(ConfigError, match="did not converge in"):
        Contractive(Broken(torch.tensor([[1.2]])), 1).inverse(torch.ones(1, 1))


def test_what_is_not_allowed_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="method must be one of rk4"):
        FFJORD(2, method="rk5")
    with pytest.raises(ConfigError, match="trace must be"):
        FFJORD(2, trace="none")
    with pytest.raises(ConfigError, match="coefficient must lie between"):
        ResidualFlow(2, coefficient=1.0)
    with pytest.raises(ConfigError, match="Lipschitz bound below 1"):
        broken = Affine(torch.eye(1))
        broken.bound = 1.5
        Contractive(broken, 1)
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(ConfigError, match=r"pip install 'modeflow\[ode\]'"):
        FFJORD(2).log_prob(torch.zeros(1, 2))
