"""NICE, IAF, MADE, MAF-MoG, planar and radial: what each promises, exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from modeflow.densities import AutoregressiveDensity, Logistic, StudentT, Uniform
from modeflow.errors import ConfigError
from modeflow.flows import IAF, MADE, MAF, NICE, MAFMoG, PlanarFlow
from modeflow.testing import jacobian, perturb
from modeflow.transforms import Inverse, Planar, SigmoidalElementwise, SquaresElementwise

DOUBLE = torch.float64


def test_the_inverse_of_iaf_is_the_forward_of_maf():
    torch.manual_seed(0)
    maf = perturb(MAF(4, layers=2, mixing="reverse"), 0.3).double()
    iaf = IAF(4, layers=2, mixing="reverse").double()
    # The same layers in reverse order: the parameters of layer i go to layer n - 1 - i.
    a = [m for m in maf.transform.transforms if type(m).__name__ == "MaskedAutoregressive"]
    b = [m for m in iaf.transform.transforms if isinstance(m, Inverse)]
    for one, other in zip(a, reversed(b), strict=True):
        other.transform.load_state_dict(one.state_dict())
    x = torch.randn(16, 4, dtype=DOUBLE)
    u, logabsdet = maf.transform(x)
    v, other = iaf.transform.inverse(x)
    assert torch.allclose(u, v, rtol=1e-12, atol=1e-12)
    assert torch.allclose(logabsdet, other, rtol=1e-12, atol=1e-12)


def test_the_volume_change_of_nice_is_the_same_everywhere():
    flow = perturb(NICE(5, layers=4), 0.3).double()
    _, logabsdet = flow.transform(torch.randn(50, 5, dtype=DOUBLE))
    assert torch.allclose(logabsdet, logabsdet[0].expand(50), atol=1e-12)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("n_masks", [1, 4])
def test_probabilities_of_all_binary_rows_sum_to_one(n_masks, context):
    density = perturb(MADE(6, context, conditional="bernoulli", n_masks=n_masks), 0.5).double().eval()
    rows = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=DOUBLE)
    c = torch.randn(context, dtype=DOUBLE) if context else None
    assert abs(float(density.log_prob(rows, c).exp().sum()) - 1) < 1e-12
    # Frequencies of samples against the probabilities: chi-squared with 63 degrees, false alarm below 1e-6.
    samples = density.sample(20_000, c, torch.Generator().manual_seed(0))
    code = (samples * 2 ** torch.arange(5, -1, -1)).sum(1).long()
    expected = density.log_prob(rows, c).exp() * 20_000
    seen = torch.bincount(code, minlength=64)
    large = expected > 8
    statistic = float(((seen - expected).square() / expected)[large].sum())
    assert statistic < 150


@pytest.mark.parametrize("mask", [0, 1, 2])
def test_every_mask_respects_its_order(mask):
    net = perturb(MADE(5, conditional="gaussian", n_masks=3, hidden_features=(40, 40)), 0.5).double().net
    x = torch.randn(8, 5, dtype=DOUBLE, requires_grad=True)
    rank = torch.argsort(net.orders[mask])
    for p in range(2):
        depends = (jacobian(net(x, None, mask)[..., p], x).abs() > 0).any(0)
        assert not (depends & (rank[:, None] <= rank[None, :])).any()
    # The last in the order depends on all others.
    last = int(net.orders[mask][-1])
    assert depends[last].sum() == 4


def test_several_masks_are_a_mixture_and_training_bounds_it():
    density = perturb(MADE(3, n_masks=4), 0.4).double().eval()
    x = torch.randn(7, 3, dtype=DOUBLE)
    parts = torch.stack([density._under(x, None, k) for k in range(4)])
    assert torch.allclose(density.log_prob(x), torch.logsumexp(parts, 0) - math.log(4))
    assert (density.log_prob(x) >= parts.mean(0)).all()
    density.train()
    torch.manual_seed(0)
    drawn = {tuple(density.log_prob(x).tolist()) for _ in range(40)}
    assert drawn == {tuple(row.tolist()) for row in parts}


def test_one_component_is_a_gaussian():
    torch.manual_seed(0)
    one = AutoregressiveDensity(3, 0, "mixture", (8,), components=1).double()
    x = torch.randn(9, 3, dtype=DOUBLE)
    with torch.no_grad():
        params = one.net(x)
        expected = torch.distributions.Normal(params[..., 1], one.conditional._split(params)[2][..., 0].exp())
        assert torch.allclose(one.log_prob(x), expected.log_prob(x).sum(-1))


def test_maf_mog_can_have_two_modes_where_maf_has_one_map():
    torch.manual_seed(0)
    x = torch.randn(2000, 1) * 0.2 + torch.where(torch.rand(2000, 1) < 0.5, 2.0, -2.0)
    flow = MAFMoG(1, layers=1, hidden_features=(8,), components=4)
    optimiser = torch.optim.Adam(flow.parameters(), 0.03)
    for _ in range(150):
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimiser.step()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.04)
    assert float(loss) < entropy + 0.05


def test_planar_is_invertible_where_the_raw_direction_is_not():
    layer = Planar(2).double()
    with torch.no_grad():
        layer.raw.copy_(torch.tensor([-5.0, 0.0, 1.0, 0.0, 0.3]))  # w.v = -5, below -1
    x = torch.linspace(-3, 3, 41, dtype=DOUBLE).unsqueeze(1).repeat(1, 2)
    u, logabsdet = layer(x)
    assert torch.isfinite(logabsdet).all()
    back, _ = layer.inverse(u)
    assert torch.allclose(back, x, atol=1e-6)


def test_planar_as_a_posterior_samples_in_closed_form():
    flow = PlanarFlow(2, layers=2).double()
    turned = Inverse(flow.transform)
    u = torch.randn(5, 2, dtype=DOUBLE)
    x, logabsdet = turned.inverse(u)
    again, other = flow.transform(u)
    assert torch.equal(x, again)
    assert torch.equal(logabsdet, other)


@pytest.mark.parametrize(
    ("base", "reference"),
    [
        (StudentT(1, 4.0), torch.distributions.StudentT(torch.tensor(4.0, dtype=DOUBLE))),
        (Uniform(1, -1.0, 3.0), torch.distributions.Uniform(-1.0, 3.0, validate_args=False)),
    ],
)
def test_bases_against_torch(base, reference):
    x = torch.linspace(-5, 5, 32, dtype=DOUBLE)
    assert torch.allclose(base.double().log_prob(x.unsqueeze(1)), reference.log_prob(x).double(), atol=1e-7)


def test_the_logistic_base_is_the_derivative_of_the_sigmoid():
    x = torch.linspace(-30, 30, 61, dtype=DOUBLE)
    expected = torch.log(torch.sigmoid(x)) + torch.log(torch.sigmoid(-x))
    assert torch.allclose(Logistic(1).double().log_prob(x.unsqueeze(1)), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NICE(2, base="uniform"),
        lambda: MADE(2, conditional="gausian"),
        lambda: MADE(2, n_masks=0),
        lambda: AutoregressiveDensity(2, 0, "mixture", components=0),
        lambda: StudentT(2, 0.5),
        lambda: Uniform(2, 1.0, 1.0),
        lambda: PlanarFlow(2, layers=0),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ConfigError):
        make()


# -- monotone maps


@pytest.mark.parametrize(
    "elementwise", [SigmoidalElementwise(6), SquaresElementwise(3, 2)], ids=["naf", "sos"]
)
def test_monotone_maps_are_the_identity_at_zero_and_increase(elementwise):
    x = torch.linspace(-6, 6, 101, dtype=DOUBLE)
    u, logderivative = elementwise(x, torch.zeros(101, elementwise.n_params, dtype=DOUBLE))
    assert torch.allclose(u, x, atol=1e-4)
    assert torch.allclose(logderivative, torch.zeros_like(x), atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        params = torch.randn(elementwise.n_params, dtype=DOUBLE, generator=generator).expand(101, -1)
        u, logderivative = elementwise(x, params)
        assert (u.diff() > 0).all()
        assert torch.isfinite(logderivative).all()
        back, _ = elementwise.inverse(u, params)
        # Flat stretches lose digits by the inverse slope; the image is what must agree.
        assert torch.allclose(elementwise(back, params)[0], u, atol=1e-8)


def test_sigmoidal_tails_hold_in_float32():
    layer = SigmoidalElementwise(4)
    params = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)).expand(4, -1)
    x = torch.tensor([-300.0, -80.0, 80.0, 300.0])
    u, logderivative = layer(x, params)
    v, expected = layer(x.double(), params.double())
    assert torch.allclose(u.double(), v, rtol=1e-5)
    assert torch.allclose(logderivative.double(), expected, atol=1e-4)


def test_squares_push_a_gaussian_to_a_known_cubic():
    # u = x + x^3/3 has derivative 1 + x^2: two squares, 1 and x.
    layer = SquaresElementwise(2, 1)
    params = torch.zeros(9, layer.n_params, dtype=DOUBLE)
    params[:, 1 + 2 + 1] = 10 / 9  # second square: the coefficient of t, 1 after the soft bound
    x = torch.linspace(-3, 3, 9, dtype=DOUBLE)
    u, logderivative = layer(x, params)
    assert torch.allclose(u, x + x**3 / 3, atol=1e-5)
    assert torch.allclose(logderivative, torch.log(1 + x**2), atol=1e-5)
