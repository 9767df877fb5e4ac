"""Hidden pixels: filled from their conditional, left out where a model is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeflow import load_estimator
from modeflow.data import hidden_pixels, read_mask
from modeflow.errors import ConfigError, DataError
from modeflow.estimators import ImageDensity
from modeflow.testing import perturb

LEVELS = 5
SMALL = {
    "latent": "continuous",
    "likelihood": "gaussian",
    "levels": LEVELS,
    "halvings": 1,
    "max_epochs": 1,
    "batch_size": 20,
    "likelihood_options": {"decoder_channels": 4},
    "random_state": 0,
}
CHAIN = {
    "posterior": "langevin",
    "features": 1,
    "draws": 2,
    "langevin_steps": 30,
    "langevin_step_size": 0.1,
    "langevin_adjusted": True,
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, LEVELS, (40, 4, 4, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(images):
    """By images with holes; then with parameters that z matters to."""
    holed = np.where(hidden_pixels(images.shape, "random:0.4", 1), np.nan, images)
    estimator = ImageDensity(latent_options=CHAIN, **SMALL).fit(holed)
    assert np.isfinite(estimator.history_[-1]["train_loss"])
    for model in (estimator.model_, estimator._scorer()):
        perturb(model, 0.4, seed=3)
    return estimator


@torch.no_grad()
def conditional(model, x):
    """Means and variances of the hidden pixels given the others, by quadrature over z in one dimension."""
    z = torch.linspace(-9, 9, 1801, dtype=model.dtype).unsqueeze(1)
    rows = x.expand(len(z), *x.shape[1:])
    weight = torch.softmax((model.likelihood_log_prob(rows, z) + model.prior.log_prob(z)).double(), 0)
    means, variances = [], []
    for place in x.isnan()[0].nonzero():
        each = torch.zeros(len(z), LEVELS, dtype=torch.float64)
        for level in range(LEVELS):
            alone = torch.full_like(rows, float("nan"))
            alone[(slice(None), *place)] = level
            each[:, level] = model.likelihood_log_prob(alone, z).exp()
        values = torch.arange(LEVELS, dtype=torch.float64)
        p = weight @ each
        assert abs(float(p.sum()) - 1) < 1e-4
        means.append(p @ values)
        variances.append(p @ values.square() - (p @ values) ** 2)
    return torch.stack(means).numpy(), torch.stack(variances).numpy()


def test_hidden_pixels_have_their_conditional_mean(fitted, images):
    """Every score of a normal below five: a false alarm in 200,000 for the eight pixels."""
    hidden, n = hidden_pixels((1, 4, 4, 1), "left"), 1200
    x = np.where(hidden, np.nan, images[:1])
    latent = fitted.latent_
    mean, variance = conditional(latent, fitted.domain_.to_tensor(x).to(latent.dtype))
    drawn = fitted.inpaint(np.repeat(x, n, 0), how="draw")
    assert (drawn[:, ~hidden[0]] == images[0][~hidden[0]]).all()
    found = drawn.transpose(0, 3, 1, 2)[:, hidden[0].transpose(2, 0, 1)].mean(0)
    assert (np.abs(found - mean) < 5 * np.sqrt(variance / n)).all()
    # It can fail: the pixels that are seen matter.
    other = np.where(hidden, np.nan, LEVELS - 1 - images[:1])
    elsewhere, _ = conditional(latent, fitted.domain_.to_tensor(other).to(latent.dtype))
    assert (np.abs(elsewhere - mean) > 5 * np.sqrt(variance / n)).any()


def test_what_is_hidden_is_not_looked_at(fitted, images, tmp_path):
    hidden = hidden_pixels(images.shape, "bottom")
    other = np.where(hidden, LEVELS - 1 - images, images)
    filled = fitted.inpaint(images, hidden, draws=4)
    assert filled.dtype == np.uint8 and filled.shape == images.shape and filled.max() < LEVELS
    assert np.array_equal(filled, fitted.inpaint(other, hidden[0, ..., 0], draws=4))
    assert np.array_equal(filled[~hidden], images[~hidden])
    assert np.array_equal(filled, fitted.inpaint(np.where(hidden, np.nan, images), draws=4))
    loaded = load_estimator(fitted.save(tmp_path / "m.safetensors"))
    assert np.array_equal(filled, loaded.inpaint(images, hidden, draws=4))
    holed = np.where(hidden, np.nan, images)
    assert (fitted.score_samples(holed) > fitted.score_samples(images)).mean() > 0.9


def test_rules_and_masks(tmp_path):
    shape = (3, 6, 5, 2)
    assert hidden_pixels(shape, "left")[:, :, :2].all() and not hidden_pixels(shape, "left")[:, :, 2:].any()
    assert hidden_pixels(shape, "right")[:, :, 3:].all() and hidden_pixels(shape, "right").mean() == 2 / 5
    assert hidden_pixels(shape, "top")[:, :3].all() and hidden_pixels(shape, "bottom")[:, 3:].all()
    assert hidden_pixels(shape, "centre")[:, 1:4, 1:3].all()
    assert hidden_pixels(shape, "centre").sum() == 3 * 3 * 2 * 2
    random = hidden_pixels((100, 20, 20, 2), "random:0.3", 1)
    assert abs(random.mean() - 0.3) < 5 * (0.21 / 40_000) ** 0.5 and (random[..., 0] == random[..., 1]).all()
    mask = np.random.default_rng(0).random(shape) < 0.5
    for name, given in (("a", mask), ("b", mask[..., 0]), ("c", mask[0, ..., 0].astype(int))):
        np.save(tmp_path / f"{name}.npy", given)
        found = read_mask(tmp_path / f"{name}.npy", shape)
        expected = {"a": mask, "b": mask[..., :1], "c": mask[:1, ..., :1]}[name]
        assert np.array_equal(found, np.broadcast_to(expected, shape))


def test_what_does_not_fit_is_said_in_one_line(fitted, images, tmp_path):
    hidden = hidden_pixels(images.shape, "left")
    holed = np.where(hidden, np.nan, images)
    vae = ImageDensity(latent_options={"features": 1, "draws": 2, "encoder_channels": 4}, **SMALL)
    np.save(tmp_path / "m.npy", np.zeros((3, 3)))
    cases = [
        (lambda: vae.fit(holed), ConfigError, "does not leave out"),
        (lambda: vae.fit(images).score_samples(holed), DataError, "image 1 has hidden pixels"),
        (lambda: vae.inpaint(images, hidden), ConfigError, "latent-flow"),
        (lambda: fitted.inpaint(images, hidden[:, :2]), DataError, "hidden has shape"),
        (lambda: fitted.inpaint(images, np.ones((4, 4))), DataError, "all pixels of image 1 are hidden"),
        (lambda: fitted.inpaint(images, hidden, how="mode"), ConfigError, "use 'mean' or 'draw'"),
        (lambda: fitted.inpaint(images, hidden, draws=0), ConfigError, "draws must be"),
        (lambda: hidden_pixels(images.shape, "lefft"), ConfigError, "did you mean 'left'"),
        (lambda: hidden_pixels(images.shape, "random:2"), ConfigError, "share between 0 and 1"),
        (lambda: read_mask(tmp_path / "m.npy", images.shape), DataError, "has shape"),
        (lambda: read_mask(tmp_path / "no.npy", images.shape), DataError, "cannot be read"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
