"""The prior that is made of the model's own posterior at pseudo-inputs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from modeflow.densities import GaussianDecoder
from modeflow.errors import ConfigError
from modeflow.latents import (
    ContinuousLatentModel,
    Refinement,
    VampPrior,
    build_posterior,
    build_prior,
)
from modeflow.latents.posteriors import DiagonalGaussian
from modeflow.models import LAE, SVAE, VAE, VLAE
from modeflow.testing import perturb
from modeflow.training import flatten
from modeflow.training.state import copy_state
from modeflow.transforms.noise import row_noise

DOUBLE = torch.float64
D, L = 3, 2


def rows(n: int = 6, dtype: torch.dtype = DOUBLE, seed: int = 2) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def model_of(posterior: str = "gaussian", inputs: int = 4, **options) -> ContinuousLatentModel:
    torch.manual_seed(0)
    made = VAE(
        D, L, prior="vamp", posterior=posterior, pseudo_inputs=inputs, encoder_features=(8,),
        decoder_features=(8,), **options,
    )  # fmt: skip
    return perturb(made, 0.4, seed=1).double().eval()


def nearest(some: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """How far the nearest of the rows is, and which it is."""
    mode = "donot_use_mm_for_euclid_dist"  # which is exact at zero
    found = torch.cdist(some.flatten(1), rows.to(some).flatten(1), compute_mode=mode).min(1)
    return found.values, found.indices


def mixture(model: ContinuousLatentModel) -> torch.distributions.Distribution:
    """The prior by torch, of a Gaussian posterior."""
    q = model.encoder(model.prior.pseudo_inputs)
    if hasattr(q, "factor"):
        parts = torch.distributions.MultivariateNormal(q.location, scale_tril=q.factor)
    else:
        parts = torch.distributions.Independent(torch.distributions.Normal(q.location, q.log_scale.exp()), 1)
    which = torch.distributions.Categorical(torch.ones(len(q.location), dtype=q.location.dtype))
    return torch.distributions.MixtureSameFamily(which, parts)


@pytest.mark.parametrize("posterior", ["gaussian", "full-gaussian"])
def test_the_density_is_the_mixture_of_posteriors_and_so_is_its_gradient(posterior):
    model, z = model_of(posterior), 2 * rows(50)[:, :L]
    found, expected = model.prior.log_prob(z), mixture(model).log_prob(z)
    assert (found - expected).abs().max() < 1e-12
    parameters = [model.prior.inputs, *model.encoder.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-10) and (ours != 0).any()
    single = copy.deepcopy(model).float()
    assert torch.allclose(single.prior.log_prob(z.float()).double(), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("posterior", ["iaf", "nsf", "planar"])
def test_posteriors_by_a_flow_are_mixed_too(posterior):
    model = model_of(posterior)
    q = model.encoder(model.prior.pseudo_inputs)
    z = (rows(5)[:, :L] if posterior == "iaf" else q.rsample_and_log_prob()[0]).detach()
    each = [
        torch.stack([model.encoder(u[None]).log_prob(one[None])[0] for u in model.prior.pseudo_inputs])
        for one in z
    ]
    expected = torch.logsumexp(torch.stack(each), 1) - math.log(4)
    assert (model.prior.log_prob(z) - expected).abs().max() < 1e-9


def test_draws_have_the_moments_of_the_mixture():
    model, n = model_of("full-gaussian"), 20_000
    z = model.prior.sample(n, generator=torch.Generator().manual_seed(0))
    q = model.encoder(model.prior.pseudo_inputs)
    mean = q.location.mean(0)
    apart = q.location - mean
    covariance = (q.factor @ q.factor.mT).mean(0) + apart.T @ apart / len(apart)
    # Five scores of about a normal below five: a false alarm in 300,000.
    assert ((z.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    centred = z - mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()
    # At zero temperature each is the middle of a posterior, all of them as often.
    cold = model.prior.sample(4000, generator=torch.Generator().manual_seed(0), temperature=0.0)
    distance, which = nearest(cold, q.location)
    counts = torch.bincount(which, minlength=4)
    assert distance.max() < 1e-12 and ((counts - 1000).abs() < 5 * math.sqrt(750)).all()


def test_of_all_rows_it_is_the_aggregate_posterior():
    """What z costs under it is the mutual information of z and x, of the same draws."""
    x = rows(40)
    model = model_of(inputs=len(x))
    with torch.no_grad():
        model.prior.set_inputs(x)
        z = rows(7, seed=5)[:, :L]
        aggregate = torch.stack([model.encoder(x).log_prob(one.expand(len(x), L)) for one in z])
        assert (
            model.prior.log_prob(z) - (torch.logsumexp(aggregate, 1) - math.log(len(x)))
        ).abs().max() < 1e-12
        weights = model.log_weights(x, 4).mean(1)  # log p(x|z) + log p(z) - log q(z|x), by four draws
        nll = []
        for draw in range(4):
            with row_noise(x, draw, model):
                nll.append(model.likelihood_log_prob(x, model.encoder(x).rsample_and_log_prob()[0]))
    information = model.measure(x)["continuous"]["mutual_information"]
    assert abs(float((torch.stack(nll).mean(0) - weights).mean()) - information) < 1e-10
    assert 0.1 < information < math.log(len(x))


def test_the_encoder_is_held_once_and_goes_with_its_model():
    model = model_of()
    names = list(model.state_dict())
    assert [n for n in names if n.startswith("prior.")] == ["prior.inputs"]
    assert len(list(model.parameters())) == len(names)
    z = rows(5)[:, :L]
    before = model.prior.log_prob(z)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.add_(0.3)
    assert torch.equal(model.prior.log_prob(z), before)
    assert (twin.prior.log_prob(z) - mixture(twin).log_prob(z)).abs().max() < 1e-12
    assert (twin.prior.log_prob(z) - before).abs().max() > 1e-3
    fresh = VAE(D, L, prior="vamp", pseudo_inputs=4, encoder_features=(8,), decoder_features=(8,)).double()
    fresh.load_state_dict(copy_state(model))
    assert torch.equal(fresh.eval().log_prob(rows()), model.log_prob(rows()))
    assert torch.equal(fresh.prior.log_prob(z), before)


def test_it_is_trained_in_flat_buffers_from_rows_of_the_data():
    x = rows(60, torch.float32)
    torch.manual_seed(0)
    model = VAE(D, L, prior="vamp", pseudo_inputs=20, encoder_features=(8,), decoder_features=(8,))
    model.start(x, 0, 5)
    started = model.prior.pseudo_inputs.detach()
    distance, which = nearest(started, x)
    assert distance.max() < 1e-5 and len(which.unique()) == 20
    with flatten(model) as flat:
        optimizer, losses = flat.adam(1e-2), []
        for _ in range(60):
            flat.zero_grad()
            loss = model.objective(x).value
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert ((model.prior.pseudo_inputs - started).abs().amax(1) > 1e-3).all()
    # Fewer rows than pseudo-inputs: every row is there as often as another, or once more.
    model.start(x[:8], 0, 0)
    counts = nearest(model.prior.pseudo_inputs, x[:8])[1].bincount()
    assert sorted(counts.tolist()) == [2] * 4 + [3] * 4


def test_the_doubly_reparametrised_gradient_is_the_same_on_average():
    """The encoder climbs through the prior too, however its gradient by draws is estimated."""
    x, means, errors = rows(4, seed=3).repeat(50, 1), [], []
    for gradient in ("total", "dreg"):
        model = model_of(objective="iwae", gradient=gradient, train_draws=2).train()
        torch.manual_seed(1)
        many = []
        for _ in range(40):
            parameters = [model.prior.inputs, *model.encoder.parameters()]
            found = torch.autograd.grad(model.objective(x).value, parameters)
            many.append(torch.cat([each.flatten() for each in found]))
        means.append(torch.stack(many).mean(0))
        errors.append(torch.stack(many).var(0) / len(many))
    scores = (means[0] - means[1]).abs() / (errors[0] + errors[1]).sqrt().clamp_min(1e-12)
    # About 80 scores of t with 78 degrees of freedom below five: a false alarm in 3,000.
    assert scores.max() < 5 and (means[0].abs() > 10 * errors[0].sqrt()).any()


def test_images_start_at_images():
    small = {"levels": 4, "halvings": 1, "encoder_channels": 4, "decoder_channels": 4}
    model = VAE((1, 8, 8), 2, prior="vamp", pseudo_inputs=5, draws=2, **small)
    assert model.prior.pseudo_inputs.shape == (5, 1, 8, 8) and model.prior.inputs.abs().max() <= 3
    images = torch.randint(0, 4, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    model.start(images, 0)
    distance, which = nearest(model.prior.pseudo_inputs, images)
    assert distance.max() < 1e-4 and len(which.unique()) == 5
    model.train().objective(images.float()).value.backward()
    assert (model.prior.inputs.grad.abs().amax((1, 2, 3)) > 0).all()
    assert model.eval().log_prob(images.float()).isfinite().all() and model.sample(3).shape == (3, 1, 8, 8)


class Means(nn.Module):
    def forward(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(x[:, :L], x[:, :L] * 0)


def test_any_network_is_an_encoder_of_it():
    network, decoder = Means(), GaussianDecoder(D, L, (8,))
    prior = VampPrior(network, rows(4, torch.float32), features=L)
    model = ContinuousLatentModel(prior, decoder, network, refinement=Refinement(2)).eval()
    assert model.log_prob(rows(5, torch.float32)).isfinite().all()
    assert model.measure(rows(20, torch.float32))["continuous"]["kl"] > 0


OTHER = build_posterior("gaussian", L, D)

REFUSED = {
    "another encoder": (
        lambda: ContinuousLatentModel(
            VampPrior(OTHER, rows(4)), GaussianDecoder(D, L, (8,)), build_posterior("gaussian", L, D)
        ),
        "give both the same one",
    ),
    "no encoder": (lambda: build_prior("vamp", L), "give build_prior the encoder and the inputs"),
    "no width": (lambda: VampPrior(Means(), rows(4)), "give features="),
    "no inputs": (lambda: VampPrior(OTHER, rows(0)), "1 or more"),
    "no unit": (lambda: VampPrior(OTHER, rows(4), unit=0.0), "unit must be above 0"),
    "none": (lambda: VAE(D, L, prior="vamp", pseudo_inputs=0), "pseudo_inputs must be an integer of 1"),
    "of another prior": (lambda: VAE(D, L, pseudo_inputs=3), "pseudo_inputs are of prior='vamp'"),
    "laplace": (lambda: VLAE(D, L, prior="vamp"), "by the encoder alone, which posterior='laplace'"),
    "chains": (lambda: LAE(D, L, prior="vamp"), "by the encoder alone"),
    "sphere": (lambda: SVAE(D, 3, prior="vamp"), "on the sphere"),
    "wake": (lambda: VAE(D, L, prior="vamp", objective="wake"), "take objective='elbo'"),
    "free bits": (lambda: VAE(D, L, prior="vamp", free_bits=0.1), "free_bits are of"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(what):
    make, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
