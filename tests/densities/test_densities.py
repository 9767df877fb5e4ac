"""Densities beyond the shared contract: units, weights, errors, distributions."""

from __future__ import annotations

import math

import pytest
import torch

from constructors import standardize
from modeflow.densities import Flow, Preprocessed, StandardNormal
from modeflow.errors import ShapeError
from modeflow.flows import MAF, NSF, RealNVP
from modeflow.testing import perturb
from modeflow.transforms import Composite, LULinear, Standardize

DOUBLE = torch.float64


def test_standard_normal():
    x = torch.randn(10, 3, dtype=DOUBLE)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1)
    assert torch.allclose(StandardNormal(3).double().log_prob(x), exact, atol=1e-14)


def test_a_linear_flow_is_a_gaussian():
    layer = perturb(LULinear(3), 0.5).double()
    flow = Flow(Composite([layer]), StandardNormal(3).double())
    lower, upper, _ = layer.factors()
    root = torch.linalg.inv(lower @ upper)
    exact = torch.distributions.MultivariateNormal(-root @ layer.bias, root @ root.mT)
    x = torch.randn(20, 3, dtype=DOUBLE)
    assert torch.allclose(flow.log_prob(x), exact.log_prob(x), atol=1e-11)
    assert flow.sample(0).shape == (0, 3)


def test_preprocessed_is_the_change_of_variables():
    model = perturb(NSF(2, 1, layers=2, hidden_features=16, bins=4), 0.2).double()
    scaler = standardize(2)
    density = Preprocessed(scaler, model)
    x, c = torch.randn(30, 2, dtype=DOUBLE) * 2 + 1, torch.randn(30, 1, dtype=DOUBLE)
    u = (x - scaler.mean) / scaler.scale
    expected = model.log_prob(u, c) - scaler.scale.log().sum()
    assert torch.allclose(density.log_prob(x, c), expected, atol=1e-13)
    assert (density.context_features, density.event_shape) == (1, (2,))


def test_preprocessed_keeps_the_digits_of_an_offset():
    # The same rows near zero and near 1e9: float32 models must not see the offset.
    x = torch.randn(500, 2, dtype=DOUBLE)
    far = x + torch.tensor([1e9, 0.0], dtype=DOUBLE)
    model = perturb(RealNVP(2, layers=2, hidden_features=8), 0.2)
    near_density = Preprocessed(Standardize(2).fit(x), model)
    far_density = Preprocessed(Standardize(2).fit(far), model)
    a, b = near_density.log_prob(x), far_density.log_prob(far)
    assert a.dtype == torch.float32
    assert torch.allclose(a, b, atol=1e-4)
    samples = far_density.sample(1000, generator=torch.Generator().manual_seed(0))
    assert samples.dtype == DOUBLE
    assert len(samples[:, 0].unique()) == 1000


def test_losses_are_in_the_units_of_the_data():
    model = StandardNormal(2)
    scaler = standardize(2)
    density = Preprocessed(scaler, model)
    x = torch.randn(50, 2, dtype=DOUBLE)
    loss = density.objective(x)
    assert loss.value.item() == pytest.approx(-density.log_prob(x).mean().item(), rel=1e-5)
    assert loss.terms["nll"].item() == pytest.approx(loss.value.item(), rel=1e-6)


@pytest.mark.parametrize("wrap", [False, True])
def test_weights_of_the_loss(wrap):
    model = perturb(NSF(2, layers=1, hidden_features=8, bins=4), 0.2).double()
    density = Preprocessed(standardize(2), model) if wrap else model
    x = torch.randn(4, 2, dtype=DOUBLE)
    ones = torch.ones(4, dtype=DOUBLE)
    plain = density.objective(x).value
    assert torch.allclose(density.objective(x, ones).value, plain, atol=1e-14)
    only = torch.tensor([4.0, 0, 0, 0], dtype=DOUBLE)
    assert torch.allclose(density.objective(x, only).value, density.objective(x[:1]).value, atol=1e-12)


def test_a_flow_is_as_exact_as_its_transform():
    layer = LULinear(2)
    layer.exactness = "lower bound"
    flow = Flow(Composite([layer]), StandardNormal(2))
    assert flow.exactness == "lower bound"
    assert Preprocessed(Standardize(2), flow).exactness == "lower bound"


# -- reparametrised samples


def test_reparametrised_samples_with_one_shared_context():
    flow = perturb(NSF(2, 3, layers=1, hidden_features=8, bins=4), 0.2).double()
    c = torch.randn(3, dtype=DOUBLE)
    x, log_prob = flow.rsample_and_log_prob(7, c)
    assert x.shape == (7, 2)
    assert torch.allclose(log_prob, flow.log_prob(x, c), atol=1e-10)


def test_reparametrised_samples_need_their_context():
    with pytest.raises(ShapeError, match="is conditional"):
        NSF(2, 1, layers=1).rsample_and_log_prob(5)
    with pytest.raises(ShapeError, match="unconditional"):
        NSF(2, layers=1).rsample_and_log_prob(5, torch.ones(5, 1))


def test_reverse_kl_gradient_reaches_the_flow_through_samples():
    flow = perturb(RealNVP(2, layers=2, hidden_features=8), 0.2).double()
    x, log_prob = flow.rsample_and_log_prob(64)
    (log_prob + 0.5 * (x - 1).square().sum(-1)).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())
    assert sum(float(p.grad.abs().max()) > 0 for p in flow.parameters()) > 10


# -- torch.distributions


def test_distribution_shapes_and_expansion():
    flow = perturb(MAF(2, 3, layers=1, hidden_features=(8,)), 0.2)
    distribution = flow.to_distribution(torch.randn(4, 3))
    assert distribution.log_prob(torch.randn(5, 4, 2)).shape == (5, 4)
    assert distribution.log_prob(torch.randn(2)).shape == (4,)
    one = flow.to_distribution(torch.randn(3))
    assert one.sample((6,)).shape == (6, 2)
    wide = one.expand((4,))
    x = torch.randn(4, 2)
    assert torch.allclose(wide.log_prob(x), one.log_prob(x))
    assert StandardNormal(2).to_distribution().expand((3,)).sample((2,)).shape == (2, 3, 2)
    independent = torch.distributions.Independent(distribution, 1)
    assert independent.log_prob(torch.randn(4, 2)).shape == ()
    with pytest.raises(ShapeError, match="is conditional"):
        flow.to_distribution()


def test_distribution_agrees_with_torch():
    ours, theirs = StandardNormal(1).to_distribution(), torch.distributions.Normal(0.0, 1.0)
    x = torch.randn(7, 1)
    assert torch.allclose(ours.log_prob(x), theirs.log_prob(x[:, 0]), atol=1e-6)
    assert math.isclose(float(ours.log_prob(torch.zeros(1))), -0.5 * math.log(2 * math.pi), abs_tol=1e-6)
