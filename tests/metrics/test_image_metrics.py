"""Measures of generated images against what is known in closed form."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.linalg import sqrtm

from modeflow.data import load_images
from modeflow.errors import ConfigError, DataError
from modeflow.metrics import (
    frechet_distance,
    image_bits,
    inception_fid,
    memorisation,
    precision_recall,
    score_samples_of,
    small_features,
    summarise_bits,
)

RNG = np.random.default_rng(0)


def test_frechet_is_that_of_the_fitted_gaussians():
    a = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)) + 1
    b = RNG.normal(size=(200, 5)) * 2
    first, second = np.cov(a.T), np.cov(b.T)
    root = sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert abs(frechet_distance(a, b) - expected) < 1e-9 * expected
    assert frechet_distance(a, a) < 1e-9
    shifted = frechet_distance(a, a + np.array([3, 0, 0, 0, 0]))
    assert abs(shifted - 9) < 1e-8
    flat = np.zeros((10, 5))
    assert abs(frechet_distance(flat, flat + 1) - 5) < 1e-9
    with pytest.raises(DataError, match="5 features, generated 4"):
        frechet_distance(a, b[:, :4])
    with pytest.raises(DataError, match="not finite"):
        frechet_distance(a, np.full((3, 5), np.nan))


def test_precision_and_recall_tell_fidelity_from_coverage():
    """Two islands; samples on one of them are all real, and cover half. False alarm below 1e-6."""
    islands = np.concatenate([RNG.normal(size=(400, 3)), 100 + RNG.normal(size=(400, 3))])
    one = RNG.normal(size=(800, 3))
    result = precision_recall(islands, one)
    assert result.precision > 0.9 and 0.4 < result.recall < 0.55
    away = precision_recall(islands, 1000 + one)
    assert away.precision == 0 and away.recall == 0
    same = precision_recall(islands, islands)
    assert same.precision == same.recall == 1
    with pytest.raises(ConfigError, match="k must be"):
        precision_recall(islands, one, 0)


def test_copies_are_found():
    """Training and test images of one kind: by chance one image in a hundred is as near as that."""
    images = RNG.integers(0, 256, (900, 4, 4, 1), dtype=np.uint8)
    train, test, fresh = images[:400], images[400:700], images[700:]
    honest = memorisation(fresh, train, test)
    assert honest.copies == 0 and honest.closer < 0.01 + 5 * honest.standard_error
    half = np.concatenate([fresh[:100], train[:100]])
    caught = memorisation(half, train, test)
    assert caught.copies == 100 and caught.closer >= 0.5
    assert caught.generated < honest.generated
    with pytest.raises(DataError, match="cannot be compared"):
        memorisation(fresh, train[:, :2], test)


def test_features_tell_digits_from_noise():
    digits = load_images("images/digits")
    a, b = digits.images[:800], digits.images[800:1600]
    features = small_features(a, 17)
    assert features.shape == (800, 64) and np.isfinite(features).all()
    near = frechet_distance(features, small_features(b, 17))
    shuffled = RNG.permuted(b.reshape(len(b), -1), axis=1).reshape(b.shape)
    assert frechet_distance(features, small_features(shuffled, 17)) > 5 * near
    scores = score_samples_of(b, a, digits.images[1000:], 17)
    assert scores.features == "modeflow-small-28" and scores.n == 797
    assert scores.frechet < 3 * scores.frechet_test + 1
    colour = small_features(np.repeat(a[:4], 3, -1), 17)
    np.testing.assert_allclose(colour, features[:4], atol=1e-4)


def test_fid_needs_its_network(tmp_path):
    images = np.zeros((4, 8, 8, 1), dtype=np.uint8)
    with pytest.raises(ConfigError, match="no Inception weights"):
        inception_fid(images, images, "nowhere.pth")
    if importlib.util.find_spec("torch_fidelity") is None:
        (tmp_path / "weights.pth").write_bytes(b"")
        with pytest.raises(ConfigError, match=r"pip install 'modeflow\[fid\]'"):
            inception_fid(images, images, tmp_path / "weights.pth")


def test_bits_per_dimension():
    nats = -np.log(2) * 64 * np.array([2.0, 3.0, 4.0])
    bits = summarise_bits(nats, np.full(3, 64 * np.log(2) * 0.1), "lower bound", 64)
    assert abs(bits.value - 3) < 1e-12 and abs(bits.standard_error - 1 / np.sqrt(3)) < 1e-12
    assert str(bits) == "3.000 ± 0.577 bits/dim (bound, n=3, of which z 0.100)"
    assert bits.to_dict()["dims"] == 64
    assert "z" not in str(summarise_bits(nats, np.zeros(3), "exact", 64))


def test_whole_numbers_are_not_scored_by_a_density_of_real_ones():
    import torch

    from modeflow.flows import Dequantized, Glow
    from modeflow.models import ImageVAE

    x = torch.from_numpy(load_images("images/digits").images[:20].transpose(0, 3, 1, 2).copy())
    flow = Glow((1, 8, 8), levels=1, steps=1, hidden_channels=8)
    with pytest.raises(DataError, match="no bound at whole numbers: score Dequantized"):
        image_bits(flow, x)
    bits = image_bits(Dequantized(flow, 17, draws=1), x, chunk=7)
    assert bits.n == 20 and bits.dims == 64 and bits.kind == "lower bound" and bits.code_length == 0
    vae = ImageVAE((1, 8, 8), levels=17, latent_options={"features": 2})
    assert image_bits(vae, x).code_length > 0
