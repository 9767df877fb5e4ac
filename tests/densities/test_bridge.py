"""Diffusion bridges: their kernels, the Gaussian case in closed form, and strings of codes by them."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from modeflow.densities import BridgeCodes, DiffusionBridge
from modeflow.errors import ConfigError
from modeflow.testing import perturb

DOUBLE = torch.float64


def rows(n: int, d: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    mean, variance = torch.as_tensor(mean, dtype=DOUBLE), torch.as_tensor(variance, dtype=DOUBLE)
    return Normal(mean, variance.sqrt()).log_prob(x)


def test_steps_make_up_the_way_and_the_bridge_is_by_bayes():
    bridge = DiffusionBridge(2, steps=6)
    a, abar, before = bridge.kept()
    assert torch.allclose(a.cumprod(0), abar, atol=1e-15) and before[0] == 1 and (a < 1).all()
    # Of variances: what a step keeps of the spread before it, and adds.
    assert torch.allclose(a * (1 - before) + 1 - a, 1 - abar, atol=1e-15)
    start, now, then = rows(5), rows(5, seed=2), rows(5, seed=3)
    for t in range(1, 6):
        number = torch.full((5,), t)
        mean = bridge.between_ends(start, then, number)
        variance = (1 - a[t]) * (1 - before[t]) / (1 - abar[t])
        by_bayes = (
            normal(then, a[t].sqrt() * now, 1 - a[t])
            + normal(now, before[t].sqrt() * start, 1 - before[t])
            - normal(then, abar[t].sqrt() * start, 1 - abar[t])
        )
        assert torch.allclose(normal(now, mean, variance), by_bayes, atol=1e-10)
    assert torch.allclose(
        bridge.between_ends(start, then, torch.zeros(5, dtype=torch.long)), start, atol=1e-12
    )


def test_a_new_one_is_where_the_process_ends_and_a_row_has_noise_of_its_own():
    bridge = DiffusionBridge(3, steps=5, center=0.7, variance=2.0, draws=2).double().eval()
    x = rows(6, 3)
    with torch.no_grad():
        bridge.between.fill_(50.0)
        assert torch.allclose(bridge.log_prob(x), normal(x, 0.7, 2.0).sum(1), atol=1e-12)
        perturb(bridge, 0.5, seed=1)
        whole = bridge.log_prob(x)
        assert torch.allclose(whole[2:4], bridge.log_prob(x[2:4]), atol=1e-12)
        assert (whole - normal(x, 0.7, 2.0).sum(1)).abs().min() > 1e-3
    x.requires_grad_()
    bridge.train().log_prob(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).all()


class Known(torch.nn.Module):
    """ε of data of N(m, s²), in units of the process."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread

    def forward(self, y: Tensor, abar: Tensor, time: Tensor) -> Tensor:
        share = abar.unsqueeze(1)
        return (1 - share).sqrt() * (y - share.sqrt() * self.mean) / (share * self.spread**2 + 1 - share)


def test_of_gaussian_data_the_chain_leads_back_and_the_bound_reaches_the_density():
    """z* and v are not 0 and 1, which a chain that forgets them does not survive."""
    m, s, center, variance = 1.5, 0.6, 0.7, 2.0
    known = Known((m - center) / math.sqrt(variance), s / math.sqrt(variance))
    x = m + s * rows(300)
    truth = normal(x, m, s**2).sum(1)
    gaps = []
    for steps in (10, 100):
        bridge = DiffusionBridge(2, steps, draws=4, center=center, variance=variance, denoiser=known)
        bridge.double().eval()
        with torch.no_grad():
            bridge.between.fill_(50.0)
            gaps.append(float((bridge.log_prob(x) - truth).mean()))
            torch.manual_seed(0)
            paths = torch.stack([bridge.log_weight(x) - truth for _ in range(20)])
            points = torch.stack([bridge.estimate(x) - truth for _ in range(400)])
        # The evidence bound by whole paths and by single times is one number, below log p. Rows share no
        # noise; five standard errors: a false alarm in a million.
        both = paths.mean(0) - points.mean(0)
        assert abs(float(both.mean())) < 5 * float(both.std()) / math.sqrt(len(x))
        assert paths.mean() < 0
        drawn = bridge.sample(20_000, generator=torch.Generator().manual_seed(0))
        if steps == 100:
            assert (drawn.mean(0) - m).abs().max() < 5 * s / math.sqrt(20_000)
            assert (drawn.std(0) - s).abs().max() < 0.03 * s
    assert gaps[0] < gaps[1] < 1e-3 and gaps[1] > -0.02


CIRCLE = torch.arange(8) * math.pi / 4
BOOK = math.sqrt(2) * torch.stack((CIRCLE.cos(), CIRCLE.sin()), 1)


def codes(length: int, n_codes: int = 8, **options) -> BridgeCodes:
    quantizer = SimpleNamespace(codebook=BOOK[:: 8 // n_codes], code_features=2)
    return BridgeCodes(n_codes, length, quantizer, **options)


def test_strings_are_alike_at_first_and_what_is_drawn_follows_the_bounds():
    torch.manual_seed(0)
    prior = codes(2, 4, steps=20, hidden_features=8, draws=100).double().eval()
    strings = torch.tensor(list(itertools.product(range(4), repeat=2)))
    with torch.no_grad():
        p = prior.log_prob(strings).exp()
        assert (16 * p - 1).square().mean().sqrt() < 0.2 and 0.9 < p.sum() < 1.1
        perturb(prior, 1.0, seed=1)
        p = prior.log_prob(strings).exp()
        drawn = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
        some = prior.log_prob(strings[:3]).exp()
    share = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16) / 20_000
    # On average over its noise the bound adds up to one at the most.
    assert share.max() > 3 * share.min() and 0.8 < p.sum() < 1.1
    assert (16 * (share - p)).square().mean().sqrt() < 0.25
    assert torch.allclose(some, p[:3], rtol=1e-10)


def test_a_walk_on_a_circle_is_learned_with_the_codes_where_they_are():
    """The toy of the paper: each code is a neighbour, on a circle of eight, of the one before it."""
    torch.manual_seed(0)
    prior, length = codes(3, steps=10, hidden_features=64), 3
    adam = torch.optim.Adam(prior.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)

    def walk(n: int) -> Tensor:
        moves = 2 * torch.randint(0, 2, (n, length), generator=generator) - 1
        return (torch.randint(0, 8, (n, 1), generator=generator) + moves.cumsum(1)) % 8

    book = prior.noise.codebook
    for _ in range(300):
        adam.zero_grad()
        strings = walk(256)
        prior.lengths(strings, book[strings], torch.zeros(())).mean().backward()
        adam.step()
    prior.eval()
    with torch.no_grad():
        drawn = prior.sample(1000, generator=generator)
        bound = float(prior.log_prob(walk(300)).mean())
    moves = drawn.diff(dim=1) % 8
    # By chance a quarter, and three times the logarithm of eight nats; by the rule the logarithm of 32.
    assert ((moves == 1) | (moves == 7)).double().mean() > 0.6
    assert -math.log(32) - 1.4 < bound < -math.log(32) + 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionBridge(2, steps=0), "steps must be an integer of 1 or more"),
        (lambda: DiffusionBridge(2, variance=0.0), "variance finite and above 0"),
        (lambda: codes(2).eval().sample(2, temperature=0.5), "no use for a temperature"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
