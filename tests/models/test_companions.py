"""Companion systems: each by its exact check, and parts that mix."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from modeflow.densities import BernoulliDecoder, Flow, GaussianDecoder, GaussianMixtureBase, StandardNormal
from modeflow.errors import ConfigError, DataError
from modeflow.latents import LaplacePosterior, build_posterior
from modeflow.models import (
    LAE,
    LIDVAE,
    VAE,
    VLAE,
    VQVAE,
    VQVAE2,
    ContinuousNVF,
    DiffusionBridgeVQVAE,
    DiscreteVAE,
    FlowVAE,
)
from modeflow.nets import MLP
from modeflow.nets.brenier import BrenierMap, ConvexGradient
from modeflow.testing import perturb

DOUBLE = torch.float64
D = 3


def rows(n: int = 6, d: int = D, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(dtype)


def slopes(f, z: Tensor) -> Tensor:
    """The Jacobian at every row, ``(B, D, L)``."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        columns = f(z).sum(0).unbind()
        return torch.stack([torch.autograd.grad(c, z, retain_graph=True)[0] for c in columns], 1).detach()


def bits(n: int, shape: tuple[int, ...] = (4,)) -> Tensor:
    return torch.randint(0, 2, (n, *shape), generator=torch.Generator().manual_seed(1)).to(DOUBLE)


# -- likelihoods ------------------------------------------------------------------------------------


def test_a_bernoulli_is_a_probability_of_every_row():
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * 4)
    for decoder, context in [
        (BernoulliDecoder(MLP(2, 4, (8,)), (4,), 2), torch.randn(1, 2, dtype=DOUBLE)),
        (BernoulliDecoder(None, (4,), 0), None),
    ]:
        perturb(decoder, 0.5, seed=1).double()
        at = None if context is None else context.expand(16, -1)
        assert abs(float(decoder.log_prob(every, at).exp().sum()) - 1) < 1e-12
        n = 8000
        wide = None if context is None else context.expand(n, -1)
        drawn = decoder.draw_events(n, wide, torch.Generator().manual_seed(0))
        p = torch.sigmoid(decoder.predictor(context))[0]
        # Four scores of a normal below five: a false alarm in 400,000.
        assert ((drawn.mean(0) - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()
        assert torch.equal(
            decoder.draw_events(2, None if wide is None else wide[:2], None, 0.0)[0], (p > 0.5).double()
        )
    with pytest.raises(DataError, match="zeros and ones"):
        decoder.log_prob(torch.full((1, 4), 0.5, dtype=DOUBLE))


@pytest.mark.parametrize("kind", ["gaussian", "fixed", "bernoulli", "brenier"])
def test_derivatives_by_the_predictor(kind):
    decoder, x = {
        "gaussian": lambda: (GaussianDecoder(4, 2, (8,)), rows(5, 4)),
        "fixed": lambda: (GaussianDecoder(4, 2, (8,), scale=0.3), rows(5, 4)),
        "brenier": lambda: (GaussianDecoder(4, 2, net=BrenierMap(2, 4, (8,))), rows(5, 4)),
        "bernoulli": lambda: (BernoulliDecoder(MLP(2, 4, (8,)), (4,), 2), bits(5)),
    }[kind]()
    decoder = perturb(decoder, 0.3, seed=3).double()
    z, step = rows(5, 2), 1e-4
    eta, (first, second) = decoder.predictor(z), decoder.derivatives(x, decoder.predictor(z))

    def at(shift: Tensor) -> Tensor:
        decoder.predictor = lambda context: eta + shift
        decoder.net.forward = lambda context: eta + shift
        return decoder._log_prob(x, z)

    for j in range(4):
        e = torch.zeros(4, dtype=DOUBLE)
        e[j] = step
        above, here, below = at(e), at(0 * e), at(-e)
        assert torch.allclose((above - below) / (2 * step), first[:, j], rtol=1e-5, atol=1e-6)
        assert torch.allclose(-(above - 2 * here + below) / step**2, second[:, j], rtol=1e-3, atol=1e-4)


# -- VLAE ---------------------------------------------------------------------------------------------


def linear(latent: int = 2, scale: float | str = 0.7) -> GaussianDecoder:
    return perturb(GaussianDecoder(D, latent, (), scale=scale), 0.5, seed=4).double()


def exact(decoder: GaussianDecoder, x: Tensor) -> Tensor:
    w = decoder.net.final.weight
    scale = decoder.parameters_at(torch.zeros(1, w.shape[1], dtype=DOUBLE))[1][0]
    covariance = w @ w.T + torch.diag(scale.square())
    return torch.distributions.MultivariateNormal(decoder.net.final.bias, covariance).log_prob(x)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("scale", [0.7, "shared"])
def test_of_a_linear_decoder_the_bound_of_vlae_is_the_density(scale, steps):
    model = VLAE(D, 2, draws=1, decoder_features=()).double()
    model.likelihood = linear(scale=scale)
    model.encoder.steps = steps
    x = rows()
    assert (model.elbo(x) - exact(model.likelihood, x)).abs().max() < 1e-10
    assert (model.log_prob(x) - exact(model.likelihood, x)).abs().max() < 1e-10


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "brenier"])
def test_the_search_never_loses_and_ends_where_nothing_is_to_gain(likelihood):
    model = perturb(VLAE(4, 2, likelihood=likelihood, decoder_features=(16,)), 0.4, seed=5).double()
    x = bits(40) if likelihood == "bernoulli" else rows(40, 4)
    decoder, prior, q_of = model.likelihood, model.prior, model.encoder
    values = []
    for steps in range(9):
        q_of.steps = steps
        mode = q_of.approximate(x, decoder, prior).location
        values.append(decoder.log_prob(x, mode) + prior.log_prob(mode))
    gains = torch.stack(values).diff(dim=0)
    assert (gains >= 0).all() and (gains[0] > 1e-6).all()
    if likelihood == "brenier":  # smooth: the mode is a point without slope
        q_of.steps = 60
        mode = q_of.approximate(x, decoder, prior).location.detach().requires_grad_()
        (slope,) = torch.autograd.grad((decoder.log_prob(x, mode) + prior.log_prob(mode)).sum(), mode)
        assert slope.abs().max() < 1e-5


