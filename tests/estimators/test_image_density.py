"""The estimator of images: fit, score, sample, save, resume."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from modeflow import load_estimator
from modeflow.data import load_images
from modeflow.errors import ConfigError, DataError, ModelFileError

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

from modeflow.domains import ImageDomain
from modeflow.estimators import ImageDensity
from modeflow.estimators.fitting import Fit, FitData, warn_if_trivial
from modeflow.estimators.settings import Settings

CODES = {"n_codes": 4, "encoder_channels": 8, "prior_options": {"width": 16, "layers": 1, "heads": 2}}
#: Options of every latent.
LATENT = {
    "none": {},
    "sequential": CODES,
    "discrete": {"n_states": 3, "encoder_channels": 8},
    "continuous": {"features": 2, "encoder_channels": 8},
}
SMALL = {
    "levels": 17,
    "latent_options": CODES,
    "likelihood_options": {"decoder_channels": 8, "components": 2},
    "flow_options": {"levels": 1, "steps": 2, "hidden_channels": 8},
    "max_epochs": 2,
    "batch_size": 50,
    "random_state": 0,
}


def digits(n=200):
    return load_images("images/digits").images[:n]


def small(latent="sequential", **options):
    """A small estimator; options that it has not by itself are the latent's."""
    own = {k: options.pop(k) for k in list(options) if k in ImageDensity().get_params(deep=False)}
    return ImageDensity(latent, **{**SMALL, "latent_options": {**LATENT[latent], **options}, **own})


@pytest.fixture(scope="module")
def sequential():
    return ImageDensity(**SMALL).fit(digits())


def test_scores_and_bits_agree_and_do_not_depend_on_the_batch(sequential):
    x = digits(60)
    scores = sequential.score_samples(x)
    assert scores.shape == (60,) and (scores < 0).all()
    np.testing.assert_allclose(sequential.score_samples(x[10:13]), scores[10:13], rtol=1e-5)
    bits = sequential.bits_per_dim(x)
    assert abs(bits.value - -scores.mean() / (64 * np.log(2))) < 1e-9 and bits.kind == "lower bound"
    assert abs(bits.code_length - sequential.log_prob_and_cost(x)[1].mean() / (64 * np.log(2))) < 1e-9
    assert sequential.score(x) == scores.mean()
    assert str(sequential.likelihood_of(x)) == str(bits)
    assert sequential.validation_["n"] == 20


def test_float32_is_enough_for_bits(sequential):
    # What docs/training.md says of the precision of images: thousandths of a nat.
    x = digits(20)
    rows = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64))
    with torch.no_grad():
        wide = copy.deepcopy(sequential.model_).double().log_prob(rows).numpy()
    assert np.abs(sequential.score_samples(x) - wide).max() / (64 * np.log(2)) < 2e-5


def training(rows, **options):
    return Settings.of(ImageDensity(**options), 0).training(rows)


def test_few_images_are_trained_for_steps_not_epochs():
    config = training(720)
    assert config.max_epochs * 12 >= 2000 > (config.max_epochs - 1) * 12
    assert training(60_000).max_epochs == 20
    assert training(720, max_epochs=3).max_epochs == 3
    with pytest.raises(ConfigError, match="or 'auto', received 'automatic'"):
        ImageDensity(max_epochs="automatic").fit(digits(20))


