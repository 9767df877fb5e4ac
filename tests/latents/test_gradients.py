"""Gradients of every objective by finite differences, in float64.

What an objective holds constant (a posterior that is a target, the hard sample of a straight-through
estimator) it holds at the parameters of the moment. Each test therefore writes the loss down once more, term
by term, with those parts frozen, and compares central differences of that with the gradient of the objective:
a term that is missing, doubled, or of the wrong sign shows, and so does one whose gradient reaches too far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from modeflow.densities import StandardNormal
from modeflow.flows import NSF, Dequantized, Glow
from modeflow.latents import (
    ContinuousELBO,
    ContinuousLatentModel,
    GaussianPosterior,
    GumbelELBO,
    Marginal,
    Schedule,
    SummedELBO,
    Truncated,
)
from modeflow.nets import MLP
from modeflow.testing import perturb
from small_images import small_images
from small_models import DOUBLE, model, rows
from small_trees import CODE, REAL, holed_model, rows_of

#: Steps of the differences. Networks and splines have kinks: a step that crosses one says nothing, a smaller
#: one then does; a gradient that is wrong agrees with none.
STEPS = (1e-5, 1e-6, 1e-7)


def check(module: nn.Module, value: Tensor, surrogate: Callable[[], Tensor], tolerance: float = 1e-5) -> None:
    """The gradient of `value` is that of `surrogate`, by central differences in random directions.

    One direction moves all parameters; one more for each part moves that alone, so that no part hides behind
    another.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    gradients = dict(zip(named, found, strict=True))
    generator = torch.Generator().manual_seed(11)
    groups: dict[str, list[str]] = {"all": list(named)}
    for name in named:
        groups.setdefault(name.partition(".")[0], []).append(name)
    for group, names in groups.items():
        directions = {n: torch.randn(named[n].shape, generator=generator, dtype=DOUBLE) for n in names}
        got = sum(float((gradients[n] * directions[n]).sum()) for n in names if gradients[n] is not None)
        tried = [_difference(named, directions, surrogate, step) for step in STEPS[:1]]
        while abs(got - tried[-1]) > tolerance * (1 + abs(got)):
            assert len(tried) < len(STEPS), f"{group}: gradient {got}, differences {tried}"
            tried.append(_difference(named, directions, surrogate, STEPS[len(tried)]))


@torch.no_grad()
def _difference(
    named: dict[str, nn.Parameter], along: dict[str, Tensor], value: Callable[[], Tensor], step: float
) -> float:
    """The derivative of a value in a direction; the parameters are put back as they were."""
    before = {name: named[name].clone() for name in along}
    ends = []
    for sign in (1, -1):
        for name, direction in along.items():
            named[name].copy_(before[name] + sign * step * direction)
        ends.append(float(value()))
    for name, kept in before.items():
        named[name].copy_(kept)
    return (ends[0] - ends[1]) / (2 * step)


def weights(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(4), dtype=DOUBLE) + 0.5


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (weight * values).mean()


# -- discrete


