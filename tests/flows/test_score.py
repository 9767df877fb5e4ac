"""Score-based models where the score is known: Gaussian data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modeflow import FlowDensity
from modeflow.densities.diffusion import DIFFUSIONS, Schedule
from modeflow.errors import ConfigError
from modeflow.flows import FFJORD, NSF, ScoreSDE
from modeflow.testing import perturb
from modeflow.transforms.ode import halve_steps, has_solver

DOUBLE = torch.float64


@pytest.mark.parametrize("kind", DIFFUSIONS)
def test_the_schedule_solves_its_own_equations(kind):
    s = Schedule(kind)
    t = torch.linspace(0.01, 1, 50, dtype=DOUBLE).requires_grad_(True)

    def slope(value):
        return torch.autograd.grad(value.sum(), t, retain_graph=True)[0]

    # dm/dt = a m and dv/dt = 2 a v + g², the moments of a linear equation.
    assert torch.allclose(slope(s.mean(t)) if kind != "ve" else s.drift(t), s.drift(t) * s.mean(t))
    assert torch.allclose(slope(s.variance(t)), 2 * s.drift(t) * s.variance(t) + s.diffusion(t))
    assert torch.allclose(slope(s.clock(t)), s.diffusion(t) / s.variance(t))
    assert torch.allclose(s.time(s.clock(t)), t)


def known(kind: str, scale: float, **options):
    """A model whose score is that of data N(0, scale²)."""
    model = ScoreSDE(2, kind=kind, **options).double().eval()
    s = model.schedule

    def noise(x, t, context):
        m, v = s.mean(t).unsqueeze(1), s.variance(t).unsqueeze(1)
        return v.sqrt() / (m.square() * scale**2 + v) * x

    model.field.noise = noise
    return model


@pytest.mark.parametrize("kind", DIFFUSIONS)
def test_with_the_exact_score_the_likelihood_is_exact(kind):
    """Up to the noise at the first time, the part of the data left at the last, and the solver."""
    scale = 0.7
    model = known(kind, scale, steps=60)
    x = torch.randn(20, 2, dtype=DOUBLE)
    v = model.schedule.variance(torch.tensor(1e-3, dtype=DOUBLE))
    m = model.schedule.mean(torch.tensor(1e-3, dtype=DOUBLE))
    exact = torch.distributions.Normal(0.0, float((m**2 * scale**2 + v).sqrt())).log_prob(x).sum(1)
    assert (model.log_prob(x) - exact).abs().max() < 0.04


@pytest.mark.parametrize("sampler", ["ode", "pc"])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_with_the_exact_score_samples_have_the_variance_of_the_data(kind, sampler):
    """Within 5 %: the standard error of a variance of 8,000 numbers is 1.6 %; seed fixed."""
    model = known(kind, 0.7, sampler=sampler)
    x = model.sample(4000, generator=torch.Generator().manual_seed(0))
    assert float(x.var()) / 0.49 == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize("weighting", ["likelihood", "noise"])
def test_the_loss_is_least_at_the_exact_score(weighting):
    torch.manual_seed(0)
    x = 0.7 * torch.randn(20_000, 2, dtype=DOUBLE)
    losses = []
    for scale in (0.5, 0.7, 0.9):
        torch.manual_seed(1)
        losses.append(float(known("vp", scale, weighting=weighting).objective(x).value))
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize(("make", "steps"), [(FFJORD, 2), (ScoreSDE, 8)])
def test_a_density_by_a_solver_is_an_estimate_and_halving_its_steps_shows_the_error(make, steps):
    model = perturb(make(2, steps=steps), 1.0).double().eval()
    assert model.exactness == "estimate" and has_solver(model)
    x = torch.randn(40, 2, dtype=torch.float64)
    fine = model
    for _ in range(4):
        fine = halve_steps(fine)
    with torch.no_grad():
        coarse = model.log_prob(x)
        error = fine.log_prob(x) - coarse
        shown = halve_steps(model).log_prob(x) - coarse
    assert error.abs().max() > 1e-6
    assert (shown - error).abs().mean() < 0.5 * error.abs().mean()
    torch.testing.assert_close(
        model.log_prob(x).detach(), coarse, rtol=1e-9, atol=1e-9
    )  # the model itself keeps its steps
    assert not has_solver(NSF(2, layers=1))


def test_an_estimator_says_what_its_solver_decides():
    x = np.random.default_rng(0).normal(size=(80, 2))
    small = {"max_epochs": 1, "random_state": 0}
    fitted = FlowDensity("ffjord", flow_options={"steps": 2, "hidden_features": [4]}, **small).fit(x)
    assert fitted.density_kind_ == fitted.likelihood_of(x).kind == "estimate"
    differences = fitted.solver_differences(x[:9])
    assert differences.shape == (9,) and 0 < np.abs(differences).max() < 0.1
    assert FlowDensity(flow_options={"layers": 1}, **small).fit(x).solver_differences(x) is None


def test_a_trained_score_finds_the_entropy():
    """Two modes in one feature; the gap to the entropy after a short training."""
    torch.manual_seed(0)
    model = ScoreSDE(1, hidden_features=32, blocks=2)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(2)

    def data(n):
        return (
            torch.randn(n, 1, generator=generator) * 0.3
            + torch.randint(0, 2, (n, 1), generator=generator) * 2.0
            - 1
        )

    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / 400)
        optimiser.zero_grad()
        model.objective(data(256)).value.backward()
        optimiser.step()
    x = data(2000)
    parts = [torch.distributions.Normal(c, 0.3).log_prob(x).squeeze(1) - math.log(2) for c in (-1.0, 1.0)]
    truth = torch.logaddexp(*parts)
    gap = float((truth - model.eval().log_prob(x).detach()).mean())
    assert -0.02 < gap < 0.08


def test_what_is_not_allowed_is_named():
    with pytest.raises(ConfigError, match="kind must be one of vp"):
        ScoreSDE(2, kind="vpp")
    with pytest.raises(ConfigError, match="sampler must be"):
        ScoreSDE(2, sampler="em")
    with pytest.raises(ConfigError, match="weighting must be"):
        ScoreSDE(2, weighting="none")