def test_the_jacobian_and_the_precision_are_those_of_autograd():
    model = perturb(VLAE(4, 2, likelihood="bernoulli", decoder_features=(16,)), 0.4, seed=5).double()
    x = bits(5)
    q = model.approximate_posterior(x)
    for b in range(5):
        w = torch.autograd.functional.jacobian(model.likelihood.net, q.location[b])
        p = torch.sigmoid(model.likelihood.net(q.location[b]))
        expected = w.T @ torch.diag(p * (1 - p)) @ w + torch.eye(2, dtype=DOUBLE)
        assert torch.allclose(q.factor[b] @ q.factor[b].T, expected, atol=1e-10)
        assert (torch.linalg.eigvalsh(expected) >= 1).all()
    model.objective(x).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_gaussian_at_the_mode_bounds_closer_than_a_free_one():
    """At the same decoder: the best diagonal Gaussian of a linear one misses by its correlations."""
    decoder, x = linear(), rows(200)
    q = LaplacePosterior(2, lambda n: MLP(D, n, (8,))).double().approximate(x, decoder, StandardNormal(2))
    precision = (q.factor @ q.factor.mT)[0]
    gap = 0.5 * (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    assert gap > 0.05 and q.kl(StandardNormal(2)).shape == (200, 1)


# -- LIDVAE -------------------------------------------------------------------------------------------


def test_gradients_of_convex_functions_are_symmetric_and_increase():
    g = perturb(ConvexGradient(4, (16, 8, 8)), 0.5, seed=6).double()
    y = rows(30, 4)
    jacobian = slopes(g, y)
    assert torch.allclose(jacobian, jacobian.mT, atol=1e-12)
    assert (torch.linalg.eigvalsh(jacobian) >= float(g.strength) - 1e-12).all()
    a, b = 3 * rows(200, 4), 3 * rows(200, 4).flip(0)
    assert (((g(a) - g(b)) * (a - b)).sum(1) >= float(g.strength) * (a - b).square().sum(1) - 1e-12).all()


def test_the_map_of_z_is_one_to_one_and_can_be_undone():
    f = perturb(BrenierMap(2, 5, (16, 16)), 0.5, seed=7).double()
    z = 2 * rows(20, 2)
    x = f(z)
    assert torch.pdist(x).min() > 1e-3 and torch.linalg.matrix_rank(slopes(f, z)).min() == 2

    def undo(g: ConvexGradient, value: Tensor) -> Tensor:
        y = torch.zeros_like(value)
        for _ in range(25):  # damped Newton on a convex function
            step = torch.linalg.solve(slopes(g, y), value - g(y))
            share = torch.ones(len(y), 1, dtype=DOUBLE)
            for _ in range(8):
                worse = (g(y + share * step) - value).norm(dim=1) > (g(y) - value).norm(dim=1)
                share = torch.where(worse.unsqueeze(1), share / 2, share)
            y = y + share * step
        return y

    with torch.no_grad():
        inner = undo(f.second, x)
        assert inner[:, 2:].abs().max() < 1e-8
        assert torch.allclose(undo(f.first, inner[:, :2]), z, atol=1e-8)
    with pytest.raises(ConfigError, match="at most 2"):
        LIDVAE(2, 3)


def test_where_a_decoder_ignores_z_its_posterior_is_the_prior_and_of_lidvae_it_is_not():
    """By quadrature over z in one dimension: p(z|x) of a VAE that has collapsed, and of any LIDVAE."""
    z = torch.linspace(-8, 8, 2001, dtype=DOUBLE).unsqueeze(1)

    def divergence(model, x: Tensor) -> float:
        log_joint = model.likelihood.log_prob(x.expand(len(z), -1), z) + model.prior.log_prob(z)
        log_p = log_joint - torch.logsumexp(log_joint, 0)
        log_prior = torch.log_softmax(model.prior.log_prob(z), 0)
        return float((log_p.exp() * (log_p - log_prior)).sum())

    torch.manual_seed(0)
    collapsed, identified = VAE(D, 1).double(), LIDVAE(D, 1).double()
    with torch.no_grad():
        collapsed.likelihood.net.hidden[0].weight.zero_()
    x = rows(1)
    assert divergence(collapsed, x) < 1e-10 and divergence(identified, x) > 1e-2


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_lidvae_has_a_gaussian_or_a_mixture_of_them_for_its_prior(prior):
    model = LIDVAE(D, 2, prior=prior, draws=2)
    assert isinstance(model.prior, StandardNormal if prior == "normal" else GaussianMixtureBase)
    model.objective(rows(8, dtype=torch.float32)).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# -- parts that mix -------------------------------------------------------------------------------------

MIXED = {
    "an IAF posterior with a flow likelihood": lambda: ContinuousNVF(D, 2, posterior="iaf"),
    "a flow prior with NVF": lambda: ContinuousNVF(D, 2, prior="flow"),
    "a flow prior with a planar posterior and a VAE": lambda: FlowVAE(D, 2, posterior="planar", prior="flow"),
    "a diffusion bridge for the prior of a VAE": lambda: VAE(D, 2, prior="diffusion-bridge"),
    "Langevin steps after an IAF posterior": lambda: FlowVAE(D, 2, langevin_steps=2),
    "chains from an encoder with a flow prior": lambda: LAE(D, 2, prior="flow"),
    "a mixture prior with a VAE": lambda: VAE(D, 2, prior="mixture"),
    "a prior of posteriors by a flow": lambda: FlowVAE(D, 2, posterior="planar", prior="vamp"),
    "a prior of posteriors with NVF": lambda: ContinuousNVF(D, 2, prior="vamp"),
    "a sphere with a flow likelihood": lambda: ContinuousNVF(D, 3, posterior="vmf"),
    "a Laplace posterior with Brenier maps": lambda: VLAE(D, 2, likelihood="brenier"),
    "predicted scales": lambda: VAE(D, 2, scale="predicted", min_scale=0.1),
}


@pytest.mark.parametrize("what", MIXED)
def test_parts_mix_in_one_line(what):
    torch.manual_seed(0)
    model, x = MIXED[what](), rows(8, dtype=torch.float32)
    model.objective(x).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert model.log_prob(x).isfinite().all() and model.sample(3).shape == (3, D)
    with torch.no_grad():
        assert model.iwae(x, 32).mean() > model.elbo(x, 32).mean()


def test_the_bound_with_another_prior_reaches_the_density():
    """A mixture prior and a linear decoder: a mixture of Gaussians, in closed form; IWAE from below."""
    model = VAE(D, 1, prior="mixture", scale=0.8, decoder_features=(), posterior="gaussian").double()
    perturb(model, 0.3, seed=8)
    w, b = model.likelihood.net.final.weight, model.likelihood.net.final.bias
    prior, x = model.prior, rows(50)
    parts = []
    for k in range(prior.components):
        covariance = w @ w.T * prior.log_scale[k].exp() ** 2 + 0.64 * torch.eye(D, dtype=DOUBLE)
        normal = torch.distributions.MultivariateNormal(w[:, 0] * prior.mean[k] + b, covariance)
        parts.append(torch.log_softmax(prior.logits, 0)[k] + normal.log_prob(x))
    truth = torch.logsumexp(torch.stack(parts), 0)
    with torch.no_grad():
        means = [float((model.iwae(x, s) - truth).mean()) for s in (1, 16, 256)]
    assert means[0] < means[1] < means[2] < 0.01 and means[2] > -0.05


# -- recipes ----------------------------------------------------------------------------------------------


def test_a_discrete_vae_is_an_exact_sum():
    torch.manual_seed(0)
    for options in ({}, {"objective": "elbo"}, {"objective": "marginal"}):
        model = perturb(DiscreteVAE(D, 3, **options), 0.3, seed=1).double().eval()
        x = rows()
        joint = [
            model.likelihood.log_prob(x, one.expand(len(x), -1)) + model.prior.log_probs()[k]
            for k, one in enumerate(torch.eye(3, dtype=DOUBLE))
        ]
        assert torch.allclose(model.log_prob(x), torch.logsumexp(torch.stack(joint), 0), atol=1e-12)
        assert model.exactness == "exact"
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * 4)
    model = perturb(DiscreteVAE(4, 3, likelihood="bernoulli"), 0.3, seed=1).double().eval()
    assert abs(float(model.log_prob(every).exp().sum()) - 1) < 1e-12


