"""Groups of settings: what scikit-learn asks of them, what users may give, and their help."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields

import numpy as np
import pytest
from sklearn.base import clone

from modeflow.errors import ConfigError
from modeflow.latents import (
    CodesOptions,
    ContinuousOptions,
    DiscreteOptions,
    ImageContinuous,
    ImageStates,
    NoLatent,
)
from modeflow.models import IMAGE_LATENTS, LATENTS, LikelihoodOptions
from modeflow.options import Options
from modeflow.runs.config import RunConfig

GROUPS = [*LATENTS.values(), *IMAGE_LATENTS.values(), LikelihoodOptions]


@dataclass(kw_only=True)
class Outer(Options):
    """A group with another within.

    Arguments:
        size: how large, or how
            small. rate: no field.
        inner: the other.
    """

    size: int = 1
    inner: LikelihoodOptions = field(default_factory=LikelihoodOptions)


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_has_a_text_and_a_default(group):
    entries = group.fields_help()
    assert [name for name, *_ in entries] == [f.name for f in fields(group)]
    for name, default, text in entries:
        assert len(text) > 10 and text.endswith(".") and "  " not in text, name
        assert getattr(group(), name) == default


def test_help_reads_texts_of_several_lines_and_factories():
    assert Outer.fields_help() == [
        ("size", 1, "how large, or how small. rate: no field."),
        ("inner", LikelihoodOptions(), "the other."),
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_clones_and_plain_values(group):
    made = group()
    twin = clone(made)
    assert twin == made and twin is not made and type(twin) is group
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
    assert group.of(made.to_dict(), "x").to_dict() == made.to_dict()
    assert group.of(None, "x") == made == group.of({}, "x") and group.of(made, "x") is made


def test_a_clone_keeps_what_was_given():
    given = [8, 8]
    assert clone(DiscreteOptions(encoder_features=given)).encoder_features == given
    assert DiscreteOptions(encoder_features=given).encoder_features is given


def test_settings_are_set_by_name_all_or_none():
    options = DiscreteOptions()
    assert options.set_params(objective="elbo", temperature=0.5) is options
    assert (options.objective, options.temperature) == ("elbo", 0.5)
    before = options.get_params()
    with pytest.raises(ConfigError, match="no use for 'temperature'"):
        options.set_params(prior="uniform", objective="marginal")
    with pytest.raises(ConfigError, match="'objektive' is not known; did you mean 'objective'"):
        options.set_params(objektive="elbo")
    assert options.get_params() == before
    outer = Outer().set_params(size=3, inner__components=5)
    assert outer.size == 3 and outer.inner.components == 5 and outer.inner.draws == 1
    assert outer.get_params()["inner__components"] == 5 and "inner__components" not in outer.get_params(False)
    with pytest.raises(ConfigError, match="components must be an integer"):
        outer.set_params(size=4, inner__components=0)
    with pytest.raises(ConfigError, match="size has no settings within"):
        outer.set_params(size__x=4)
    assert outer.size == 3 and outer.inner.components == 5
    assert outer.to_dict() == {"size": 3, "inner": outer.inner.to_dict()}


def test_a_grid_search_sets_them():
    from sklearn.model_selection import ParameterGrid

    for point in ParameterGrid({"features": np.arange(1, 3), "draws": [2]}):
        options = clone(ContinuousOptions()).set_params(**point)
        assert (
            options.to_dict()["features"] == point["features"] and type(options.to_dict()["features"]) is int
        )


@pytest.mark.parametrize(
    ("group", "given", "message"),
    [
        (DiscreteOptions, {"epsilom": 1}, r"did you mean 'epsilon'\? \(options: prior, "),
        (NoLatent, {"features": 1}, r"'features' is not known \(options: none\)"),
        (DiscreteOptions, 3, "latent_options must be DiscreteOptions or a mapping .*, received 3"),
        (DiscreteOptions, ContinuousOptions(), "must be DiscreteOptions .*, received ContinuousOptions"),
        (DiscreteOptions, {3: 4}, "3 is not known"),
        (DiscreteOptions, {"prior": "learnt"}, "prior must be 'learned' or 'uniform', received 'learnt'"),
        (DiscreteOptions, {"objective": "elbow"}, "did you mean 'elbo'"),
        (DiscreteOptions, {"epsilon": 1.0}, r"epsilon must lie in \[0, 1\)"),
        (DiscreteOptions, {"free_bits": 1.0}, "'free_bits' is not known"),
        (DiscreteOptions, {"objective": "elbo", "epsilon": 0.1}, "no use for 'epsilon'"),
        (DiscreteOptions, {"encoder_features": 64}, "encoder_features must list the hidden widths"),
        (DiscreteOptions, {"encoder_features": "64"}, "encoder_features must list the hidden widths"),
        (ContinuousOptions, {"features": 0}, "features must be an integer of 1 or more, received 0"),
        (ContinuousOptions, {"posterior": "gausian"}, "did you mean 'gaussian'"),
        (ContinuousOptions, {"posterior": "iaf", "free_bits": 0.1}, "free_bits are of a Gaussian posterior"),
        (ContinuousOptions, {"objective": "reny"}, "did you mean 'renyi'"),
        (ContinuousOptions, {"objective": "iwae", "alpha": 0.5}, "'iwae' has no use for 'alpha'"),
        (ContinuousOptions, {"objective": "wake", "kl_warmup_steps": 3}, "no use for 'kl_warmup_steps'"),
        (ContinuousOptions, {"objective": "renyi", "alpha": -1.0}, "alpha must be 0 or more, received -1"),
        (ContinuousOptions, {"objective": "cubo", "order": 1.0}, "order must be above 1, received 1"),
        (ContinuousOptions, {"gradient": "dreg"}, "gradient must be 'total' or 'stl', received 'dreg'"),
        (ContinuousOptions, {"objective": "iwae", "gradient": "stl"}, "must be 'total' or 'dreg'"),
        (ContinuousOptions, {"gradient": "stl", "free_bits": 0.1}, "do not go with gradient='stl'"),
        (ContinuousOptions, {"train_draws": 0}, "train_draws must be an integer of 1 or more"),
        (ContinuousOptions, {"objective": "cubo", "posterior": "laplace"}, "made of the likelihood"),
        (ContinuousOptions, {"kl_warmup_steps": -1}, "kl_warmup_steps must be an integer of 0 or more"),
        (ImageStates, {"n_states": True}, "n_states must be an integer"),
        (ImageContinuous, {"draws": 0}, "draws must be an integer"),
        (CodesOptions, {"stages": ["prior"]}, "stages must be"),
        (CodesOptions, {"stages": "codes"}, "stages may name flow, prior, joint; received 'codes'"),
        (CodesOptions, {"prior": "lstm"}, "prior must be 'gpt2', 'masked', 'independent' or"),
        (CodesOptions, {"prior_options": {"widht": 3}}, "did you mean 'width'"),
        (CodesOptions, {"prior": "independent", "prior_options": {"width": 3}}, "no use for prior_options"),
        (CodesOptions, {"code_warmup": 1.5}, r"code_warmup must lie in \[0, 1\]"),
        (CodesOptions, {"codes_per_image": 0}, "codes_per_image must be an integer"),
        (LikelihoodOptions, {"start": 1.0}, r"start must lie in \[0, 1\)"),
        (LikelihoodOptions, {"entry": "pixel"}, "did you mean 'pixels'"),
        (LikelihoodOptions, {"dequantisation": "normal"}, "must be 'uniform' or 'variational'"),
    ],
)  # fmt: skip
def test_what_is_refused(group, given, message):
    with pytest.raises(ConfigError, match=message):
        group.of(given, "latent_options")


def test_schedules_that_were_left_open_follow_the_number_of_steps():
    assert DiscreteOptions().for_steps(900).hold_steps == 300
    assert DiscreteOptions().for_steps(9_000).hold_steps == 500
    assert DiscreteOptions(hold_steps=7).for_steps(900).hold_steps == 7
    elbo = DiscreteOptions(objective="elbo").for_steps(1000)
    assert (elbo.kl_warmup_steps, elbo.anneal_steps, elbo.hold_steps) == (100, 500, None)
    late = DiscreteOptions(objective="elbo").for_steps(100_000)
    assert (late.kl_warmup_steps, late.anneal_steps) == (2000, 4000)
    summed = DiscreteOptions(objective="elbo-sum").for_steps(1000)
    assert (summed.kl_warmup_steps, summed.anneal_steps) == (100, None)
    assert ContinuousOptions().for_steps(1000).kl_warmup_steps == 250
    assert ContinuousOptions(kl_warmup_steps=0).for_steps(1000).kl_warmup_steps == 0
    assert ContinuousOptions().for_steps(100_000).kl_warmup_steps == 2000
    assert ContinuousOptions(objective="renyi").for_steps(1000).kl_warmup_steps == 250
    assert ContinuousOptions(objective="wake").for_steps(1000).kl_warmup_steps is None
    assert ImageContinuous().for_steps(1000).kl_warmup_steps == 100
    assert ImageStates().for_steps(1000).hold_steps == 0  # clusters of images are no islands
    codes = CodesOptions(code_warmup=0.25).for_steps(1000)
    assert (codes.code_warmup_steps, codes.codebook_steps) == (250, 400)
    assert LikelihoodOptions().for_steps(1000).start_steps == 100
    assert LikelihoodOptions(start=0.9).for_steps(2).start_steps == 1
    assert NoLatent().for_steps(5) == NoLatent()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilon": "x"}, "latent_options.epsilon must be a number or null, received 'x'"),
        ({"objective": {}}, "latent_options.objective must be a text"),
        ({"encoder_features": 8}, "encoder_features must list the hidden widths"),
        ({"encoder_features": [8, "x"]}, "encoder_features must list the hidden widths"),
        ({"hold_steps": 1.5}, "latent_options.hold_steps must be a whole number or null, received 1.5"),
        ({"explore": True}, "latent_options.explore must be a number or null, received True"),
    ],
)
def test_a_value_of_another_kind_is_named(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        DiscreteOptions.of(given, "latent_options")


def test_values_of_numpy_are_numbers():
    found = DiscreteOptions.of({"epsilon": np.float32(0.5), "hold_steps": np.int64(3)}, "latent_options")
    assert found.hold_steps == 3


@pytest.mark.parametrize(
    "given",
    [{"domain": []}, {"columns": 1.5}, {"data": 1e308}, {"rows": "many"}, {"test": [1]}, {"model": {}}],
)
def test_a_setting_of_a_run_of_another_kind_is_named(given):
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must be"):
        RunConfig.build(given)