def frozen(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def log_pi(m) -> Tensor:
    return torch.log_softmax(m.prior.logits, 0)


def log_q(m, x: Tensor) -> Tensor:
    return torch.log_softmax(m.encoder.net(x), 1)


def log_likelihoods(m, x: Tensor) -> Tensor:
    eye = torch.eye(m.n_states, dtype=DOUBLE)
    return torch.stack([m.likelihood.log_prob(x, row) for row in eye], 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_marginal(weighted):
    m, x = model(), rows()
    w = weights(len(x)) if weighted else None
    target = frozen(torch.softmax(log_pi(m) + log_likelihoods(m, x), 1))

    def surrogate():
        nll = -torch.logsumexp(log_pi(m) + log_likelihoods(m, x), 1)
        return mean(nll + (target * (target.log() - log_q(m, x))).sum(1), w)

    loss = Marginal()(m, x, w, None)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


@pytest.mark.parametrize("weighted", [False, True])
def test_truncated(weighted):
    m, x = model(), rows()
    w = weights(len(x)) if weighted else None
    keep = frozen(log_q(m, x)) > math.log(0.125)  # a half of a fair share, which is less than epsilon
    assert 1.2 < keep.sum(1).double().mean() < 3.6

    def kept():
        return (log_pi(m) + log_likelihoods(m, x)).masked_fill(~keep, -math.inf)

    target = frozen(torch.softmax(kept(), 1))

    def surrogate():
        pull = torch.where(keep, target * (target.clamp_min(1e-300).log() - log_q(m, x)), 0.0).sum(1)
        return mean(pull - torch.logsumexp(kept(), 1), w)

    loss = Truncated(epsilon=0.2, explore=0.0)(m, x, w, None)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


@pytest.mark.parametrize("weighted", [False, True])
def test_states_are_held_at_first(weighted):
    """The encoder stays as it is; flow and prior are fitted to its states."""
    m, x = model(), rows()
    w = weights(len(x)) if weighted else None
    q = frozen(log_q(m, x).exp())
    assert q.min() > 0.01  # below this a state would be left out

    def surrogate():
        return mean(-(q * (log_pi(m) + log_likelihoods(m, x))).sum(1), w)

    loss = Truncated(epsilon=0.01, hold_steps=5)(m, x, w, 4)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)
    after = Truncated(epsilon=0.0, hold_steps=5)(m, x, w, 5).value
    assert torch.allclose(after, Marginal()(m, x, w, None).value)


@pytest.mark.parametrize("step", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_summed_elbo(weighted, step):
    m, x = model(), rows()
    w = weights(len(x)) if weighted else None
    beta = 1.0 if step is None else 0.4

    def surrogate():
        q = log_q(m, x)
        kl = (q.exp() * (q - log_pi(m))).sum(1)
        return mean(-(q.exp() * log_likelihoods(m, x)).sum(1) + beta * kl, w)

    loss = SummedELBO(kl_warmup_steps=10)(m, x, w, step)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


@pytest.mark.parametrize("weighted", [False, True])
def test_gumbel_elbo_with_its_noise_held(weighted, monkeypatch):
    m, x = model(), rows()
    w = weights(len(x)) if weighted else None
    # What the softmax of the relaxed sample is given tells the noise.
    given = []
    softmax = torch.softmax

    def spy(values, *args, **options):
        given.append(values.detach().clone())
        return softmax(values, *args, **options)

    monkeypatch.setattr(torch, "softmax", spy)
    loss = GumbelELBO(temperature=0.7, kl_warmup_steps=10)(m, x, w, 4)
    monkeypatch.undo()
    (relaxed,) = [g for g in given if g.shape == (len(x), m.n_states)]
    noise = 0.7 * relaxed - frozen(log_q(m, x))
    start = torch.softmax(relaxed, 1)
    hard = torch.nn.functional.one_hot(start.argmax(1), m.n_states).to(DOUBLE)

    def surrogate():
        q = log_q(m, x)
        z = hard + torch.softmax((q + noise) / 0.7, 1) - start
        kl = (q.exp() * (q - log_pi(m))).sum(1)
        return mean(-m.likelihood.log_prob(x, z) + 0.5 * kl, w)

    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


def test_gumbel_noise_is_of_gumbels_distribution(monkeypatch):
    """Kolmogorov's test on 4,000 numbers; false alarms: 1 in a million."""
    from scipy.stats import gumbel_r, kstest

    m, x = model(), rows(1000)
    given = []
    softmax = torch.softmax
    monkeypatch.setattr(
        torch, "softmax", lambda v, *a, **o: (given.append(v.detach()), softmax(v, *a, **o))[1]
    )
    GumbelELBO(temperature=1.0)(m, x, None, None)
    monkeypatch.undo()
    (relaxed,) = [g for g in given if g.shape == (1000, m.n_states)]
    assert kstest((relaxed - log_q(m, x).detach()).flatten().numpy(), gumbel_r.cdf).pvalue > 1e-6


# -- continuous


def continuous(prior=None, **options) -> ContinuousLatentModel:
    torch.manual_seed(0)
    flow = NSF(2, 2, layers=2, hidden_features=8, blocks=1, bins=4)
    encoder = GaussianPosterior(2, lambda outputs: MLP(2, outputs, (8,)))
    made = ContinuousLatentModel(
        prior or StandardNormal(2), flow, encoder, ContinuousELBO(**options), draws=2
    )
    return perturb(made, 0.3, seed=1).double().train()


def noise_of(m: ContinuousLatentModel, monkeypatch) -> list[Tensor]:
    """Filled with the z that the likelihood is given."""
    given: list[Tensor] = []
    ask = m.likelihood._log_prob

    def spy(x, z):
        given.append(z.detach().clone())
        return ask(x, z)

    monkeypatch.setattr(m.likelihood, "_log_prob", spy)
    return given


def posterior_of(m: ContinuousLatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-scale of q(z | x)."""
    q = m.encoder(x)
    return q.location, q.log_scale


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("free_bits", "step"), [(0.0, None), (0.0, 3), (0.3, 3), (5.0, None)])
def test_continuous_elbo_with_its_noise_held(free_bits, step, weighted, monkeypatch):
    m, x = continuous(free_bits=free_bits, kl_warmup_steps=10), rows()
    w = weights(len(x)) if weighted else None
    given = noise_of(m, monkeypatch)
    loss = m.objective(x, w, step)
    monkeypatch.undo()
    m0, s0 = (t.detach() for t in posterior_of(m, x))
    noise = (given[0] - m0) * torch.exp(-s0)
    beta = 1.0 if step is None else 0.4

    def surrogate():
        mu, s = posterior_of(m, x)
        nll = -m.likelihood.log_prob(x, mu + s.exp() * noise)
        each = 0.5 * (mu**2 + (2 * s).exp() - 1 - 2 * s)
        each = (each if w is None else w[:, None] * each).mean(0)
        return mean(nll, w) + beta * sum(
            torch.maximum(k, torch.tensor(free_bits, dtype=DOUBLE)) for k in each
        )

    assert torch.allclose(loss.value, surrogate())
    if free_bits == 5.0:  # before the graph is gone
        mu, s = posterior_of(m, x)
        nll = mean(-m.likelihood.log_prob(x, mu + s.exp() * noise), w)
        encoder = list(m.encoder.parameters())
        parts = [torch.autograd.grad(v, encoder, retain_graph=True) for v in (loss.value, nll)]
        # What costs less than its free bits costs nothing: the encoder hears of the likelihood alone.
        assert all(torch.allclose(a, b) for a, b in zip(*parts, strict=True))
    check(m, loss.value, surrogate)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel()) and 0.5 < noise.std() < 1.5


def test_continuous_elbo_with_another_prior(monkeypatch):
    prior = perturb(NSF(2, layers=1, hidden_features=8, blocks=1, bins=4), 0.3, seed=3)
    m, x = continuous(prior, kl_warmup_steps=10), rows()
    given = noise_of(m, monkeypatch)
    loss = m.objective(x, None, 3)
    monkeypatch.undo()
    m0, s0 = (t.detach() for t in posterior_of(m, x))
    noise = (given[0] - m0) * torch.exp(-s0)

    def surrogate():
        mu, s = posterior_of(m, x)
        z = mu + s.exp() * noise
        q = torch.distributions.Normal(mu, s.exp()).log_prob(z).sum(1)
        return (-m.likelihood.log_prob(x, z) + 0.4 * (q - m.prior.log_prob(z))).mean()

    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


# -- a tree under a flow, of rows with missing cells


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stage", ["proposal", "flow", "joint"])
def test_bound_of_rows_with_holes_with_its_draws_held(stage, weighted):
    m = holed_model((REAL, CODE, REAL), (1, -1, 1), spread=0.2, draws=3).train()
    x = rows_of((REAL, CODE, REAL), 12)
    x[:6, 0], x[6:, 1], x[3:9, 2] = math.nan, math.nan, math.nan
    x = x[~x[:, [0, 2]].isnan().all(1)]  # others are summed exactly
    w = weights(len(x)) if weighted else None
    m.at_stage(stage, 0)
    with torch.no_grad():
        torch.manual_seed(5)
        full, log_weight = m.log_weights(x)
        log_q = torch.stack([m.log_prob(f) for f in full]) - log_weight
    assert full.isfinite().all() and len(x) == 9

    def surrogate():
        each = torch.stack([m.log_prob(f) for f in full]) - log_q
        bound = mean(math.log(3) - torch.logsumexp(each, 0), w)
        proposal = mean(-m.proposal.log_prob(x), w)
        return {"proposal": proposal, "flow": bound, "joint": bound + proposal}[stage]

    torch.manual_seed(5)
    loss = m.objective(x, w)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)


# -- codes


pytest_vq = pytest.importorskip("vector_quantize_pytorch")
from modeflow.densities.sequences import IndependentCodes  # noqa: E402
from modeflow.latents.codes import SequentialLatentModel, VectorQuantizer  # noqa: E402

V, L, WIDTH = 3, 4, 2


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, L * WIDTH)

    def forward(self, x):
        return self.net(x).view(len(x), L, WIDTH)


def coded(stage="joint") -> SequentialLatentModel:
    """A model of strings of codes that stand still, as late in a training."""
    torch.manual_seed(0)
    flow = NSF(2, L * WIDTH, layers=2, hidden_features=8, blocks=1, bins=4)
    prior = perturb(IndependentCodes(V, L), 0.7, seed=2)
    m = SequentialLatentModel(
        prior,
        perturb(flow, 0.2, seed=1),
        _Encoder(),
        VectorQuantizer(V, WIDTH),
        schedule=Schedule(codebook_steps=0),
    )
    m.train()
    m.objective(rows(200).float())  # the codes start at what the encoder gives
    m.schedule = replace(m.schedule, code_warmup_steps=10)
    m.at_stage(stage)
    return m.double().train()


def code_terms(m, x: Tensor):
    """Of every row: nll, commitment, code length and pressure, as functions of the parameters."""
    book = m.quantizer.codebook.detach().clone()

    def place(e):
        return e / e.norm(dim=2, keepdim=True) * math.sqrt(WIDTH)

    def embed():
        return m.encoder.net(x).view(len(x), L, WIDTH)

    e0 = place(embed()).detach().clone()
    codes = torch.cdist(e0, book[None].expand(len(x), -1, -1)).argmin(2)
    log_p0 = torch.log_softmax(
        m.prior.logits if hasattr(m.prior, "logits") else next(m.prior.parameters()), -1
    )
    log_p0 = log_p0.detach().clone()

    def nll():
        straight = place(embed()) + book[codes] - e0
        return -m.likelihood.log_prob(x, straight.transpose(1, 2).flatten(1))

    def commitment():
        return 0.25 * (place(embed()) - book[codes]).square().mean()

    def length():
        return -m.prior.log_prob(codes)

    def pressure():
        distance = (place(embed())[:, :, None] - book).square().sum(3)
        q = torch.softmax(-distance, 2)
        return -(q * log_p0).sum((1, 2))

    return nll, commitment, length, pressure, codes


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [None, 3])
def test_joint_loss_of_codes(step, weighted):
    m, x = coded(), rows()
    w = weights(len(x)) if weighted else None
    nll, commitment, length, pressure, codes = code_terms(m, x)
    assert len(codes.unique()) == V
    share = 1.0 if step is None else 0.4
    start = mean(pressure(), w).detach()

    def surrogate():
        return mean(nll(), w) + commitment() + mean(length(), w) + share * (mean(pressure(), w) - start)

    # Codes stand still from a step on, so the end of the schedule is a late step, not None.
    loss = m.objective(x, w, 10_000 if step is None else step)
    assert torch.allclose(loss.value, surrogate())
    check(m, loss.value, surrogate)
    assert torch.allclose(loss.terms["nll"], mean(nll(), w))
    assert torch.allclose(loss.terms["code_length"], mean(length(), w))
    assert torch.allclose(loss.terms["commitment"], commitment())


def test_the_first_stage_is_the_loss_without_the_prior_and_the_second_the_prior_alone():
    x, m = rows(), coded("flow")
    nll, commitment, length, *_ = code_terms(m, x)
    check(m, m.objective(x, None, 99).value, lambda: nll().mean() + commitment())
    m.at_stage("prior", 1)
    check(m, m.objective(x, None, 99).value, lambda: length().mean())


def test_steps_against_the_gradient_make_codes_cheaper():
    """What the pressure does to the encoder alone: the expected code length falls."""
    m, x = coded(), rows()
    nll, commitment, *_, pressure, _ = code_terms(m, x)
    loss = m.objective(x, None, 99).value
    both = torch.autograd.grad(loss, list(m.encoder.parameters()))
    rest = torch.autograd.grad(nll().mean() + commitment(), list(m.encoder.parameters()))
    before = pressure().mean()
    with torch.no_grad():
        for p, a, b in zip(m.encoder.parameters(), both, rest, strict=True):
            p -= 1e-3 * (a - b)
    assert pressure().mean() < before - 1e-6


# -- images


def images(n: int = 6) -> Tensor:
    return torch.randint(0, 8, (n, 1, 4, 4), generator=torch.Generator().manual_seed(8)).double()


def image_model(latent: str, likelihood: str, latent_options=None, likelihood_options=None):
    made = small_images(
        latent,
        likelihood,
        {**{"discrete": {"n_states": 2}, "none": {}}.get(latent, {}), **(latent_options or {})}
        | ({} if latent == "none" else {"encoder_channels": 4}),
        {"decoder_channels": 4, **(likelihood_options or {})},
        (1, 4, 4),
        levels=8,
        halvings=1,
        flow_options={"levels": 1, "steps": 1, "hidden_channels": 4},
    )
    return perturb(made.double(), 0.1, seed=1).train()


def held_noise(m: nn.Module, objective: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The objective with the same random numbers at every call."""

    def again() -> Tensor:
        torch.manual_seed(5)
        return objective()

    return again


@pytest.mark.parametrize("latent", ["none", "continuous", "discrete"])
@pytest.mark.parametrize("likelihood", ["flow", "logistic", "gaussian"])
def test_objectives_of_images(latent, likelihood):
    m, x = (
        image_model(latent, likelihood, {"objective": "elbo-sum"} if latent == "discrete" else {}),
        images(),
    )
    value = held_noise(m, lambda: m.objective(x).value)
    check(m, value(), value)
    if latent == "discrete":
        q = log_q(m, x)
        torch.manual_seed(5)
        each = m.log_likelihoods(x, torch.arange(2))
        expected = -(q.exp() * (each + log_pi(m) - q)).sum(1).mean()
        assert torch.allclose(value(), expected)


def test_the_truncated_objective_of_images():
    m, x = image_model("discrete", "logistic", {"objective": "marginal"}), images()
    target = frozen(torch.softmax(log_pi(m) + log_likelihoods(m, x), 1))

    def surrogate():
        nll = -torch.logsumexp(log_pi(m) + log_likelihoods(m, x), 1)
        return (nll + (target * (target.log() - log_q(m, x))).sum(1)).mean()

    check(m, m.objective(x).value, surrogate)


def test_the_first_layer_alone_at_the_start():
    """In its first steps a flow of images is fitted by what its first layer says, and that alone moves."""
    m, x = image_model("none", "flow", likelihood_options={"entry": "pixels"}), images()
    m.schedule = replace(m.schedule, start_steps=2)
    (bins,) = (part for part in m.modules() if hasattr(part, "parameters_at"))
    params = bins.parameters_at(None)

    def surrogate():
        return -bins.at(x, bins.parameters_at(None)).probs.log().flatten(1).sum(1).mean()

    assert len(params) == 3
    check(m, m.objective(x, None, 1).value, surrogate)
    later = m.objective(x, None, 2).value
    assert not torch.allclose(later, surrogate())


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_dequantised_images_pay_for_their_noise(kind):
    flow = Glow((1, 4, 4), levels=1, steps=1, hidden_channels=4)
    torch.manual_seed(0)
    m = (
        perturb(Dequantized(flow, 8, kind=kind, couplings=2, hidden=4, blocks=1), 0.1, seed=2)
        .double()
        .train()
    )
    x = images()
    value = held_noise(m, lambda: m.objective(x).value)
    check(m, value(), value)
    # Piece by piece: the density of (n + e) / L - 1/2, its scale, and what q says of e.
    seen = []
    ask = flow._log_prob
    flow._log_prob = lambda u, c: (seen.append(u.detach()), ask(u, c))[1]
    loss = value()
    e = (seen[0] + 0.5) * 8 - x
    assert e.min() >= 0 and e.max() < 1
    expected = -(ask(seen[0], None) - 16 * math.log(8))
    if kind == "variational":
        (noise,) = (part.noise for part in m.modules() if getattr(part, "noise", None) is not None)
        given = ((x + 0.5) / 8 - 0.5).flatten(1)
        expected = expected + noise.log_prob(e, given)
    assert torch.allclose(loss, expected.mean())