def test_codes_of_rows_have_probabilities_that_sum_to_one_and_a_bound_that_grows():
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    model = VQVAE(D, 2, n_codes=3, code_features=2)
    x = rows(40, dtype=torch.float32)
    model.train().objective(x).value.backward()
    model = perturb(model, 0.2, seed=2).double().eval()
    strings = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    assert abs(float(model.prior.log_prob(strings).exp().sum()) - 1) < 1e-12
    x = x.double()
    bounds = torch.stack([model.top_k(x, s) for s in (1, 3, 9)])
    assert (bounds.diff(dim=0) >= -1e-12).all()
    whole = torch.stack(
        [
            model.likelihood.log_prob(x, model._context(z.expand(len(x), -1))) + model.prior.log_prob(z[None])
            for z in strings
        ]
    )
    assert torch.allclose(bounds[-1], torch.logsumexp(whole, 0), atol=1e-10)
    assert model.sample(5).shape == (5, D) and model.describe().words == "3 codes, 2 a row"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(D, 0), "latent_features must be an integer of 1 or more"),
        (lambda: VAE(D, 2, scale=-1.0), "number above 0"),
        (lambda: VAE(D, 2, scale="sharde"), "'shared', 'predicted' or a number"),
        (lambda: VAE(D, 2, likelihood="bernouli"), "did you mean 'bernoulli'"),
        (lambda: VAE(D, 2, likelihood="bernoulli", scale=0.2), "no use for scale"),
        (lambda: VAE(D, 2, posterio="iaf"), "did you mean 'posterior'"),
        (lambda: VAE(D, 2, prior="gaussian"), "prior must be 'normal'"),
        (lambda: VLAE(D, 2, scale="predicted"), "mean alone"),
        (lambda: VLAE(D, 2, prior="flow"), "prior='normal'"),
        (lambda: FlowVAE(D, 2, posterior="gaussian"), "posterior must be 'iaf'"),
        (lambda: LIDVAE((1, 8, 8), 2), "of tables"),
        (lambda: VAE((1, 8)), "of images, \\(channels, height, width\\); received \\(1, 8\\)"),
        (lambda: VAE((1, 8, 8), 2, levels=17, likelihood="bernoulli"), "two levels"),
        (lambda: VLAE((1, 8, 8), 2, likelihood="logistic", levels=4), "mean alone"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_images_by_their_shape():
    images = bits(3, (1, 8, 8)).float()
    small = {"levels": 2, "halvings": 1, "encoder_channels": 4, "decoder_channels": 4}
    for model in (
        VAE((1, 8, 8), 2, **small),
        VLAE((1, 8, 8), 2, **small),
        DiscreteVAE((1, 8, 8), 3, **small),
    ):
        assert isinstance(model.likelihood, BernoulliDecoder)
        assert model.log_prob(images).isfinite().all() and model.sample(2).shape == (2, 1, 8, 8)
    assert model.exactness == "exact"
    assert isinstance(ContinuousNVF(D, 2).likelihood, Flow)


def test_the_masked_prior_of_codes_draws_what_it_says():
    from modeflow.densities import MaskedCodes

    prior = perturb(MaskedCodes(3, 2, 8), 0.5, seed=1)
    drawn = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
    counts = np.bincount((drawn[:, 0] * 3 + drawn[:, 1]).numpy(), minlength=9) / 20_000
    strings = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    p = prior.log_prob(strings).exp().detach().numpy()
    # Nine scores of a normal below five: a false alarm in 190,000.
    assert (np.abs(counts - p) < 5 * np.sqrt(p * (1 - p) / 20_000)).all()
    assert math.isclose(p.sum(), 1, rel_tol=1e-5)
    assert build_posterior("iaf", 2, D).closed_kl is False


def test_a_diffusion_bridge_over_codes_is_fitted_with_encoder_and_decoder_and_bounds_their_sum():
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    bridge = {"steps": 4, "hidden_features": 8, "blocks": 1, "draws": 4}
    model = DiffusionBridgeVQVAE(D, 2, n_codes=3, code_features=2, prior_options=bridge)
    x = rows(40, dtype=torch.float32)
    loss = model.train().objective(x)
    assert set(loss.terms) == {"nll", "commitment", "code_length"}
    # What codes cost reaches the encoder, which the codes are straight through of.
    e = model.embed(x)
    quantised, codes, _ = model.quantizer(e, False, False)
    model.prior.lengths(codes, quantised, torch.zeros(())).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.encoder.parameters())
    loss.value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model = perturb(model, 0.2, seed=2).double().eval()
    x = x.double()
    bounds = torch.stack([model.top_k(x, s) for s in (1, 3, 9)])
    assert (bounds.diff(dim=0) >= -1e-12).all()
    strings = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    whole = [
        model.likelihood.log_prob(x, model._context(z.expand(len(x), -1))) + model.prior.log_prob(z[None])
        for z in strings
    ]
    assert torch.allclose(bounds[-1], torch.logsumexp(torch.stack(whole), 0), atol=1e-10)
    assert model.exactness == "lower bound" and model.sample(5).shape == (5, D)
    # The prior's codes are the quantiser's, wherever the model is copied to.
    twin = copy.deepcopy(model)
    twin.quantizer.vq.codebook = twin.quantizer.codebook + 1
    assert torch.equal(twin.prior.noise.codebook, model.prior.noise.codebook + 1)
    small = {"levels": 4, "halvings": 1, "encoder_channels": 4, "decoder_channels": 4, "components": 1}
    of_maps = DiffusionBridgeVQVAE((1, 4, 4), n_codes=2, prior_options=bridge, **small)
    images = torch.randint(0, 4, (12, 1, 4, 4)).float()
    of_maps.train().objective(images).value.backward()
    assert of_maps.eval().log_prob(images).isfinite().all() and of_maps.sample(2).shape == (2, 1, 4, 4)
    with pytest.raises(ConfigError, match="one map of codes"):
        VQVAE2((1, 8, 8), 2, prior="diffusion-bridge", **small)


