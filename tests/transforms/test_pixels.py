"""Bins of pixels and the map that makes pixels Gaussian: what the conformance table does not see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modeflow.densities import DiscretizedDecoder, StandardNormal
from modeflow.errors import ConfigError, DataError
from modeflow.testing import perturb
from modeflow.transforms import PixelBins, PixelGaussianize

SHAPE = (2, 4, 4)


def bins(kind: str = "logistic", levels: int = 256, dtype: torch.dtype = torch.float64) -> PixelBins:
    torch.manual_seed(0)
    return perturb(PixelBins(SHAPE, levels, 5, None, kind, 3, 8, 1), 0.3).to(dtype)


def every_level(net: PixelBins, context: Tensor) -> Tensor:
    params = net.parameters_at(context)
    levels = [torch.full((len(context), *SHAPE), float(n)).to(context) for n in range(net.levels)]
    return torch.stack([net.at(n, params).probs for n in levels])


@pytest.mark.parametrize("kind", ["logistic", "gaussian"])
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_sum_to_one_and_tails_fit_them(kind, levels, dtype):
    net = bins(kind, levels, dtype)
    context = torch.randn(3, 5, dtype=dtype)
    probs = every_level(net, context)
    close = {"rtol": 0, "atol": 2e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(probs.sum(0), torch.ones_like(probs[0]), **close)
    assert (probs > 0).all()
    params = net.parameters_at(context)
    for n in {0, 1, levels // 2, levels - 1}:
        at = net.at(torch.full((3, *SHAPE), float(n), dtype=dtype), params)
        torch.testing.assert_close(at.below, probs[:n].sum(0), **close)
        torch.testing.assert_close(at.above, probs[n + 1 :].sum(0), **close)


@pytest.mark.parametrize("kind", ["logistic", "gaussian"])
@pytest.mark.parametrize("low", [-9.0, -0.1, 9.0])
def test_far_bins_keep_their_digits(kind, low):
    """Far from the mean on either side, and across it: float32 to the digits of float64's tail."""
    from scipy.stats import logistic, norm

    law = logistic if kind == "logistic" else norm
    high = low + 0.25
    exact = law.cdf(high) - law.cdf(low) if low < 0 else law.sf(low) - law.sf(high)
    net = PixelBins((1, 2, 2), 256, kind=kind)
    found = float(net._between(torch.tensor(low), torch.tensor(high)))
    assert abs(found / exact - 1) < 2e-5


@pytest.mark.parametrize("kind", ["logistic", "gaussian"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-3), (torch.float64, 1e-10)])
def test_over_a_standard_normal_it_is_the_probability_of_the_level(kind, dtype, error):
    """log N(u; 0, I) + log|det| is log P(floor x), wherever in its cell x lies: no cost of the noise."""
    net = bins(kind, dtype=dtype)
    x, context = torch.rand(6, *SHAPE, dtype=dtype) * 256, torch.randn(6, 5, dtype=dtype)
    x[0], x[1] = torch.rand(SHAPE, dtype=dtype), 255 + torch.rand(SHAPE, dtype=dtype)
    u, logabsdet = PixelGaussianize(net)(x, context)
    flow = StandardNormal(32).to(dtype).log_prob(u.flatten(1)) + logabsdet
    exact = DiscretizedDecoder(net).log_prob(x.floor(), context)
    torch.testing.assert_close(
        flow, exact, rtol=0, atol=error * (1 + float(exact.detach().abs().max()) / 100)
    )


def test_samples_of_the_map_and_of_the_decoder_follow_the_bins():
    """Chi-square of 20,000 draws over 17 levels: false alarm once in 1e5."""
    from scipy.stats import chi2

    net = PixelBins((1, 2, 2), 17, components=2)
    perturb(net, 0.5)
    probs = torch.stack(
        [net.at(torch.full((1, 1, 2, 2), float(n)), net.parameters_at(None)).probs for n in range(17)]
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = DiscretizedDecoder(net).sample(20_000, generator=generator)
        u = torch.randn(20_000, 1, 2, 2, generator=generator)
        mapped = PixelGaussianize(net).inverse(u)[0].floor()
        for values in (drawn, mapped):
            assert values.min() >= 0 and values.max() <= 16
            expected = 20_000 * probs[:, 0, 0, 0, 0]
            counts = torch.bincount(values[:, 0, 0, 0].long(), minlength=17)
            keep = expected > 5
            statistic = ((counts - expected).square() / expected)[keep].sum()
            assert float(statistic) < chi2.ppf(1 - 1e-5, int(keep.sum()))


def test_temperatures_of_a_decoder():
    net = bins()
    context = torch.randn(1, 5, dtype=torch.float64)
    decoder = DiscretizedDecoder(net)
    still = decoder.sample(3, context[0], temperature=0.0)
    assert torch.equal(still[0], still[1])
    assert torch.equal(still[:1], net.mean(context).round())
    near = decoder.sample(200, context[0], torch.Generator().manual_seed(0), temperature=0.3)
    far = decoder.sample(200, context[0], torch.Generator().manual_seed(0))
    assert near.std(0).mean() < far.std(0).mean()
    with pytest.raises(ConfigError, match="0 or more"):
        decoder.sample(1, context[0], temperature=-1.0)


def test_bad_pixels_and_sizes():
    decoder = DiscretizedDecoder(bins(levels=4))
    context = torch.zeros(1, 5, dtype=torch.float64)
    for value in (-1.0, 4.0, 0.5):
        with pytest.raises(DataError, match="whole numbers from 0 to 3"):
            decoder.log_prob(torch.full((1, *SHAPE), value, dtype=torch.float64), context)
    with pytest.raises(ConfigError, match="kind must be"):
        PixelBins(SHAPE, 4, kind="laplace")
    with pytest.raises(ConfigError, match="levels must be 2"):
        PixelBins(SHAPE, 1)
    with pytest.raises(ConfigError, match="cannot be doubled"):
        PixelBins((1, 6, 6), 4, 8, (2, 2, 2))
