"""Priors over strings of codes: they sum to one, look back only, and sample what they score."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chisquare

from modeflow.densities.sequences import GPT2Prior, IndependentCodes
from modeflow.errors import ConfigError
from modeflow.testing import perturb

V, L = 3, 4


def priors():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    gpt = GPT2Prior(V, L, width=16, layers=2, heads=2)
    return {"independent": perturb(IndependentCodes(V, L), 1.0), "gpt2": perturb(gpt, 0.3).eval()}


def all_strings():
    return torch.tensor(list(itertools.product(range(V), repeat=L)))


@pytest.mark.parametrize("name", ["independent", "gpt2"])
def test_probabilities_sum_to_one(name):
    prior = priors()[name].double()
    log_prob = prior.log_prob(all_strings())
    assert abs(float(log_prob.exp().sum()) - 1) < 1e-5
    assert float(log_prob.std()) > 0.1


@pytest.mark.parametrize("name", ["independent", "gpt2"])
def test_samples_come_from_it(name):
    prior = priors()[name]
    codes = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert codes.shape == (20_000, L)
    number = (codes * V ** torch.arange(L - 1, -1, -1)).sum(1)
    counts = torch.bincount(number, minlength=V**L).double()
    expected = 20_000 * prior.log_prob(all_strings()).exp().detach().double()
    kept = expected > 5
    observed = torch.cat((counts[kept], counts[~kept].sum()[None]))
    wanted = torch.cat((expected[kept], expected[~kept].sum()[None]))
    # A false alarm of 1e-4, with this seed fixed.
    assert chisquare(observed[wanted > 0], wanted[wanted > 0] * observed.sum() / wanted.sum()).pvalue > 1e-4
    assert torch.equal(codes, prior.sample(20_000, generator=torch.Generator().manual_seed(0)))
    assert prior.sample(0).shape == (0, L)


def test_the_transformer_looks_back_only():
    prior = priors()["gpt2"]
    codes = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 2], [0, 1, 0, 2]])
    start = torch.full((3, 1), V)
    logits = prior.net(input_ids=torch.cat((start, codes[:, :-1]), 1)).logits
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert torch.allclose(logits[0, :3], logits[2, :3], atol=1e-5)
    assert not torch.allclose(logits[0, 3], logits[2, 3], atol=1e-3)


def test_a_low_temperature_draws_the_most_likely():
    prior = priors()["independent"]
    codes = prior.sample(200, generator=torch.Generator().manual_seed(0), temperature=0.02)
    assert (codes == prior.logits.argmax(1)).double().mean() > 0.95


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="heads must divide"):
        GPT2Prior(3, 4, width=10, heads=4)
    with pytest.raises(ConfigError, match="1 or more"):
        IndependentCodes(0, 4)
    with pytest.raises(ConfigError, match="temperature"):
        priors()["gpt2"].sample(1, temperature=0.0)


def test_a_pretrained_gpt2_is_taken_over_from_a_folder(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    known = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    known.save_pretrained(tmp_path / "gpt2", safe_serialization=True)
    prior = GPT2Prior(5, 6, width=99, pretrained=str(tmp_path / "gpt2"))
    assert prior.sizes == {"width": 8, "layers": 2, "heads": 2, "dropout": 0.0}
    for name, weight in known.transformer.h.state_dict().items():
        assert torch.equal(prior.net.transformer.h.state_dict()[name], weight)
    assert torch.equal(prior.net.transformer.wpe.weight, known.transformer.wpe.weight[:6])
    assert prior.net.transformer.wte.weight.shape == (6, 8)
    total = prior.eval().log_prob(torch.tensor([[a, b] + [0] * 4 for a in range(5) for b in range(5)]))
    assert torch.isfinite(total).all()
    with pytest.raises(ConfigError, match="knows 16 positions, not 20"):
        GPT2Prior(5, 20, pretrained=str(tmp_path / "gpt2"))
    (tmp_path / "gpt2/model.safetensors").unlink()
    torch.save(known.state_dict(), tmp_path / "gpt2/pytorch_model.bin")
    with pytest.raises(ConfigError, match="no GPT-2 could be loaded"):
        GPT2Prior(5, 6, pretrained=str(tmp_path / "gpt2"))