def test_two_maps_of_codes_have_one_prior_and_a_bound_that_grows_to_the_sum():
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    small = {"levels": 4, "halvings": 1, "encoder_channels": 4, "decoder_channels": 4, "components": 1}
    model = VQVAE2((1, 4, 4), 2, n_codes=2, prior="masked", prior_options={"hidden_features": 8}, **small)
    x = torch.randint(0, 4, (12, 1, 4, 4)).float()
    model.train().objective(x).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model = perturb(model, 0.3, seed=2).double().eval()
    strings = torch.cartesian_prod(*[torch.arange(2)] * 5)  # one code above, four below
    assert abs(float(model.prior.log_prob(strings).exp().sum()) - 1) < 1e-12
    log_p = model.prior.log_probs(strings)
    assert torch.allclose(log_p[:, 0], log_p[:1, 0].expand(32, -1))
    assert (log_p[:16, 1] - log_p[16:, 1]).abs().max() > 1e-3  # of the lower map, by the upper one's code
    x = x.double()
    bounds = torch.stack([model.top_k(x, s) for s in (1, 4, 32)])
    assert (bounds.diff(dim=0) >= -1e-12).all()
    whole = [
        model.likelihood.log_prob(x, model._context(z.expand(len(x), -1))) + model.prior.log_prob(z[None])
        for z in strings
    ]
    assert torch.allclose(bounds[-1], torch.logsumexp(torch.stack(whole), 0), atol=1e-10)
    # Both codebooks move what is drawn, and the upper code tells the encoder what to say below.
    context = model._context(strings)
    assert len(context.unique(dim=0)) == 32 and model.sample(3).shape == (3, 1, 4, 4)
    said = model.embed(x)[:, 1:]
    model.quantizer.upper.vq.codebook = model.quantizer.upper.codebook.flip(0) + 1
    assert (model.embed(x)[:, 1:] - said).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="of images"):
        VQVAE2(D)
