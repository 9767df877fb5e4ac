"""The grid of likelihoods and latents on the embedded digits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeflow.densities import DiscretizedDecoder
from modeflow.errors import ConfigError
from modeflow.latents import DiscreteLatentModel, ImageStates
from modeflow.training import TrainConfig, Trainer
from small_images import LATENT, small_images

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

from modeflow.models import ImageModel, ImageNVF, ImageVAE

GRID = [
    (lat, lik)
    for lat in ("none", "continuous", "discrete", "sequential")
    for lik in ("flow", "logistic", "gaussian")
]


def digits(n=200):
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images[:n, None].astype(np.float32))


small = small_images


@pytest.mark.parametrize(("latent", "likelihood"), GRID)
def test_every_likelihood_goes_with_every_latent(latent, likelihood):
    x = digits()
    model = small(latent, likelihood)
    before = float(model.eval().log_prob(x[:50]).mean().detach())
    trainer = Trainer(TrainConfig(max_epochs=3, batch_size=50, learning_rate=3e-3, patience=None), quiet=True)
    trainer.fit(model, x)
    with torch.no_grad():
        score = model.log_prob(x[:50])
        assert torch.isfinite(score).all() and float(score.mean()) > before
        assert (score < 0).all()  # of a probability
        cost = model.latent_cost(x[:50])
        assert cost.shape == (50,) and (cost >= 0).all() and (latent == "none") == bool((cost == 0).all())
        back = model.reconstruct(x[:5])
        assert back.shape == (5, 1, 8, 8) and torch.equal(back, back.round())
        assert back.min() >= 0 and back.max() <= 16
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(drawn, drawn.round()) and drawn.min() >= 0 and drawn.max() <= 16
    exact = likelihood != "flow" and latent in ("none", "discrete")
    assert model.exactness == ("exact" if exact else "lower bound")


def test_an_exact_model_of_images_sums_to_one():
    """Two states, two pixels of three levels: all nine images."""
    torch.manual_seed(0)
    model = ImageModel(
        (1, 1, 2), levels=3, latent="discrete", likelihood="logistic", halvings=0,
        latent_options={"n_states": 2, "encoder_channels": 8}, likelihood_options={"decoder_channels": 8},
    ).double().eval()  # fmt: skip
    images = torch.tensor([[a, b] for a in range(3) for b in range(3)], dtype=torch.float64).view(9, 1, 1, 2)
    total = model.log_prob(images).exp().sum()
    assert abs(float(total.detach()) - 1) < 1e-12


@pytest.mark.parametrize("context_in", ["all", "priors"])
def test_the_bound_of_codes_pays_for_them_and_grows_with_their_number(context_in):
    x = digits()
    model = small("sequential", "flow", likelihood_options={"context_in": context_in})
    trainer = Trainer(TrainConfig(max_epochs=3, batch_size=50, learning_rate=3e-3), quiet=True)
    history = trainer.fit(model, x)
    assert history.steps == 12 and {"nll", "commitment", "code_length"} <= set(history.epochs[-1])
    with torch.no_grad():
        score = model.log_prob(x[:20])
        assert (model.top_k(x[:20], 8) >= score - 1e-4).all()
        length = model.code_length(x[:20])
        assert (length > 0).all() and length.mean() < 2 * model.prior.uniform_nats
        given = model.likelihood.log_prob(x[:20], model.infer(x[:20]))
        torch.testing.assert_close(score, given - length)


def test_codes_of_the_whole_image():
    model = small("sequential", "flow", {"codes_per_image": 3})
    x = digits(60)
    Trainer(TrainConfig(max_epochs=1, batch_size=20), quiet=True).fit(model, x)
    assert model.codes(x).shape == (60, 3)
    assert torch.isfinite(model.log_prob(x)).all()


def test_the_encoder_learns_what_codes_cost():
    """With a prior that makes one code cheap, the pressure of the code length moves the encoder to it."""
    x = digits(64)
    model = small("sequential", "logistic", {"prior": "independent", "prior_options": None}).train()
    model.objective(x)  # the codes start at what the encoder gives
    with torch.no_grad():
        model.prior.logits[:, 1] = 8.0
    encoder = list(model.encoder.parameters())
    loss = model.objective(x)
    gradients = torch.autograd.grad(loss.value, encoder, allow_unused=True)
    step = 1e-3
    with torch.no_grad():
        log_p = model.prior.log_probs(model.codes(x))

        def expected():
            return float(
                -(model.quantizer.log_approximate_posterior(model.embed(x)).exp() * log_p).sum((1, 2)).mean()
            )

        before = expected()
    pressure = -(model.quantizer.log_approximate_posterior(model.embed(x)).exp() * log_p).sum((1, 2)).mean()
    for p, g in zip(encoder, torch.autograd.grad(pressure, encoder), strict=True):
        with torch.no_grad():
            p.sub_(step * g)
    assert expected() < before
    model.schedule = replace(model.schedule, code_warmup_steps=10)
    unpressed = torch.autograd.grad(model.objective(x, step=0).value, encoder, allow_unused=True)
    assert any(
        g is not None and u is not None and not torch.allclose(g, u)
        for g, u in zip(gradients, unpressed, strict=True)
    )


def test_a_flow_starts_from_the_likelihood_of_its_first_layer():
    x = digits()
    model = small("sequential", "flow", likelihood_options={"start_steps": 5}).train()
    start = model.starting_likelihood()
    assert isinstance(start, DiscretizedDecoder)
    torch.manual_seed(1)
    first = model.objective(x[:50], step=0)
    glow = model.likelihood.base
    first.value.backward()
    assert all(p.grad is None or not p.grad.any() for p in glow.parameters())
    assert any(p.grad is not None and p.grad.any() for p in start.parameters())
    model.zero_grad()
    model.objective(x[:50], step=5).value.backward()
    assert any(p.grad is not None and p.grad.any() for p in glow.parameters())
    assert small("none", "flow").starting_likelihood() is None


OTHER_FLOWS = {
    "nsf-image": {"levels": 1, "steps": 1, "hidden_channels": 8, "blocks": 1},
    "marprior": {"levels": 1, "steps": 1, "hidden_channels": 8, "prior_channels": 8},
    "realnvp-image": {"levels": 1, "hidden_channels": 8, "blocks": 1},
    "funnel-image": {"levels": 1, "steps": 1, "hidden_channels": 8, "blocks": 1},
    "flowpp-image": {"couplings": (1, 1, 1), "components": 2, "hidden_channels": 8, "blocks": 1, "heads": 2},
}


@pytest.mark.parametrize("flow", OTHER_FLOWS)
@pytest.mark.parametrize("latent", ["none", "sequential", "discrete"])
def test_any_flow_of_images_can_be_the_likelihood(flow, latent):
    x = digits(40)
    model = small(latent, "flow", flow=flow, flow_options=OTHER_FLOWS[flow])
    Trainer(TrainConfig(max_epochs=1, batch_size=20, patience=None), quiet=True).fit(model, x)
    with torch.no_grad():
        assert torch.isfinite(model.log_prob(x)).all()
        assert model.sample(2).shape == (2, 1, 8, 8)


def test_variational_dequantisation_and_more_draws_tighten_the_bound():
    x = digits(60)
    model = small("sequential", "flow", likelihood_options={"dequantisation": "variational", "draws": 2})
    Trainer(TrainConfig(max_epochs=2, batch_size=20, patience=None), quiet=True).fit(model, x)
    with torch.no_grad():
        few = model.log_prob(x).mean()
        model.likelihood.draws = 16
        many = model.log_prob(x).mean()
    assert torch.isfinite(few) and many > few


def test_no_latent_is_the_flow_alone():
    model = small("none", "flow")
    assert isinstance(model, DiscreteLatentModel) and model.n_states == 1
    x = digits(10)
    torch.testing.assert_close(model.eval().log_prob(x), model.likelihood.log_prob(x))


def test_the_information_of_a_discrete_latent_is_what_remains_of_its_cost():
    """E KL(q || p) - KL(mean q || p) is I(x; z), by both of its definitions (Prop. 3 drops it)."""
    x = digits(100)
    model = small("discrete", "logistic").double().eval()
    joint = model.log_joint(x.double()).detach()
    q = torch.softmax(joint, 1)
    p = model.prior.log_probs().detach()
    mean = q.mean(0)
    cost = model.latent_cost(x.double()).detach().mean()
    information = (q * (q.log() - mean.log())).sum(1).mean()
    torch.testing.assert_close(cost - (mean * (mean.log() - p)).sum(), information)


def test_sizes_and_names_that_do_not_fit():
    with pytest.raises(ConfigError, match="halved 2 times"):
        ImageNVF((1, 6, 6), halvings=2)
    with pytest.raises(ConfigError, match="prior must be"):
        ImageNVF((1, 8, 8), latent_options={"prior": "lstm"})
    with pytest.raises(ConfigError, match="did you mean 'sequential'"):
        ImageModel((1, 8, 8), latent="sequentail")
    with pytest.raises(ConfigError, match="context_in"):
        ImageNVF((1, 8, 8), likelihood_options={"context_in": "couplings"})
    with pytest.raises(ConfigError, match="one of vectors; for images there are glow, nsf-image"):
        ImageNVF((1, 8, 8), flow="maf")
    with pytest.raises(ConfigError, match="no flow"):
        ImageVAE((1, 8, 8), likelihood="flow")
    with pytest.raises(ConfigError, match=r"latent_options: 'n_state' is not known; did you mean 'n_states'"):
        ImageVAE((1, 8, 8), latent="discrete", latent_options={"n_state": 3})
    with pytest.raises(ConfigError, match="received ImageStates"):
        ImageNVF((1, 8, 8), latent_options=ImageStates())
    with pytest.raises(ConfigError, match=r"'objective' is not known \(options: none\)"):
        ImageModel((1, 8, 8), latent="none", latent_options={"objective": "elbo"})
    vae = ImageVAE((1, 8, 8), latent="sequential", latent_options=LATENT["sequential"])
    assert math.isclose(vae.prior.uniform_nats, 4 * math.log(4))


@pytest.mark.parametrize("latent", ["none", "continuous", "discrete", "sequential"])
def test_training_in_bf16_improves_what_is_scored_in_float32(latent):
    x = digits()
    model = small(latent, "flow")
    before = float(model.eval().log_prob(x[:50]).mean().detach())
    config = TrainConfig(
        max_epochs=3, batch_size=50, learning_rate=3e-3, precision="bf16-mixed", patience=None
    )
    Trainer(config, quiet=True).fit(model, x)
    score = model.log_prob(x[:50]).detach()
    assert score.dtype == torch.float32 and torch.isfinite(score).all() and float(score.mean()) > before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("latent", "likelihood"), GRID)
def test_a_gpu_gives_the_numbers_of_the_processor(latent, likelihood):
    """float32, and after a step of training in bf16 there: the same log-probabilities to 1e-4."""
    x = digits(64)
    model = small(latent, likelihood).train()
    model.objective(x)  # data-dependent starts
    config = TrainConfig(max_epochs=1, batch_size=32, device="cuda", precision="bf16-mixed", patience=None)
    Trainer(config, quiet=True).fit(model, x)
    model.eval()
    with torch.no_grad():
        here = model.log_prob(x)
        there = model.cuda().log_prob(x.cuda()).cpu()
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
