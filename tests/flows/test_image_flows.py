"""Flows of images and of whole numbers: what the conformance table does not see."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from modeflow.densities import BoundedFlow, Flow, Logistic
from modeflow.errors import ConfigError, DataError
from modeflow.flows import (
    NSF,
    Dequantized,
    FlowPlusPlusImage,
    FunnelImage,
    Glow,
    MARPrior,
    NSFImage,
    RealNVPImage,
    build_flow,
)
from modeflow.metrics import bits_per_dim
from modeflow.optimisers import Adam
from modeflow.testing import perturb
from modeflow.transforms import ActNorm, Invertible1x1, LogisticMixtureElementwise, Rounding, Squeeze

DOUBLE = torch.float64


# -- layers


def test_actnorm_sets_itself_once_and_remembers_it_through_a_file():
    x = 3 * torch.randn(64, 3, 4, 4) + 5
    layer = ActNorm(3).train()
    u, logabsdet = layer(x)
    std, mean = torch.std_mean(u.detach().movedim(1, -1).reshape(-1, 3), 0)
    assert torch.allclose(mean, torch.zeros(3), atol=1e-5) and torch.allclose(std, torch.ones(3), atol=1e-5)
    assert float(logabsdet[0].detach()) == pytest.approx(16 * float(layer.log_scale.sum().detach()))
    again = ActNorm(3).train()
    again.load_state_dict(layer.state_dict())
    again(torch.randn(64, 3, 4, 4))
    assert torch.equal(again.bias, layer.bias)


def test_actnorm_is_not_set_by_evaluation_or_by_a_bad_batch():
    layer = ActNorm(2)
    layer.eval()(torch.randn(8, 2, 2, 2) + 7)
    layer.train()(torch.full((8, 2, 2, 2), math.nan))
    assert not bool(layer.initialised) and not layer.bias.any()
    x = torch.randn(8, 2, 2, 2)
    x[:, 0] = 4.0  # a constant channel is centred, not blown up
    layer(x)
    assert float(layer.log_scale[0].detach()) == 0 and torch.isfinite(layer(x)[0]).all()


def test_factorised_and_plain_1x1_convolutions_agree():
    plain = perturb(Invertible1x1(5, lu=False).double(), 0.5)
    factorised = Invertible1x1.from_plain(plain.weight)
    x = torch.randn(3, 5, 2, 3, dtype=DOUBLE)
    for a, b in zip(plain(x), factorised(x), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    expected = 6 * torch.linalg.slogdet(plain.weight).logabsdet
    assert torch.allclose(factorised(x)[1], expected.expand(3))
    with pytest.raises(ConfigError, match="invertible"):
        Invertible1x1.from_plain(torch.zeros(2, 2))


def test_one_logistic_is_an_affine_map():
    a, b = 0.7, -1.2
    elementwise = LogisticMixtureElementwise(1)
    x = torch.linspace(-40, 40, 81, dtype=DOUBLE)
    bounded = a / (1 - a / 5)  # the soft bound on a
    params = torch.tensor([0.0, 0.0, 0.0, bounded, b], dtype=DOUBLE).expand(81, 5)
    u, logderivative = elementwise(x, params)
    assert torch.allclose(u, x * math.exp(a) + b, atol=1e-12)
    assert torch.allclose(logderivative, torch.full_like(x, a), atol=1e-12)


def test_logistic_mixtures_hold_in_the_tails_in_single_precision():
    torch.manual_seed(1)
    elementwise = LogisticMixtureElementwise(4)
    params = torch.randn(200, elementwise.n_params)
    x = torch.linspace(-300, 300, 200)
    u, logderivative = elementwise(x, params)
    exact_u, exact = elementwise(x.double(), params.double())
    assert torch.allclose(u.double(), exact_u, rtol=1e-5, atol=1e-4)
    assert torch.allclose(logderivative.double(), exact, rtol=1e-4, atol=1e-3)
    assert float((elementwise.inverse(u, params)[0] - x).abs().max()) < 1e-2


# -- structure


def test_priors_over_channels_are_autoregressive():
    flow = perturb(MARPrior((1, 4, 4), levels=1, steps=1, hidden_channels=8, prior_channels=8).double())
    prior = flow.transform.priors[0]
    r = torch.randn(1, 4, 2, 2, dtype=DOUBLE, requires_grad=True)
    u, _ = prior(r, None, None)
    for i in range(4):
        (g,) = torch.autograd.grad(u[:, i].sum(), r, retain_graph=True)
        assert not g[:, i + 1 :].any()
        assert not (g[:, i] != 0).sum() > 4 and (i == 0 or g[:, :i].any())


def test_a_funnel_draws_only_what_it_dropped():
    flow = perturb(FunnelImage((1, 4, 4), levels=1, steps=1, hidden_channels=8).double(), 0.1).eval()
    assert flow.base.event_shape == (4,)
    u = torch.randn(6, 4, dtype=DOUBLE)
    one, two = (flow.transform.sample(u, None, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert not torch.allclose(one, two)
    for x in (one, two):
        assert torch.allclose(flow.transform(x)[0], u, atol=1e-9)


def test_temperature_shrinks_the_noise():
    flow = Glow((1, 4, 4), levels=1, steps=1, hidden_channels=8)
    still = flow.sample(3, temperature=0.0)
    assert torch.allclose(still, still[:1].expand(3, 1, 4, 4))
    draws = [flow.sample(2, None, torch.Generator().manual_seed(3), t) for t in (0.5, 1.0)]
    assert torch.allclose(2 * draws[0], draws[1], atol=1e-5)  # at the start the flow is linear
    with pytest.raises(ConfigError, match="temperature"):
        flow.sample(2, temperature=-1.0)


# -- images in a table


@pytest.mark.parametrize(
    "key", ["glow", "realnvp-image", "nsf-image", "marprior", "funnel-image", "flowpp-image"]
)
def test_a_row_is_an_image(key):
    flow = build_flow(key, 16)
    x = torch.randn(4, 16)
    assert flow.event_shape == (16,) and flow.log_prob(x).shape == (4,)
    assert flow.sample(3).shape == (3, 16)


def test_shapes_that_do_not_fit():
    assert build_flow("glow", 24, options={"shape": [2, 2, 6]}).event_shape == (24,)
    for features, shape, message in (
        (24, None, "flow of images"),
        (24, [1, 2, 2], "has 4 numbers, a row has 24"),
        (24, "2x2", "three positive integers"),
        (15, [1, 3, 5], "must be even"),
        (16, [4, 2, 2], None),
    ):
        if message is None:
            build_flow("glow", features, options={"shape": shape})
            continue
        with pytest.raises(ConfigError, match=message):
            build_flow("glow", features, options=None if shape is None else {"shape": shape})
    with pytest.raises(ConfigError, match="halved 2 times"):
        Glow((1, 4, 4), levels=3)
    with pytest.raises(ConfigError, match="divisible by 4"):
        FlowPlusPlusImage((1, 2, 2))


@pytest.mark.parametrize("recipe", [Glow, NSFImage, RealNVPImage, FunnelImage])
def test_layers_start_near_the_identity_in_law(recipe):
    """Standard images have a finite, sensible density before any training."""
    flow = recipe((1, 8, 8)).train()
    x = torch.randn(64, 1, 8, 8)
    nll = flow.objective(x).value / 64
    assert 1.2 < float(nll.detach()) < 2.2  # 1.42 nats is the entropy


def test_squeeze_puts_the_pixels_of_a_patch_side_by_side():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert Squeeze()(x)[0][0, :, 0, 0].tolist() == [0, 1, 4, 5]


# -- whole numbers


def bins_of(base: Flow, levels: int) -> list[float]:
    """log P(n) by quadrature of the base in n/L - 1/2."""

    def density(y: float) -> float:
        with torch.no_grad():
            return float(base.log_prob(torch.tensor([[y]], dtype=DOUBLE)).exp())

    edges = [n / levels - 0.5 for n in range(levels + 1)]
    return [math.log(quad(density, a, b, epsabs=1e-10)[0]) for a, b in pairwise(edges)]


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_dequantised_density_bounds_the_probability_of_a_level(kind):
    """One feature, four levels: exp of one draw is unbiased, its log is below. False alarm 1e-6 in all."""
    base = perturb(NSF(1, layers=1, hidden_features=8, bins=8).double(), 1.0).eval()
    model = perturb(Dequantized(base, 4, kind=kind, hidden=8, blocks=1, couplings=2).double(), 0.5)
    model.base.load_state_dict(base.state_dict())
    perturb(base, 0.0)
    truth = torch.tensor(bins_of(model.base, 4), dtype=DOUBLE)
    n = torch.arange(4, dtype=DOUBLE).repeat_interleave(20_000).unsqueeze(1)
    model.train()
    with torch.no_grad():
        draws = model.log_prob(n).view(4, -1)
    ratio = (draws - truth[:, None]).exp()
    error = ratio.std(1) / math.sqrt(20_000)
    assert ((ratio.mean(1) - 1).abs() < 5 * error).all() and (error < 0.02).all()
    assert (draws.mean(1) < truth).all()
    model.eval()
    with torch.no_grad():
        tighter = torch.stack([model.log_prob(torch.tensor([[float(k)]], dtype=DOUBLE))[0] for k in range(4)])
    assert (tighter - truth).abs().max() < (draws.mean(1) - truth).abs().max() + 0.1


def test_the_bound_is_tight_where_the_noise_follows_the_density():
    logistic = Logistic(1)

    class WithinBin(torch.nn.Module):
        """e given n: the standard logistic cut to [n, n + 1)."""

        exactness, bijective, context_features = "exact", True, 1

        def forward(self, e: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

        def inverse(self, u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
            low, high = torch.sigmoid(context), torch.sigmoid(context + 1)
            y = torch.logit(low + (high - low) * torch.sigmoid(u))
            log_slope = logistic.log_prob(u) + (high - low).squeeze(1).log() - logistic.log_prob(y)
            return y - context, log_slope

    noise = Flow(WithinBin(), logistic, 1)  # type: ignore[arg-type]
    model = BoundedFlow(Rounding(noise), Logistic(1), draws=1).double().eval()
    n = torch.arange(-4.0, 4.0, dtype=DOUBLE).unsqueeze(1)
    exact = (torch.sigmoid(n + 1) - torch.sigmoid(n)).log().squeeze(1)
    assert torch.allclose(model.log_prob(n), exact, atol=1e-6)


def test_variational_noise_of_an_image_sees_the_image():
    model = perturb(Dequantized(Glow((1, 4, 4), levels=1, steps=1), 8, kind="variational")).eval()
    a = torch.randint(0, 8, (2, 1, 4, 4)).float()
    b = (a + 1) % 8
    noise = model.transform.transforms[0].noise
    u = torch.randn(2, 16)
    given = [((x + 0.5) / 8 - 0.5).flatten(1) for x in (a, b)]
    e, f = (noise.transform.inverse(u, g)[0] for g in given)
    assert ((e > 0) & (e < 1)).all() and not torch.allclose(e, f)
    assert torch.equal(model.sample(5) % 1, torch.zeros(5, 1, 4, 4))
    assert float(model.sample(50).min()) >= 0 and float(model.sample(50).max()) <= 7


def test_fitting_the_noise_tightens_the_bound():
    """Digits: half an epoch's worth of steps must beat no fit, and bits per dimension are sane."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1)
    model = Dequantized(Glow((1, 8, 8), steps=2, hidden_channels=16), 17, kind="variational", blocks=1)
    optimiser = Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        batch = images[torch.randint(len(images), (32,), generator=generator)]
        optimiser.zero_grad()
        model.objective(batch).value.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        bits = bits_per_dim(float(model.log_prob(images[:200]).mean()), 64)
    assert bits < math.log2(17) - 0.5  # the uniform model takes log2(17) = 4.09


