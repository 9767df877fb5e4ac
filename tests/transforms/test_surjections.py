"""Surjections against closed forms: symmetries, linear-Gaussian models, bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modeflow.densities import BoundedFlow, Flow, StandardNormal
from modeflow.errors import ConfigError, DataError
from modeflow.flows import SurVAE
from modeflow.testing import perturb
from modeflow.transforms import (
    Abs,
    AdditiveElementwise,
    Augment,
    Composite,
    ConditionalAffine,
    Coupling,
    Indexed,
    LULinear,
    Max,
    MaxPool,
    Rounding,
    Slice,
    StochasticPermutation,
    Subset,
)

DOUBLE = torch.float64


def normal_of(transform: nn.Module, features: int) -> torch.distributions.MultivariateNormal:
    """The Gaussian that an affine bijection maps to a standard one."""
    zero = torch.zeros(1, features, dtype=DOUBLE)
    matrix = torch.autograd.functional.jacobian(lambda x: transform(x)[0][0], zero)[:, 0]
    shift = torch.linalg.solve(matrix, -transform(zero)[0][0])
    inverse = torch.linalg.inv(matrix)
    return torch.distributions.MultivariateNormal(shift.detach(), inverse @ inverse.mT)


def test_slice_with_a_linear_gaussian_decoder_is_the_joint_gaussian():
    decoder = perturb(Flow(ConditionalAffine(2, 1), StandardNormal(2), 1), 1.0).double()
    flow = Flow(Slice(torch.tensor([True, False, False]), decoder), StandardNormal(1), 0, (3,)).double()
    x = torch.randn(20, 3, dtype=DOUBLE)
    # x_b = z m, each with its scale exp(z s): Gaussian given z, so the chain rule is the joint density.
    mean, scale = decoder.transform.table.detach().split(2, 1)
    z = x[:, :1]
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    expected = expected + torch.distributions.Normal(z * mean, (z * scale).exp()).log_prob(x[:, 1:]).sum(1)
    assert torch.allclose(flow.log_prob(x), expected, atol=1e-12)


def test_a_linear_gaussian_funnel_is_the_joint_gaussian():
    """z = U x₊ + V x₋ and x₋ | z Gaussian with a mean linear in z: jointly Gaussian, of known density."""
    keep = torch.tensor([True, True, False])
    linear = nn.Linear(1, 2)
    layers = [
        Subset(3, torch.tensor([0, 1]), perturb(LULinear(2), 0.7)),
        Coupling(~keep, AdditiveElementwise(), lambda i, o, c: Calls(linear)),
    ]
    decoder = Flow(ConditionalAffine(1, 2), StandardNormal(1), 2)
    with torch.no_grad():
        decoder.transform.table[:, 0] = torch.tensor([0.8, -0.5])
    flow = Flow(Composite([*layers, Slice(keep, decoder)]), StandardNormal(2), 0, (3,)).double()
    # (z, x₋ - m·z) is an affine bijection of x to independent standard normals.
    direction = torch.tensor([0.8, -0.5], dtype=DOUBLE)

    class Whole(nn.Module):
        def forward(self, x):
            z, _ = Composite(layers)(x)
            return torch.cat((z[:, :2], z[:, 2:] - (z[:, :2] @ direction)[:, None]), 1), None

    joint = normal_of(Whole(), 3)
    x = torch.randn(20, 3, dtype=DOUBLE)
    assert torch.allclose(flow.log_prob(x), joint.log_prob(x), atol=1e-10)
    assert (flow.log_prob(x) - StandardNormal(3).double().log_prob(x)).abs().max() > 0.1


def test_what_a_funnel_keeps_of_a_sample_is_its_noise():
    flow = perturb(SurVAE(3, symmetry="none", layers=1, hidden_features=8), 0.3)
    keep = torch.tensor([True, False, True])
    decoder = perturb(Flow(ConditionalAffine(1, 2), StandardNormal(1), 2), 1.0)
    layer = Slice(keep, decoder)
    z = torch.randn(50, 2)
    x = layer.sample(z, None, torch.Generator().manual_seed(0))
    assert torch.equal(layer(x)[0], z)
    assert flow.exactness == "exact"


@pytest.mark.parametrize("name", ["abs", "sort"])
def test_symmetries_are_exact(name):
    flow = perturb(SurVAE(3, symmetry=name, layers=2, hidden_features=8), 0.3).double().eval()
    x = torch.randn(50, 3, dtype=DOUBLE)
    other = x * torch.tensor([-1.0, 1.0, -1.0]) if name == "abs" else x[:, [2, 0, 1]]
    assert torch.allclose(flow.log_prob(x), flow.log_prob(other), atol=1e-12)
    assert flow.exactness == "exact"


def augmented(q_slope: float, q_scale: float) -> BoundedFlow:
    """x, e standard normal after an affine map with known correlation; q(e|x) = N(slope x, scale²)."""

    class Net(nn.Module):
        def forward(self, x, context=None):
            s = math.log(q_scale)
            raw = s / (1 - abs(s) / 7)
            return torch.cat((q_slope * x, torch.full_like(x, raw)), 1)

    joint = ConditionalAffine(2, full=True)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    joint.set_gaussian(0, torch.zeros(2), covariance)
    transform = Composite([Augment(1, 1, lambda i, o, c: Net()), joint])
    return BoundedFlow(transform, StandardNormal(2), 0, (1,), draws=1).double()


def test_augmentation_is_a_bound_that_the_right_encoder_makes_exact():
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE)[:, None]
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x).squeeze(1)
    # The joint has correlation 0.6, so p(e|x) = N(0.6 x, 0.64): no gap, whatever the draw.
    right = augmented(0.6, 0.8).eval()
    assert torch.allclose(right.log_prob(x), exact, atol=1e-6)
    wrong = augmented(0.0, 1.3).train()
    torch.manual_seed(0)
    draws = wrong.log_prob(x.repeat(4000, 1)).view(4000, 9)
    # KL(q || p(e|x)) in closed form is the gap of the mean.
    gap = math.log(0.8 / 1.3) + (1.3**2 + (0.6 * x.squeeze(1)) ** 2) / (2 * 0.64) - 0.5
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((exact - draws.mean(0) - gap).abs() < 5 * error).all()
    assert (draws.mean(0) < exact).all()


def test_more_draws_tighten_the_bound():
    wrong = augmented(0.0, 1.3).eval()
    x = torch.randn(200, 1, dtype=DOUBLE)
    means = []
    for draws in (1, 4, 64, 1000):
        wrong.draws = draws
        means.append(float(wrong.log_prob(x).mean()))
    exact = float(torch.distributions.Normal(0.0, 1.0).log_prob(x).mean())
    assert means[0] < means[1] < means[2]
    assert abs(means[3] - exact) < 0.05
    assert means[2] < exact + 0.05


def test_evaluation_neither_reads_nor_moves_the_global_generator():
    flow = perturb(SurVAE(2, layers=1, hidden_features=8), 0.3).eval()
    x = torch.randn(5, 2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = flow.log_prob(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(a, flow.log_prob(x))
    assert torch.allclose(a[:1], flow.log_prob(x[:1]), atol=1e-6)


def test_an_indexed_layer_averages_to_its_integral_over_the_index():
    """One feature, one index: p(x) = ∫ N(z(x,e)) |dz/dx| p(e|z) de by quadrature."""
    nets = [nn.Linear(1, 2) for _ in range(3)]
    made = iter(nets)
    layer = Indexed(LULinear(1), 1, 1, lambda i, o, c: Calls(next(made)))
    flow = perturb(BoundedFlow(layer, StandardNormal(1), 0, (1,), draws=1), 0.5).double()
    x = torch.linspace(-2, 2, 7, dtype=DOUBLE)[:, None]
    e = torch.linspace(-12, 12, 4001, dtype=DOUBLE)[:, None]
    normal = torch.distributions.Normal(torch.zeros((), dtype=DOUBLE), 1.0)
    exact = []
    with torch.no_grad():
        for row in x:
            base, logabsdet = layer.transform(row[None])
            t, raw = nets[0](e).chunk(2, 1)
            s = raw / (1 + raw.abs() / 7)
            z = (base - t) * torch.exp(-s)
            mean, raw = nets[1](z).chunk(2, 1)
            scale = (raw / (1 + raw.abs() / 7)).exp()
            inside = normal.log_prob(z) + logabsdet - s + torch.distributions.Normal(mean, scale).log_prob(e)
            exact.append(torch.trapezoid(inside.exp().squeeze(1), e.squeeze(1)))
        flow.train()
        torch.manual_seed(0)
        draws = flow.log_prob(x.repeat(20_000, 1)).view(20_000, 7).exp()
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - torch.stack(exact)).abs() < 5 * error).all()
    assert (error / torch.stack(exact)).max() < 0.1


class Calls(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, context=None):
        return self.net(x)


def test_max_pooling_is_normalised():
    """The mean of p/g over a wide g is one (five standard errors: false alarm below 1e-6)."""
    layer = MaxPool(1)
    with torch.no_grad():
        layer.log_scale.fill_(0.3)
    wide = torch.distributions.Normal(torch.tensor(-0.6, dtype=DOUBLE), 1.8)
    torch.manual_seed(0)
    x = wide.sample((200_000, 1, 2, 2))
    with torch.no_grad():
        z, contribution = layer.double()(x)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + contribution
    ratio = (log_p - wide.log_prob(x).flatten(1).sum(1)).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 5 * error
    z = torch.randn(1000, 1, 3, 2, dtype=DOUBLE)
    back = layer.sample(z, None, torch.Generator().manual_seed(0))
    assert back.shape == (1000, 1, 6, 4)
    assert torch.equal(layer(back)[0], z)
    patch = back[:, 0, :2, :2].flatten(1)
    place = patch.argmax(1).bincount(minlength=4)
    assert (place > 180).all()


def test_ways_without_an_inverse_say_so():
    with pytest.raises(ConfigError, match="Abs is a surjection and has no inverse: use sample"):
        Abs().inverse(torch.zeros(1, 2))
    with pytest.raises(DataError, match="whole numbers"):
        Rounding()(torch.tensor([[0.5]]))
    with pytest.raises(DataError, match="even height"):
        MaxPool(1)(torch.zeros(1, 1, 3, 2))
    with pytest.raises(ConfigError, match="must be kept and some dropped"):
        Slice(torch.tensor([True, True]), StandardNormal(1))
    with pytest.raises(ConfigError, match="given 1, received"):
        Slice(torch.tensor([True, False]), StandardNormal(1))
    with pytest.raises(ConfigError, match="features must be"):
        Max(0)
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        SurVAE(2, symmetry="srt")


def test_rounding_and_permutation_go_there_and_back():
    n = torch.randint(0, 5, (40, 3)).float()
    noisy, contribution = Rounding()(n)
    assert torch.equal(Rounding().sample(noisy), n)
    assert ((noisy - n) >= 0).all()
    assert (contribution == 0).all()
    x = torch.randn(40, 3)
    mixed, _ = StochasticPermutation()(x)
    assert torch.equal(mixed.sort(1).values, x.sort(1).values)
    assert not torch.equal(mixed, x)