def test_a_density_worse_than_uniform_pixels_is_not_silent():
    short = {"max_epochs": 1, "learning_rate": 1e-6}
    flat = np.random.default_rng(0).integers(0, 17, (60, 8, 8))
    with pytest.warns(UserWarning, match="worse than pixels drawn uniformly from their 17 values"):
        small("none", likelihood_options={"entry": "affine"}, **short).fit(flat)
    domain = ImageDomain((1, 8, 8), 17)
    data = FitData(flat[:51, ..., None], flat[51:, ..., None], None, None, domain)
    fit = Fit(Settings.of(small("none", **short), 0), data, 1)
    bit = -64 * np.log(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_trivial(fit.data, np.full(9, 4.0 * bit))  # log2(17) is 4.09
        warn_if_trivial(fit.data, bit * (4.1 + np.linspace(-0.03, 0.03, 9)))  # within two standard errors


@pytest.mark.parametrize("latent", ["none", "discrete", "continuous", "sequential"])
def test_save_gives_the_same_numbers_back(latent, tmp_path):
    x = digits(80)
    model = small(latent, max_epochs=1).fit(x)
    file = model.save(tmp_path / "m.safetensors")
    again = load_estimator(file)
    assert isinstance(again, ImageDensity) and again.get_params(deep=False) == model.get_params(deep=False)
    np.testing.assert_array_equal(again.score_samples(x[:9]), model.score_samples(x[:9]))
    first, z = model.sample(4, random_state=1)
    second, same = again.sample(4, random_state=1)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(z, same)
    assert again.validation_ == model.validation_ and again.training_["steps"] == 2
    if latent == "continuous":
        bounds = model.bounds(x)
        assert bounds["draws"] == 16 and bounds["elbo"].value >= bounds["iwae"].value
        np.testing.assert_allclose(bounds["iwae"].value, model.bits_per_dim(x).value, rtol=1e-6)
    else:
        with pytest.raises(ConfigError, match="of a continuous latent"):
            model.bounds(x)
    if latent == "none":
        return
    ways = model.interpolate(x[:2], x[2:4], 3)
    assert ways.shape == (2, 3, 8, 8, 1)
    np.testing.assert_array_equal(ways[:, 0], model.reconstruct(x[:2]))
    np.testing.assert_array_equal(ways[:, -1], model.reconstruct(x[2:4]))


def test_samples_by_temperature_state_and_likeness(sequential):
    images, codes = sequential.sample(6, random_state=0)
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8 and images.max() <= 16
    assert codes.shape == (6, 4) and codes.max() < 4
    cold, _ = sequential.sample(6, random_state=0, temperature=0.0, like=digits(1))
    assert (cold == cold[0]).all()
    np.testing.assert_array_equal(cold[0], sequential.reconstruct(digits(1))[0])
    _, like = sequential.sample(4, like=digits(2), random_state=0)
    np.testing.assert_array_equal(like, sequential.encode(digits(2))[[0, 1, 0, 1]])
    with pytest.raises(ConfigError, match="no state 0: the latent is codes"):
        sequential.sample(2, state=0)
    with pytest.raises(ConfigError, match="n_samples"):
        sequential.sample(0)
    with pytest.raises(ConfigError, match="temperature must be 0 or more"):
        sequential.sample(2, temperature=-1)
    states = small("discrete", max_epochs=1).fit(digits(80))
    images, z = states.sample(5, state=states.n_states_ - 1)
    assert (z == states.n_states_ - 1).all() and len(images) == 5
    with pytest.raises(ConfigError, match="state must lie in"):
        states.sample(2, state=9)


def test_stages_of_the_paper_fit_first_the_flow_then_the_prior():
    model = small(stages=["flow", "prior", "joint"]).fit(digits())
    stages = [row["stage"] for row in model.history_]
    assert stages == ["flow"] * 3 + ["prior"] * 3 + ["joint"] * 3
    first = [row for row in model.history_ if row["stage"] == "flow"][-1]
    assert "code_length" not in first and "nll" in first
    assert model.latent_.schedule_now.stage == "joint"
    with pytest.raises(ConfigError, match="stages must be"):
        small(stages=["prior"]).fit(digits())
    with pytest.raises(ConfigError, match="stages may name flow, prior, joint"):
        small(stages="codes").fit(digits())
    with pytest.raises(ConfigError, match="latent_options: 'stages' is not known"):
        small("none", stages=["flow", "prior"]).fit(digits())


def test_a_model_with_a_pretrained_prior_loads_without_its_folder(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(
        folder
    )
    model = small(max_epochs=1, prior_options={"pretrained": str(folder)}).fit(digits(80))
    file = model.save(tmp_path / "m.safetensors")
    for part in folder.iterdir():
        part.unlink()
    again = ImageDensity.load(file)
    np.testing.assert_array_equal(again.score_samples(digits(5)), model.score_samples(digits(5)))
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        small(prior_options={"layer": 1}).fit(digits(80))


@pytest.mark.parametrize("likelihood", ["flow", "logistic"])
def test_states_of_images_find_the_kinds_of_images(likelihood):
    """Zeros and ones: two states, one each. By chance the mutual information would be about 0.01."""
    from modeflow.metrics import normalized_mutual_information

    data = load_images("images/digits")
    chosen = data.labels < 2
    x, y = data.images[chosen], data.labels[chosen]
    model = small("discrete", likelihood=likelihood, n_states=2, max_epochs=4, learning_rate=3e-3).fit(x)
    assert model.n_states_ == 2
    assert normalized_mutual_information(model.encode(x), y) > 0.8
    assert model.bits_per_dim(x).code_length > 0.5 / 64


class Stop(Exception):
    pass


def test_a_training_that_was_cut_short_goes_on_bit_for_bit(tmp_path, monkeypatch):
    x = digits()
    whole = ImageDensity(**SMALL).fit(x)
    from modeflow.training.loop import Loop

    real, count = Loop._step, 0

    def counted(self, index, x):
        nonlocal count
        count += 1
        if count == 6:
            raise Stop
        return real(self, index, x)

    monkeypatch.setattr(Loop, "_step", counted)
    monkeypatch.setattr(Loop, "_time_to_save", lambda self: True)
    with pytest.raises(Stop):
        ImageDensity(**SMALL).fit(x, run_dir=tmp_path)
    monkeypatch.undo()
    resumed = ImageDensity(**SMALL).fit(x, run_dir=tmp_path, resume=True)
    for a, b in zip(whole.model_.state_dict().values(), resumed.model_.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_bad_images_and_settings():
    model = ImageDensity(**SMALL)
    with pytest.raises(DataError, match="X': pixels must be whole numbers 0 to 16"):
        model.fit(digits() + 0.5)
    with pytest.raises(DataError, match="too few to fit"):
        model.fit(digits(2))
    with pytest.raises(DataError, match="validation: images are 4 x 4"):
        model.fit(digits(), validation=np.zeros((2, 4, 4)))
    with pytest.raises(ConfigError, match="start must lie"):
        ImageDensity(**{**SMALL, "likelihood_options": {"start": 1.0}}).fit(digits())
    with pytest.raises(ConfigError, match="code_warmup must lie"):
        small(code_warmup=1.5).fit(digits())
    with pytest.raises(ConfigError, match="validation_fraction"):
        ImageDensity(**{**SMALL, "validation_fraction": 0.0}).fit(digits())
    with pytest.raises(ConfigError, match="'step' is not an option of glow; did you mean 'steps'"):
        ImageDensity(**{**SMALL, "flow_options": {"step": 3}}).fit(digits())
    assert clone(model).get_params() == model.get_params()


def test_images_of_another_size_or_kind_are_refused(sequential, tmp_path):
    with pytest.raises(DataError, match="4 x 4 with 1 channels, those of the model 8 x 8"):
        sequential.score_samples(np.zeros((2, 4, 4)))
    with pytest.raises(DataError, match="pixels go from 255 to 255; with 17 levels"):
        sequential.score_samples(np.full((2, 8, 8), 255))
    with pytest.raises(DataError, match="2 images cannot go to 1"):
        sequential.interpolate(digits(2), digits(1))
    file = sequential.save(tmp_path / "m.safetensors")
    from modeflow import NVF

    with pytest.raises(ModelFileError, match="holds a ImageDensity, not a NVF"):
        NVF.load(file)
    raw = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    assert "modeflow" in raw["__metadata__"]