def test_dequantised_input_is_checked():
    model = Dequantized(Glow((1, 4, 4), levels=1, steps=1), 8)
    with pytest.raises(DataError, match="whole numbers"):
        model.log_prob(torch.rand(2, 1, 4, 4))
    with pytest.raises(DataError, match="from 0 to 7, received 8 to 8"):
        model.log_prob(torch.full((2, 1, 4, 4), 8.0))
    for wrong in ({"levels": 1}, {"levels": 8, "kind": "soft"}, {"levels": 8, "couplings": 0}):
        with pytest.raises(ConfigError):
            Dequantized(Glow((1, 4, 4), levels=1, steps=1), **wrong)
    assert model.exactness == "lower bound"


@pytest.mark.parametrize("context_in", ["all", "priors"])
def test_a_context_that_is_an_image_acts_by_place(context_in):
    options = {"levels": 1, "steps": 1, "hidden_channels": 8, "context_shape": (2, 2, 2)}
    flow = perturb(Glow((1, 4, 4), 8, context_in=context_in, **options), 0.3).eval()
    context, u = torch.randn(1, 8), torch.zeros(1, 16)
    other = context.view(1, 2, 2, 2).clone()
    other[..., 0, 0] += 1.0
    with torch.no_grad():
        a, b = (flow.transform.inverse(u, c.view(1, 8))[0] for c in (context, other))
        far, _ = flow.transform.inverse(u, context.roll(4, 1))
    assert not torch.equal(a, b) and not torch.equal(a, far)
    with pytest.raises(ConfigError, match="context_features is 8"):
        Glow((1, 4, 4), 8, context_shape=(3, 2, 2))
