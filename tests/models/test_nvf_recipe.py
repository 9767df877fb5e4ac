"""The NVF recipe: its options reach the parts, and it refuses what it cannot do."""

from __future__ import annotations

import pytest
import torch

from modeflow.errors import ConfigError
from modeflow.latents import GumbelELBO, Marginal, SummedELBO, Truncated
from modeflow.models import DiscreteNVF
from modeflow.transforms import MaskedAutoregressive


def test_options_reach_the_parts():
    model = DiscreteNVF(
        3, 5, flow="nsf-autoregressive", flow_options={"layers": 2}, prior="uniform",
        objective="elbo", encoder_features=(7,), temperature=0.8, final_temperature=0.2,
        anneal_steps=9, kl_warmup_steps=4,
    )  # fmt: skip
    assert model.n_states == model.likelihood.context_features == 5
    assert sum(isinstance(m, MaskedAutoregressive) for m in model.modules()) == 2
    assert not model.prior.learned
    assert model.encoder.net.hidden[0].out_features == 7
    loss = model.loss
    assert isinstance(loss, GumbelELBO)
    assert (loss.temperature, loss.final_temperature, loss.anneal_steps) == (0.8, 0.2, 9)
    assert loss.kl_warmup_steps == 4
    assert model.exactness == "exact"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("elbo", GumbelELBO), ("elbo-sum", SummedELBO), ("marginal", Marginal), ("truncated", Truncated)],
)
def test_every_objective_fits_a_little(name, kind):
    torch.manual_seed(0)
    flow = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4}
    model = DiscreteNVF(2, 2, flow_options=flow, encoder_features=(16,), objective=name)
    assert isinstance(model.loss, kind)
    x = 0.3 * torch.randn(256, 2) + torch.where(torch.rand(256, 1) < 0.5, 1.0, -1.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.log_prob(x).mean().item()
    for step in range(60):
        optimiser.zero_grad()
        model.objective(x, step=step).value.backward()
        optimiser.step()
    assert model.log_prob(x).mean().item() > before + 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_states": 0}, "n_states must be an integer of 1 or more, received 0"),
        ({"n_states": 2.0}, "n_states must be an integer"),
        ({"n_states": True}, "n_states must be an integer"),
        ({"prior": "learnt"}, "prior must be 'learned' or 'uniform', received 'learnt'"),
        ({"objective": "elbow"}, "did you mean 'elbo'"),
        ({"flow": "realnpv"}, "did you mean 'realnvp'"),
        ({"flow_options": {"bin": 3}}, "did you mean 'bins'"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiscreteNVF(2, **options)


def test_a_known_mixture_is_not_beaten():
    """C9: fitted to a known density, the held-out score approaches the entropy from above."""
    torch.manual_seed(0)
    centres = torch.tensor([[-1.5, 0.0], [1.5, 0.0]])
    draw = lambda n: centres[torch.randint(2, (n,))] + 0.4 * torch.randn(n, 2)  # noqa: E731

    def true_log_prob(x):
        parts = torch.distributions.Normal(centres, 0.4).log_prob(x[:, None]).sum(-1)
        return torch.logsumexp(parts, 1) - torch.log(torch.tensor(2.0))

    flow = {"layers": 2, "hidden_features": 16, "blocks": 1, "bins": 4}
    model = DiscreteNVF(2, 2, flow_options=flow, encoder_features=(16,), objective="marginal")
    model.start(draw(2000), 0, 50)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(150):
        optimiser.zero_grad()
        model.objective(draw(256)).value.backward()
        optimiser.step()
    test = draw(20_000)
    with torch.no_grad():
        excess = true_log_prob(test) - model.eval().log_prob(test)
    # Paired, so the error is small; five standard errors below zero would prove a wrong density.
    error = excess.std() / 20_000**0.5
    assert excess.mean() > -5 * error
    assert excess.mean() < 0.05
