"""The sequential latent against the sum over all strings: three codes, four positions, 81 strings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from modeflow.densities.sequences import GPT2Prior, IndependentCodes
from modeflow.errors import ConfigError
from modeflow.flows import NSF
from modeflow.testing import perturb
from modeflow.training import TrainConfig, Trainer

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

from modeflow.latents import Schedule
from modeflow.latents.codes import SequentialLatentModel, VectorQuantizer

V, L, WIDTH, D = 3, 4, 2, 2


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, L * WIDTH)

    def forward(self, x):
        return self.net(x).view(len(x), L, WIDTH)


def model(prior="independent", quantizer_options=None, **options):
    torch.manual_seed(0)
    priors = {"independent": lambda: IndependentCodes(V, L), "gpt2": lambda: GPT2Prior(V, L, 16, 1, 2)}
    flow = NSF(D, L * WIDTH, layers=2, hidden_features=16)
    quantizer = VectorQuantizer(V, WIDTH, **(quantizer_options or {}))
    m = SequentialLatentModel(
        perturb(priors[prior](), 0.5), perturb(flow, 0.1), Encoder(), quantizer, **options
    )
    m.train()
    m.objective(rows(200))  # the codes start at what the encoder gives
    return m.double().eval()


def rows(n=20):
    return torch.randn(n, D)


def everything(m, x):
    strings = torch.tensor(list(itertools.product(range(V), repeat=L)))
    context = m.quantizer.codebook[strings].mT.flatten(1)
    columns = [
        m.likelihood.log_prob(x, c) + p for c, p in zip(context, m.prior.log_prob(strings), strict=True)
    ]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("prior", ["independent", "gpt2"])
def test_the_bound_grows_to_the_sum_over_all_strings(prior):
    m, x = model(prior), rows().double()
    exact = everything(m, x).logsumexp(1)
    values = [m.top_k(x, k) for k in (1, 2, 5, 20, 80, 81, 500)]
    for fewer, more in itertools.pairwise(values):
        assert (more >= fewer - 1e-9).all()
    tolerance = 1e-9 if prior == "independent" else 1e-5
    assert torch.allclose(values[-1], exact, atol=tolerance) and torch.allclose(
        values[-2], exact, atol=tolerance
    )
    assert (values[0] < exact).all() and m.exactness == "lower bound"


def test_the_first_string_is_that_of_the_nearest_codes():
    m, x = model(sequences=5), rows().double()
    distance = (m.quantizer.place(m.embed(x)).unsqueeze(2) - m.quantizer.codebook).norm(dim=-1)
    strings, values = m.log_joint_of(x, 5)
    assert torch.equal(strings[:, 0], distance.argmin(-1)) and torch.equal(strings[:, 0], m.codes(x))
    assert torch.allclose(m.log_prob(x), values.logsumexp(1))
    context = m.quantizer.codebook[m.codes(x)].mT.flatten(1)
    assert torch.allclose(values[:, 0], m.likelihood.log_prob(x, context) - m.code_length(x))


@pytest.mark.parametrize("prior", ["independent", "gpt2"])
def test_one_pass_gives_the_score_and_what_codes_cost(prior):
    m, x = model(prior, sequences=5), rows().double()
    log_prob, cost = m.log_prob_and_cost(x)
    torch.testing.assert_close(log_prob, m.log_prob(x))
    # GPT-2 computes in float32 whatever the rest does.
    torch.testing.assert_close(cost, m.code_length(x).to(cost), atol=1e-5, rtol=1e-6)


def test_stages_fit_their_parts():
    m, x = model().float().train(), rows(64)

    def touched(stage):
        m.at_stage(stage)
        m.zero_grad()
        loss = m.objective(x)
        loss.value.backward()
        parts = {"prior": m.prior, "likelihood": m.likelihood, "encoder": m.encoder}
        have = {
            k
            for k, part in parts.items()
            if any(p.grad is not None and p.grad.any() for p in part.parameters())
        }
        return have, set(loss.terms)

    assert touched("flow") == ({"likelihood", "encoder"}, {"nll", "commitment"})
    assert touched("prior") == ({"prior"}, {"code_length"})
    assert touched("joint") == ({"prior", "likelihood", "encoder"}, {"nll", "commitment", "code_length"})
    m.at_stage()
    terms = m.objective(x).terms
    bound = float(m.eval().top_k(x, 1).mean())
    m.train()
    assert abs(-float(terms["nll"] + terms["code_length"]) - bound) < 0.2  # codes move between the two calls


def test_evaluation_moves_no_code():
    m, x = model(), rows().double()
    before = m.quantizer.codebook.clone()
    m.log_prob(x), m.codes(x)
    assert torch.equal(before, m.quantizer.codebook)


def test_two_stages_find_separate_modes():
    torch.manual_seed(3)  # the codes start on a sample: with some seeds two modes share one, with this none
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    x = centres[torch.randint(3, (1500,))] + 0.3 * torch.randn(1500, 2)
    quantizer = VectorQuantizer(4, 2)

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, y):
            return self.net(y).unsqueeze(1)

    flow = NSF(2, 2, layers=2, hidden_features=16)
    m = SequentialLatentModel(IndependentCodes(4, 1), flow, One(), quantizer, stages=("flow", "prior"))
    m.at_stage("flow", 0)
    Trainer(TrainConfig(max_epochs=25, patience=None, learning_rate=3e-3), quiet=True).fit(m, x)
    m.at_stage("prior", 1)
    Trainer(TrainConfig(max_epochs=25, patience=None, learning_rate=3e-2), quiet=True).fit(m, x)
    m.sequences = 4
    # Entropy of the data: log 3 + log(2 π e 0.09) = 1.53; what beats it by more than overfitting is no bound.
    score = float(m.eval().log_prob(x).mean())
    assert -1.8 < score < -1.45
    assert m.perplexity(x) > 2.9
    drawn = m.sample(500, generator=torch.Generator().manual_seed(0))
    assert (torch.cdist(drawn, centres).amin(1) < 1.5).double().mean() > 0.9


def test_parts_that_do_not_fit():
    flow, quantizer = NSF(2, 4, layers=1), VectorQuantizer(3, 2)
    with pytest.raises(ConfigError, match="context_features=8"):
        SequentialLatentModel(IndependentCodes(3, 4), flow, Encoder(), quantizer)
    with pytest.raises(ConfigError, match="did you mean 'joint'"):
        Schedule(stage="jiont")
    with pytest.raises(ConfigError, match="sequences"):
        SequentialLatentModel(IndependentCodes(3, 2), flow, Encoder(), quantizer, sequences=0)


def test_codes_are_learned_alike_in_one_process_and_in_two(tmp_path):
    """Moving averages are over the rows of all processes: the codebook is that of a single one."""
    x = rows(64)
    models = []
    for devices in (1, 2):
        m = model(quantizer_options={"dead_below": 0.0}).float()
        m.train()
        m.objective(x)
        trainer = Trainer(
            TrainConfig(max_epochs=3, batch_size=32, device="cpu", devices=devices, patience=None),
            tmp_path / str(devices),
            quiet=True,
        )
        trainer.fit(m, x)
        models.append(m)
    one, two = (m.quantizer.codebook for m in models)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    start = model(quantizer_options={"dead_below": 0.0}).float().quantizer.codebook
    assert not torch.allclose(one, start, atol=1e-3)


def test_only_the_direction_of_what_the_encoder_says_counts():
    m, x = model(), rows().double()
    e = m.embed(x)
    placed = m.quantizer.place(e)
    torch.testing.assert_close(placed.norm(dim=-1), torch.full((20, L), WIDTH**0.5, dtype=e.dtype))
    torch.testing.assert_close(
        m.quantizer.log_approximate_posterior(7 * e), m.quantizer.log_approximate_posterior(e)
    )
    # In one dimension a sphere has two points: codes of a number keep the number.
    one = VectorQuantizer(3, 1)
    assert torch.equal(one.place(e[..., :1]), e[..., :1])


def test_codes_stand_still_after_their_steps():
    m, x = model(schedule=Schedule(codebook_steps=5)).float().train(), rows(50)
    before = m.quantizer.codebook.clone()
    m.objective(x, step=5)
    assert torch.equal(before, m.quantizer.codebook)
    m.objective(x, step=4)
    assert not torch.equal(before, m.quantizer.codebook)


def test_dead_codes_are_revived_early_and_stay_dead_later():
    m = model(quantizer_options={"dead_below": 0.5}).float().train()
    m.schedule = replace(m.schedule, code_warmup_steps=10)
    away = torch.tensor([1e3, 1e3])
    for step, revived in ((10, False), (3, True)):
        book = m.quantizer.vq._codebook
        with torch.no_grad():
            book.embed[0, 2] = away
            book.embed_avg[0, 2] = 0.1 * away
            book.cluster_size[0, 2] = 0.1
        m.objective(rows(50), step=step)
        assert bool((m.quantizer.codebook[2].abs() < 100).all()) == revived, step
