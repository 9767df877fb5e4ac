"""Posteriors that are a point: the density of a VAE's networks by change of variables, and what it is of."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from modeflow import NVF, ImageDensity, load_estimator
from modeflow.cli.main import main
from modeflow.errors import ConfigError
from modeflow.latents import POSTERIORS, cores
from modeflow.models import VAE, ContinuousNVF
from modeflow.testing import perturb

DOUBLE = torch.float64
NAMES = [name for name, kind in POSTERIORS.items() if kind.point]


def model(name: str, features: int = 4, latent: int = 2, dtype: torch.dtype = DOUBLE, **options):
    """Far from its start, with a core that is not the first entries."""
    torch.manual_seed(0)
    nets = {"encoder_features": (8,), "decoder_features": (8,)}
    made = perturb(VAE(features, latent, posterior=name, **{**nets, **options}), 0.3, seed=3).to(dtype).eval()
    made.encoder.core.copy_(torch.arange(features - 1, features - 1 - latent, -1))
    return made


def rows(n: int, features: int = 4, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(dtype)


@pytest.mark.parametrize("scale", ["shared", "predicted", 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_change_of_variables(name, scale):
    """x -> (z, deviation of the shell) is a bijection: its Jacobian by autograd."""
    made, x = model(name, scale=scale), rows(3)

    def noise(row: Tensor) -> Tensor:
        z = made.infer(row.unsqueeze(0))
        mean, spread = made.likelihood.parameters_at(z)
        deviation = ((row - mean[0]) / spread[0])[: 4 - 2]  # the core is the last two
        return torch.cat([z[0], deviation])

    for row in x:
        jacobian = torch.autograd.functional.jacobian(noise, row)
        e = noise(row)
        expected = -0.5 * e @ e - 2 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
        assert abs(float(made.log_prob(row.unsqueeze(0)) - expected)) < 1e-10
    single = model(name, scale=scale, dtype=torch.float32)
    assert torch.allclose(single.log_prob(x.float()).double(), made.log_prob(x), atol=1e-4)
    loss = made.objective(x)
    assert abs(float(loss.value + made.log_prob(x).mean())) < 1e-10  # trained by the density itself
    assert made.exactness == "exact" and made.n_draws == 1


@pytest.mark.parametrize("prior", ["normal", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mass_is_one(name, prior):
    made = model(name, 2, 1, prior=prior, scale="predicted")
    side = torch.linspace(-25, 25, 1001, dtype=DOUBLE)
    with torch.no_grad():
        mass = made.log_prob(torch.cartesian_prod(side, side)).exp().sum() * (side[1] - side[0]) ** 2
    assert abs(float(mass) - 1) < 1e-2


def test_of_linear_networks_it_is_a_gaussian():
    """z = b s + a c + m and s = W z + noise: the joint Gaussian of c and s, in closed form."""
    made = VAE(3, 1, posterior="aef", encoder_features=(), decoder_features=(), scale=0.6).double().eval()
    made.encoder.core.fill_(1)
    with torch.no_grad():
        for p in made.encoder.net.parameters():
            p.zero_()
        weight, bias = made.encoder.net.final.weight, made.encoder.net.final.bias
        weight[0] = torch.tensor([0.5, 9.0, -0.8])  # of c it is shown nothing, whatever its weight
        bias.copy_(torch.tensor([0.3, 0.4]))  # shift, log-scale
        w = made.likelihood.net.final.weight.copy_(torch.tensor([[1.2], [7.0], [-0.4]]))[[0, 2]]
        made.likelihood.net.final.bias.zero_()
    a = torch.exp(0.4 / (1 + torch.tensor(0.4 / math.log(1e3), dtype=DOUBLE)))
    b = torch.tensor([[0.5, -0.8]], dtype=DOUBLE)
    # (z, noise) -> s = w z + noise, c = (z - 0.3 - b s) / a
    of_s = torch.cat([w, 0.6 * torch.eye(2, dtype=DOUBLE)], 1)
    of_c = (torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE) - b @ of_s) / a
    full = torch.cat([of_s[:1], of_c, of_s[1:]])
    truth = MultivariateNormal(torch.tensor([0.0, float(-0.3 / a), 0.0], dtype=DOUBLE), full @ full.T)
    x = rows(50, 3)
    assert torch.allclose(made.log_prob(x), truth.log_prob(x), atol=1e-10)
    drawn = made.sample(30_000, generator=torch.Generator().manual_seed(0))
    # Nine numbers beyond five deviations: a false alarm in two hundred thousand.
    error = 5 * truth.covariance_matrix.diagonal().max() * math.sqrt(2 / 30_000)
    assert ((torch.cov(drawn.T) - truth.covariance_matrix).abs() < error).all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_z_that_they_were_drawn_with(name):
    made = model(name)
    z, _ = made.draw(20, torch.Generator().manual_seed(1))
    x = made.decode(z, 20, torch.Generator().manual_seed(2))
    assert torch.allclose(made.infer(x), z, atol=1e-8)
    mean, spread = made.read_spread(x)
    assert torch.equal(mean, made.infer(x)) and float(spread.abs().max()) == 0
    assert made.blend(x, x.flip(0), 0.5).shape == (20, 2) and made.latent_cost(x).shape == (20,)
    assert "mutual_information" not in made.measure(x)["continuous"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_of_whole_numbers_the_mass_is_one(name, likelihood, monkeypatch):
    """The mean weight over the noise is the probability: by quadrature over it, summed over all events."""
    if likelihood == "bernoulli":
        made, levels = model(name, 3, 1, likelihood="bernoulli"), 2
    else:
        torch.manual_seed(0)
        sizes = {"levels": 3, "halvings": 0, "encoder_channels": 4, "decoder_channels": 4}
        made, levels = perturb(VAE((1, 1, 3), 1, posterior=name, **sizes), 0.2, seed=3).double().eval(), 3
    with torch.no_grad():  # a wide map, so that noise reaches all of z
        list(made.encoder.net.parameters())[-1][-1] = 1.0
    assert made.exactness == "lower bound" and made.n_draws == 16
    y = torch.linspace(-8, 8, 4001, dtype=DOUBLE)
    share = levels * torch.special.ndtr(y)
    core, width = (
        share.floor(),
        levels * torch.exp(-0.5 * y.square()) / math.sqrt(2 * math.pi) * (y[1] - y[0]),
    )
    monkeypatch.setattr(cores, "uniform_noise", lambda like: (share - core).unsqueeze(1))
    total, at = 0.0, int(made.encoder.core)
    for shell in itertools.product(range(levels), repeat=2):
        others = [torch.full_like(y, float(n)) for n in shell]
        x = torch.stack([*others[:at], core, *others[at:]], 1).view(len(y), *made.event_shape)
        with torch.no_grad():
            weights = made.log_weights_of(x, made.approximate_posterior(x), 1)[:, 0].exp()
        total += float((weights * width).sum())
    assert abs(total - 1) < 2e-3
    monkeypatch.undo()
    drawn = made.sample(30, generator=torch.Generator().manual_seed(0))
    assert made.log_prob(drawn).isfinite().all()
    assert torch.allclose(made.log_prob(drawn)[3:5], made.log_prob(drawn[3:5]))  # its noise is the row's own


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()]


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_its_networks_are_those_of_a_vae(prior):
    for features, options in ((5, {}), ((1, 8, 8), {"levels": 17})):
        vae, aef, funnel = (
            VAE(features, 2, posterior=name, prior=prior, **options) for name in ("gaussian", *NAMES)
        )
        assert shapes(aef) == shapes(vae)
        assert shapes(funnel.likelihood) == shapes(vae.likelihood)
        assert shapes(funnel.prior) == shapes(vae.prior)
        assert shapes(funnel.encoder)[:-2] == shapes(vae.encoder)[:-2]  # but for its outputs


def test_the_core_is_of_the_pivots():
    x = torch.from_numpy(load_digits().data[:300])
    chosen = cores.pivots(x, 10)
    _, _, order = scipy.linalg.qr((x - x.mean(0)).numpy(), mode="economic", pivoting=True)
    assert chosen.tolist() == order[:10].tolist()
    assert sorted(cores.pivots(torch.ones(5, 4), 3).tolist()) == [0, 1, 2]
    images = x.view(300, 1, 8, 8).float()
    made = VAE((1, 8, 8), 10, posterior="aef", levels=17)
    made.start(images, 0)
    assert made.encoder.core.tolist() == cores.pivots(x, 10).tolist()
    twin = VAE((1, 8, 8), 10, posterior="aef", levels=17)
    twin.load_state_dict(made.state_dict())
    assert torch.equal(twin.encoder.core, made.encoder.core)


CODED = {"latent": "continuous", "likelihood": "gaussian"}


@pytest.mark.parametrize("name", NAMES)
def test_in_the_place_of_a_vae(name, tmp_path, capsys):
    x = rows(120, 3, torch.float32).numpy()
    small = {"posterior": name, "features": 1, "encoder_features": (8,)}
    fitted = NVF(latent_options=small, max_epochs=2, random_state=0, **CODED).fit(x)
    assert fitted.latent_.loss.kl_warmup_steps == 0
    again = load_estimator(fitted.save(tmp_path / "m.safetensors"))
    assert (again.score_samples(x) == fitted.score_samples(x)).all()
    assert fitted.encode(x).shape == (120, 1)
    np.savetxt(tmp_path / "t.csv", x, delimiter=",", header="a,b,c", comments="")
    options = [f"latent_options.posterior={name}", "latent_options.features=1", "max_epochs=2"]
    given = [each for option in options for each in ("--set", option)]
    assert main(["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "run"), "--model", "vae", *given]) == 0
    assert "exact" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run")]) == 0
    images = load_digits().images[:60, :, :, None]
    options = {"posterior": name, "features": 3, "encoder_channels": 8, "draws": 2}
    pixels = ImageDensity(
        "continuous", "logistic", levels=17, latent_options=options, max_epochs=1, batch_size=30
    )
    assert pixels.fit(images).sample(2)[0].shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VAE(3, 3, posterior="aef"), "features must be below 3"),
        (lambda: VAE(3, 1, posterior="funnel", gradient="stl"), "no use for gradient"),
        (lambda: VAE(3, 1, posterior="aef", objective="wake"), "cannot move"),
        (lambda: VAE(3, 1, posterior="aef", refine_steps=3), "no use for refine_steps"),
        (lambda: VAE(3, 1, posterior="aef", langevin_steps=3), "no use for langevin_steps"),
        (lambda: VAE(3, 1, posterior="aef", free_bits=0.1), "free_bits"),
        (lambda: VAE(3, 1, posterior="aef", prior="vamp"), "VampPrior"),
        (lambda: ContinuousNVF(3, 1, posterior="aef"), "needs a likelihood whose entries are independent"),
        (lambda: model("aef").joint_log_prob(rows(2), torch.zeros(2, 2, dtype=DOUBLE)), "no density of both"),
        (lambda: model("aef").approximate_posterior(rows(2)).log_prob(torch.zeros(2, 2)), "no density"),
    ],
)
def test_what_it_has_no_use_for(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
