"""AEF, bases and dense sigmoidal maps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from modeflow.densities import Flow, GaussianMixtureBase, ResampledBase, StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows import AEF, CIF, TAN, Funnel, NoisyAEF
from modeflow.testing import perturb
from modeflow.transforms import AffineElementwise, Composite, Coupling, DenseSigmoidalElementwise

DOUBLE = torch.float64


class Affine(nn.Module):
    """Shifts linear in the input, log-scales constant."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.shift = nn.Linear(inputs, outputs // 2)
        self.scale = nn.Parameter(0.3 * torch.randn(outputs // 2))

    def forward(self, x, context=None):
        shift = self.shift(x)
        return torch.stack((shift, self.scale.expand_as(shift)), -1).flatten(1)


def code(core: torch.Tensor) -> Composite:
    """Encoder and decoder of an AEF without its flows."""

    def net(inputs, outputs, context):
        return Affine(inputs, outputs)

    return Composite([Coupling(~core, AffineElementwise(), net), Coupling(core, AffineElementwise(), net)])


def test_a_linear_gaussian_aef_is_the_exact_gaussian():
    torch.manual_seed(0)
    layers = code(torch.tensor([True, False, False])).double()
    zero = torch.zeros(1, 3, dtype=DOUBLE)
    matrix = torch.autograd.functional.jacobian(lambda x: layers(x)[0][0], zero)[:, 0]
    inverse = torch.linalg.inv(matrix)
    mean = -inverse @ layers(zero)[0][0].detach()
    exact = torch.distributions.MultivariateNormal(mean, inverse @ inverse.mT)
    x = torch.randn(30, 3, dtype=DOUBLE)
    log_prob = Flow(layers, StandardNormal(3)).double().log_prob(x)
    assert torch.allclose(log_prob, exact.log_prob(x), atol=1e-10)


class Undone(nn.Module):
    """An encoder that takes the measurement back: μ = -e^s w(x), so that every code is zero."""

    def __init__(self, log_scale, weight):
        super().__init__()
        self.log_scale, self.weight = log_scale, weight

    def forward(self, x, context=None):
        s = torch.full((len(x), 1), self.log_scale, dtype=x.dtype)
        raw = s / (1 - s / math.log(1e3))
        return torch.stack((-s.exp() * (x @ self.weight), raw), -1).flatten(1)


def test_the_linear_aef_without_noise_is_unbounded_and_with_noise_it_is_not():
    """log p(w, x) at w = W x grows with the encoder's scale; minus log q(w | x) it stays below log p(x)."""
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=DOUBLE)
    weight = torch.tensor([[1.0], [0.5]], dtype=DOUBLE)
    exact = float(StandardNormal(2).double().log_prob(x).mean())
    unsafe, safe = [], []
    for log_scale in (0.0, 2.0, 4.0):
        encoder = Coupling(
            torch.tensor([True, True, False]),
            AffineElementwise(),
            lambda i, o, c, s=log_scale: Undone(s, weight),
        )
        joint = Flow(encoder, StandardNormal(3)).double()
        clean = torch.cat((x, x @ weight), 1)
        unsafe.append(float(joint.log_prob(clean).mean()))
        e = torch.randn(200, 1, dtype=DOUBLE)
        noisy = torch.cat((x, x @ weight + 0.1 * e), 1)
        log_q = torch.distributions.Normal(0.0, 0.1).log_prob(0.1 * e).squeeze(1)
        safe.append(float((joint.log_prob(noisy) - log_q).mean()))
    assert unsafe[1] - unsafe[0] == pytest.approx(2.0, abs=1e-6)
    assert unsafe[2] - unsafe[1] == pytest.approx(2.0, abs=1e-6)
    assert unsafe[2] > exact + 2
    assert max(safe) < exact


def test_zero_parameters_and_one_unit_are_the_identity():
    x = torch.linspace(-8, 8, 41, dtype=DOUBLE)
    for units, depth in ((1, 2), (4, 2), (3, 4)):
        kind = DenseSigmoidalElementwise(units, depth)
        u, logderivative = kind(x, torch.zeros(41, kind.n_params, dtype=DOUBLE))
        assert torch.allclose(u, x, atol=1e-12)
        assert logderivative.abs().max() < 1e-12


def test_dense_sigmoidal_tails_hold_in_float32():
    kind = DenseSigmoidalElementwise(4)
    params = torch.randn(200, kind.n_params, dtype=DOUBLE)
    x = torch.linspace(-60, 60, 200, dtype=DOUBLE)
    u, s = kind(x.float(), params.float())
    expected, expected_s = kind(x, params)
    assert torch.isfinite(u).all()
    assert ((u - expected).abs() / (1 + expected.abs())).max() < 1e-4
    assert (s - expected_s).abs().max() < 1e-3


def test_a_resampled_base_against_quadrature():
    base = perturb(ResampledBase(1, truncation=4, hidden_features=(8,)), 2.0).double().eval()

    def acceptance(z):
        with torch.no_grad():
            return float(base.log_acceptance(torch.tensor([[z]], dtype=DOUBLE)).exp())

    def normal(z):
        return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

    total = quad(lambda z: normal(z) * acceptance(z), -10, 10, epsabs=1e-10)[0]
    alpha = (1 - total) ** 3
    for z in (-2.0, -0.3, 0.0, 1.5):
        expected = (1 - alpha) * acceptance(z) * normal(z) / total + alpha * normal(z)
        log_prob = float(base.log_prob(torch.tensor([[z]], dtype=DOUBLE)).detach())
        assert log_prob == pytest.approx(math.log(expected), abs=1e-6)
    assert 0.05 < total < 0.95
    assert ResampledBase(2).exactness == "exact"
    assert ResampledBase(3).exactness == "estimate"


def test_a_mixture_base_against_torch():
    base = perturb(GaussianMixtureBase(3, 4), 0.5).double()
    parts = torch.distributions.Independent(
        torch.distributions.Normal(base.mean.detach(), base.log_scale.detach().exp()), 1
    )
    weights = torch.distributions.Categorical(logits=base.logits.detach())
    exact = torch.distributions.MixtureSameFamily(weights, parts)
    x = torch.randn(50, 3, dtype=DOUBLE)
    assert torch.allclose(base.log_prob(x), exact.log_prob(x), atol=1e-12)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: AEF(3, latent=4), r"latent must be an integer from 1 to features \(3\)"),
        (lambda: NoisyAEF(3, noise=0.0), "noise must lie between"),
        (lambda: NoisyAEF(3, kl_warmup_steps=-1), "kl_warmup_steps must be an integer of 0 or more"),
        (lambda: CIF(3, index_features=0), "index_features must be an integer"),
        (lambda: CIF(3, draws=0), "draws must be an integer"),
        (lambda: TAN(3, conditional="gru"), "conditional must be 'ram' or 'lam'"),
        (lambda: Funnel(3, latent=0), "latent must be an integer from 1"),
        (lambda: Funnel(3, kind="cnn"), "kind must be 'nsf' or 'mlp'"),
        (lambda: ResampledBase(3, truncation=1), "truncation must be an integer of 2"),
        (lambda: GaussianMixtureBase(3, 0), "components must be 1"),
        (lambda: DenseSigmoidalElementwise(0), "units must be 1"),
    ],
)
def test_what_is_not_allowed_is_named(build, says):
    with pytest.raises(ConfigError, match=says):
        build()


def test_a_code_costs_less_in_the_first_steps():
    """The loss is the bound with β on what the code costs: the bound itself at the end, linear in between."""
    torch.manual_seed(0)
    flow = perturb(NoisyAEF(3, layers=1, hidden_features=8, bins=3, kl_warmup_steps=10), 0.2).double().train()
    x, weight = torch.randn(50, 3, dtype=DOUBLE), torch.linspace(0.5, 1.5, 50, dtype=DOUBLE)

    def loss(step):
        torch.manual_seed(1)
        return flow.objective(x, weight, step)

    torch.manual_seed(1)
    whole = -(weight * flow.log_prob(x)).mean()
    assert torch.allclose(loss(None).value, whole) and torch.allclose(loss(9).value, whole)
    values = [loss(step).value for step in (0, 4, 8, 9)]  # β = 0.1, 0.5, 0.9, 1
    assert torch.allclose((values[1] - values[0]) / 4, values[3] - values[2])
    assert all(torch.allclose(loss(step).terms["nll"], whole) for step in (0, 4, 9))
    # What the code costs is KL(q(z | x) || N(0, I)) by its draws: of a code that says something, not zero.
    assert float(values[3] - values[2]) * 10 > 0.5
