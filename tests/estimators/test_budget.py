"""How long the estimators train by default: budgets in steps."""

from __future__ import annotations

import pytest

from modeflow import NVF, FlowDensity
from modeflow.errors import ConfigError
from modeflow.estimators.settings import Settings


def settings(kind=FlowDensity, **params):
    return Settings.of(kind(**params), 0)


@pytest.mark.parametrize("rows", [50, 300, 4_000, 30_000, 1_000_000])
def test_tables_of_all_sizes_get_enough_steps_and_not_many_more(rows):
    config = settings().training(rows)
    batches = -(-rows // config.batch_size)
    steps = config.max_epochs * batches
    assert 20_000 <= steps < 20_000 + batches or config.max_epochs == 30
    # Patience is used up after at least 50 steps an evaluation, not after a few steps of a short epoch.
    assert 50 <= config.evaluate_every * batches < 50 + batches or config.evaluate_every == 1


def test_what_is_given_in_epochs_stays():
    config = settings(max_epochs=7, batch_size=32).training(320)
    assert (config.max_epochs, config.batch_size) == (7, 32)
    for name in ("max_epochs", "batch_size"):
        for value in (0, "many", 2.5, True):
            with pytest.raises(ConfigError, match=f"{name} must be an integer of 1 or more or 'auto'"):
                settings(**{name: value})


def test_a_candidate_is_annealed_within_its_steps():
    for rows, length in ((4_000, 1), (400, 3), (8_500, 1)):
        config = settings(NVF).candidate("nsf-coupling", rows, length).training(rows)
        steps = config.max_epochs * -(-rows // config.batch_size)
        assert 200 * length <= steps <= 1_000 and config.patience is None
        assert config.learning_rate_at(0, steps) < config.learning_rate
        assert config.learning_rate_at(steps - 1, steps) < 0.01 * config.learning_rate
    short = settings(NVF, max_epochs=2).candidate("nsf-coupling", 4_000, 3).training(4_000)
    assert short.max_epochs == 4  # of half the rows


def test_a_variant_of_a_flow_keeps_what_the_user_gave():
    chosen = settings(NVF, flow="auto", flow_options={"layers": 2})
    shallow = chosen.with_recipe("nsf-autoregressive, shallow").params
    assert shallow["flow"] == "nsf-autoregressive"
    assert shallow["flow_options"] == {"layers": 2, "mixing": "reverse", "tail_bound": 5.0}
    assert settings(NVF, flow="maf").with_recipe("maf").params["flow"] == "maf"


@pytest.mark.parametrize(
    "options", [{"latent": "continuous"}, {"latent_options": {"objective": "elbo"}, "n_states": 2}]
)
def test_schedules_of_the_objective_end_before_patience_may(options):
    """They were shares of a budget that training hardly ever reaches."""
    given = settings(NVF, **options)
    open_yet = given.groups["latent_options"]
    found, before = open_yet.for_steps(given.steps(4_000)).to_dict(), open_yet.to_dict()
    filled = [v for k, v in found.items() if k.endswith("_steps") and v != before[k]]
    assert filled and all(0 < steps <= 4_000 for steps in filled)


def test_defaults_of_the_flow_give_way():
    flow = "nsf-autoregressive"
    default = settings(flow=flow).params["flow_options"]
    assert default["tail_bound"] == 5.0
    given = settings(flow=flow, flow_options={"tail_bound": 2.0, "bins": 4}).params["flow_options"]
    assert given == {**default, "tail_bound": 2.0, "bins": 4}
    assert settings(flow="maf").params["flow_options"] == {}


def test_weight_decay_is_of_few_rows_and_several_columns():
    """The rule of its docstring; what is given comes first, and continuous latents have none."""
    of = settings(NVF)
    assert [of.weight_decay(n, 9) for n in (300, 2_000, 4_000, 20_000)] == pytest.approx([2, 2, 0.5, 0.02])
    assert [of.weight_decay(300, d) for d in (1, 2, 3, 5, 40)] == pytest.approx([0, 0, 2 / 3, 2, 2])
    assert of.training(300, 9).weight_decay == 2 and of.training(300, 2).weight_decay == 0
    assert settings(NVF, training={"weight_decay": 0.3}).training(300, 2).weight_decay == 0.3
    assert settings(NVF, latent="continuous").training(300, 9).weight_decay == 0
