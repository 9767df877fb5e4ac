"""Priors of states and of codes are densities over z like others."""

from __future__ import annotations

import math

import pytest
import torch

from modeflow.densities import Density, IndependentCodes
from modeflow.errors import ConfigError, ShapeError
from modeflow.latents import CategoricalPrior
from modeflow.testing import perturb


def states(learned=True) -> CategoricalPrior:
    prior = CategoricalPrior(4, learned)
    prior.set_probs(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    prior.switch_off(torch.tensor([1]))
    return prior


def test_states_have_the_probabilities_of_those_in_use():
    prior, every = states(), torch.arange(4)
    assert isinstance(prior, Density) and prior.event_shape == () and prior.levels == 4
    expected = torch.tensor([0.1, 0.0, 0.3, 0.4]) / 0.8
    torch.testing.assert_close(prior.log_prob(every).exp(), expected)
    assert torch.equal(prior.log_prob(every), prior.log_probs())
    torch.testing.assert_close(states(False).log_prob(every).exp(), torch.tensor([1.0, 0.0, 1.0, 1.0]) / 3)
    loss = prior.objective(torch.tensor([0, 2, 2]))
    torch.testing.assert_close(loss.value, -(expected[0].log() + 2 * expected[2].log()) / 3)


def test_states_are_drawn_by_their_probabilities():
    prior = states()
    drawn = prior.sample(40_000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (share - prior.log_probs().exp()).abs().max() < 5 * math.sqrt(0.25 / 40_000)
    cold = prior.sample(200, generator=torch.Generator().manual_seed(0), temperature=0.01)
    assert (cold == 3).all()
    assert prior.sample(0).shape == (0,)


@pytest.mark.parametrize("prior", [states(), IndependentCodes(3, 2)])
def test_what_is_asked_wrongly_is_refused(prior):
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        prior.sample(3, temperature=0.0)
    with pytest.raises(ShapeError, match="unconditional"):
        prior.sample(3, torch.zeros(3, 1))
    with pytest.raises(ShapeError, match="expects x of shape"):
        prior.log_prob(torch.zeros(3, 5, dtype=torch.long))


def test_codes_are_events_of_whole_numbers():
    prior = perturb(IndependentCodes(3, 2), 0.5)
    assert isinstance(prior, Density) and prior.event_shape == (2,) and prior.levels == 3
    strings = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    torch.testing.assert_close(prior.log_prob(strings).exp().sum().detach(), torch.tensor(1.0))
    assert torch.equal(prior.log_prob(strings.double()), prior.log_prob(strings))
