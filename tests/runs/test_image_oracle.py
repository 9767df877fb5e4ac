"""Every number of a run on images, recomputed from the saved model and the images of its split."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch.nn import functional as F

import oracle
from modeflow import ImageDensity
from modeflow.estimators import base
from modeflow.runs import RunConfig, fit_run
from watched import LIFT, watched, wrong_modes

N, LEVELS, SIDE, SEED = 60, 8, 4, 3
DIMS = SIDE * SIDE
BITS = 1 / (DIMS * math.log(2))
WIDTH = {"encoder_channels": 4}
SMALL = {
    "seed": SEED,
    "halvings": 1,
    "likelihood_options": {"decoder_channels": 4, "components": 2},
    "max_epochs": 3,
    "batch_size": 16,
    "training": {"patience": None},
}


def pictures(n: int = N, seed: int = 0) -> np.ndarray:
    """Bright or dark above a gradient: two kinds, ``(N, H, W, 1)``."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=(n, 1, 1))
    ramp = np.linspace(0, 2, SIDE)[:, None]
    noise = rng.integers(0, 3, (n, SIDE, SIDE))
    return np.clip(4 * kind + ramp + noise, 0, LEVELS - 1).astype(np.uint8)[..., None]


def split(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test images, as `split_images` documents them."""
    return tuple(images[np.sort(rows)] for rows in oracle.split_rows(len(images), SEED))


def fit(folder, name, images, **settings):
    np.save(folder / f"{name}.npy", images * (256 // LEVELS))
    config = RunConfig.build({**SMALL, "data": str(folder / f"{name}.npy"), "bits": 3, **settings})
    run = fit_run(config, folder / name)
    return run, json.loads((run.path / "result.json").read_text()), oracle.saved(run)


def check_bits(told: dict, log_prob: np.ndarray, within: float = 1e-4) -> None:
    value, error = oracle.mean_and_error(-log_prob * BITS)
    assert told["value"] == pytest.approx(value, abs=within)
    assert told["standard_error"] == pytest.approx(error, abs=within)
    assert (told["n"], told["dims"]) == (len(log_prob), DIMS)


def as_batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2)).float()


@torch.no_grad()
def test_states_of_images(tmp_path):
    run, told, model = fit(
        tmp_path, "states", pictures(), model="discrete-vae", latent_options={**WIDTH, "n_states": 2}
    )
    parts = dict(zip(("train", "validation", "test"), split(pictures()), strict=True))
    assert told["rows"] == {"train": 48, "validation": 6, "test": 6}
    assert [len(part) for part in parts.values()] == [48, 6, 6]
    inner = model.latent_
    log_pi = torch.log_softmax(inner.prior.logits.double(), 0).numpy()
    for name in ("validation", "test"):
        images = parts[name]
        columns = []
        for k in range(2):
            context = F.one_hot(torch.full((len(images),), k), 2).float()
            columns.append(log_pi[k] + oracle.pixel_log_probs(inner.likelihood.bins, images, context))
        joint = np.stack(columns, 1)
        check_bits(told["bits_per_dim"][name], logsumexp(joint, 1))
        post = softmax(joint, 1)
        cost = (post * (np.log(np.maximum(post, 1e-300)) - log_pi)).sum(1)
        assert told["bits_per_dim"][name]["code_length"] == pytest.approx(cost.mean() * BITS, abs=1e-4)
        assert told["bits_per_dim"][name]["kind"] == told["density"] == "exact"
        if name == "validation":
            check_bits(model.validation_, logsumexp(joint, 1))
            best = max(row["validation"] for row in model.history_ if "validation" in row)
            assert told["training"]["best_validation"] == best
            # While training by the states that the encoder finds likely: a bound, nearly tight.
            assert best == pytest.approx(logsumexp(joint, 1).mean(), abs=0.05)
    # What the state that the encoder names gives back.
    state = inner.encoder.net(as_batch(parts["test"])).argmax(1)
    weight, mean, _ = inner.likelihood.bins.parameters_at(F.one_hot(state, 2).float())
    back = ((weight * mean.clamp(-1, 1)).sum(1) + 1) / 2 * (LEVELS - 1)
    error = (back.round().numpy() - parts["test"].transpose(0, 3, 1, 2)) / (LEVELS - 1)
    assert told["measures"][0]["value"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
    assert told["n_parameters"] == sum(p.numel() for p in run.estimator.model_.parameters())


@torch.no_grad()
def test_codes_of_images(tmp_path):
    pytest.importorskip("vector_quantize_pytorch")
    codes = {**WIDTH, "prior": "independent", "n_codes": 3, "code_features": 2}
    options = {"model": "vq-vae", "latent_options": codes}
    _, told, model = fit(tmp_path, "codes", pictures(), **options)
    *_, test = split(pictures())
    inner = model.latent_
    e = inner.encoder(as_batch(test)).flatten(2).mT
    e = e / e.norm(dim=2, keepdim=True) * math.sqrt(2)
    book = inner.quantizer.codebook
    codes = torch.cdist(e, book[None].expand(len(e), -1, -1)).argmin(2)
    log_p = torch.log_softmax(next(inner.prior.parameters()).double(), -1)
    length = -log_p[torch.arange(codes.shape[1]), codes].sum(1).numpy()
    context = book[codes].mT.flatten(1)
    likelihood = oracle.pixel_log_probs(inner.likelihood.bins, test, context)
    check_bits(told["bits_per_dim"]["test"], likelihood - length)
    assert told["bits_per_dim"]["test"]["code_length"] == pytest.approx(length.mean() * BITS, abs=1e-4)
    assert told["bits_per_dim"]["test"]["kind"] == "lower bound"
    share = np.bincount(codes.flatten().numpy(), minlength=3) / codes.numel()
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    assert told["codes"] == {
        "per_image": 4,
        "used": int((share > 0).sum()),
        "perplexity": pytest.approx(math.exp(entropy)),
    }


@torch.no_grad()
def test_bounds_of_images(tmp_path):
    options = {"model": "vae", "latent_options": {**WIDTH, "features": 1, "draws": 8}}
    _, told, model = fit(tmp_path, "bounds", pictures(), **options)
    *_, test = split(pictures())
    inner = model.latent_
    encoded = inner.encoder(as_batch(test))
    mean, log_scale = encoded.location, encoded.log_scale
    normal = torch.distributions.Normal(0.0, 1.0)
    q = torch.distributions.Normal(mean, log_scale.exp())
    weights = []
    for _ in range(320):
        z = q.sample()
        prior = (normal.log_prob(z) - q.log_prob(z)).sum(1).numpy()
        weights.append(oracle.pixel_log_probs(inner.likelihood.bins, test, z) + prior)
    each = np.stack(weights, 1)
    eight = logsumexp(each.reshape(len(test), 40, 8), 2) - math.log(8)
    # Five standard errors of the eight draws that were reported, by the spread of ours; and of our own mean.
    for name, ours, noise in (("elbo", each, each.var(1) / 8), ("iwae", eight, eight.var(1))):
        error = np.sqrt(noise.sum()) / len(test) * BITS
        assert abs(told["bounds"][name]["value"] + ours.mean() * BITS) < 5.5 * error + 1e-4
        assert error < 0.1
    assert told["bits_per_dim"]["test"]["value"] == pytest.approx(told["bounds"]["iwae"]["value"], abs=1e-6)
    kl = (0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale).sum(1).numpy()
    assert told["bits_per_dim"]["test"]["code_length"] == pytest.approx(kl.mean() * BITS, abs=1e-4)


def test_a_model_of_images_knows_nothing_of_the_test_images(tmp_path):
    *_, rows = oracle.split_rows(N, SEED)
    moved = pictures()
    moved[rows] = LEVELS - 1 - moved[rows]
    options = {"model": "vae", "latent_options": {**WIDTH, "features": 1}, "max_epochs": 1}
    (_, one, a), (_, two, b) = (
        fit(tmp_path, name, images, **options) for name, images in (("one", pictures()), ("two", moved))
    )
    a, b = a.model_.state_dict(), b.model_.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert one["bits_per_dim"]["validation"] == two["bits_per_dim"]["validation"]
    assert one["bits_per_dim"]["test"] != two["bits_per_dim"]["test"]


@pytest.fixture(autouse=True)
def _short_start(monkeypatch):
    """Where states start is tested elsewhere."""
    monkeypatch.setattr(base, "START_STEPS", 20)


# -- by a flow that writes down what it is shown


def marked(n: int, first: int) -> np.ndarray:
    """Images that their first two pixels tell apart; levels are multiples of 4, so that noise shows."""
    number = np.arange(first, first + n)
    images = 4 * np.random.default_rng(first).integers(0, 15, (n, 4, 4, 1))
    images[:, 0, 0, 0], images[:, 0, 1, 0] = 4 * (number // 12), 4 * (number % 12)
    return images.astype(np.uint8)


def numbers_and_noise(seen) -> tuple[np.ndarray, np.ndarray]:
    """Which images a flow was shown, and the noise of every pixel."""
    values = (torch.cat([s.rows for s in seen]).numpy() + 0.5) * 64
    levels = 4 * np.floor((values + 1.5) / 4)
    return (levels[:, 0, 0, 0] * 12 + levels[:, 0, 0, 1]).astype(int) // 4, values - levels


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("latent", ["none", "continuous"])
def test_rows_modes_and_noise_of_a_fit_to_images(latent, held_out):
    images, held = marked(80, 0), marked(20, 80)
    options = {k: v for k, v in SMALL.items() if k != "seed"}
    options["likelihood_options"] = {**SMALL["likelihood_options"], "entry": "affine"}
    if latent == "continuous":
        options["latent_options"] = {**WIDTH, "features": 1, "draws": 2}
    with watched() as watch:
        model = ImageDensity(
            latent,
            flow="watched-image",
            levels=64,
            random_state=0,
            **options,
        )
        model.fit(images, validation=None if held_out else held)
        seen = watch.take()
        drawn, _ = model.sample(5)
        scores = model.score_samples(held)
        after = watch.take()
    assert wrong_modes(seen) == [] and not any(s.training for s in after)
    steps = [i for i, s in enumerate(seen) if s.gradient]
    trained, noise = numbers_and_noise([seen[i] for i in steps])
    scored, other = numbers_and_noise([s for s in seen[steps[0] : steps[-1]] if not s.gradient])
    expected = set(range(80)) if held_out else set(range(100))
    assert not set(trained) & set(scored) and set(trained) | set(scored) == expected
    assert set(trained) == set(range(80)) or held_out
    assert len(set(scored)) == (8 if held_out else 20) == model.validation_["n"]
    for part in (noise, other, numbers_and_noise([s for s in after if s.part == "flow"])[1]):
        assert part.min() > -1e-3 and part.max() < 1 + 1e-3
        # Twelve is the variance of uniform numbers, one in 16 pixels is alone in a row: five standard errors.
        assert abs(part.mean() - 0.5) < 5 * math.sqrt(1 / 12 / part.size) and abs(part.var() - 1 / 12) < 0.01
    # Scores and validation are without what the model claims in training mode, the loss is with it.
    assert scores.max() < 0 and drawn.max() < 64
    best = max(row["validation"] for row in model.history_ if "validation" in row)
    assert abs(best + model.validation_["value"] / BITS) < LIFT / 4
    assert abs(model.history_[-1]["nll"] + best + LIFT) < LIFT / 2
