"""Numbers filled: draws are those of the model's conditional density, on Gaussian tables the true ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from modeflow import NVF

R = 0.8


def gaussians(rows, rng):
    """Two standard normal columns of correlation R."""
    return rng.multivariate_normal(np.zeros(2), [[1, R], [R, 1]], rows)


@pytest.fixture(scope="module")
def fitted():
    """A tree with leaves, of 2,000 Gaussian rows, a fifth of whose cells are missing at random."""
    rng = np.random.default_rng(0)
    x = gaussians(2000, rng)
    x[rng.random(x.shape) < 0.2] = np.nan
    table = pd.DataFrame(x[~np.isnan(x).all(1)], columns=["a", "b"])
    options = {"likelihood": "leaves", "states": 16}
    return NVF(latent="tree", latent_options=options, max_epochs=20, random_state=0, device="cpu").fit(table)


def test_draws_have_the_moments_of_the_conditional_density(fitted):
    """Against quadrature of `log_prob_given`; five standard errors of mean and spread, four numbers: 2e-6."""
    n, grid = 20_000, np.linspace(-8, 8, 20_001)
    for b in (-1.3, 0.4):
        rows = pd.DataFrame({"a": grid, "b": b})
        density = np.exp(fitted.log_prob_given(rows, ["a"], ["b"]))
        mass = density * (grid[1] - grid[0])
        assert mass.sum() == pytest.approx(1, abs=1e-3)
        mean = mass @ grid
        spread, fourth = mass @ (grid - mean) ** 2, mass @ (grid - mean) ** 4
        (filled,) = fitted.impute(pd.DataFrame({"a": np.full(n, np.nan), "b": np.full(n, b)}), random_state=1)
        drawn = filled["a"].to_numpy()
        assert abs(drawn.mean() - mean) < 5 * np.sqrt(spread / n)
        assert abs(((drawn - mean) ** 2).mean() - spread) < 5 * np.sqrt((fourth - spread**2) / n)
        (guess,) = fitted.impute(pd.DataFrame({"a": [np.nan], "b": [b]}), how="mean", random_state=1)
        assert abs(guess["a"][0] - mean) < 5 * np.sqrt(spread / 100)


def test_imputations_of_gaussian_rows_are_right(fitted):
    """Of 2,000 new rows, half of the first column's cells missing: mean R b, variance 1 - R², 90 % intervals
    of 19 draws. The model's share of the error was 0.2 deviations, 12 per cent and a half; a plain draw from
    the column's own distribution would be off by 1.3 deviations and 180 per cent."""
    rng = np.random.default_rng(5)
    truth = gaussians(2000, rng)
    holed = truth.copy()
    holed[:1000, 0] = np.nan
    tables = fitted.impute(pd.DataFrame(holed, columns=["a", "b"]), 19, random_state=2)
    drawn = np.stack([t["a"].to_numpy()[:1000] for t in tables])
    for table in tables:
        np.testing.assert_array_equal(table["b"], truth[:, 1])
        np.testing.assert_array_equal(table["a"][1000:], truth[1000:, 0])
    z = (drawn - R * truth[:1000, 1]) / np.sqrt(1 - R**2)
    spread = z.var(0, ddof=1).mean()
    # The mean square of a mean of 19 draws is theirs and that of the model's error.
    error = np.sqrt(max((z.mean(0) ** 2).mean() - spread / 19, 0.0))
    below = (drawn < truth[:1000, 0]).sum(0)
    covered = ((below > 0) & (below < 19)).mean()
    assert abs(z.mean()) < 0.1 and error < 0.35 and abs(spread - 1) < 0.2
    assert abs(covered - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 1000)


def test_best_guesses_are_means_of_whole_numbers_too():
    """Also of few ones, which are modelled as levels; cells that are there stay to the last digit."""
    rng = np.random.default_rng(2)
    n = 300
    few = rng.choice([0, 1, 10], n, p=[0.4, 0.2, 0.4])  # likeliest 0 or 10, mean 4.2
    table = pd.DataFrame({"few": few, "real": rng.normal(size=n) / 3})
    options = {"likelihood": "leaves", "states": 2}
    model = NVF(latent="tree", latent_options=options, max_epochs=5, random_state=0).fit(table)
    assert model.schema_["few"].as_levels
    holed = table.astype({"few": float})
    holed.loc[:20, "few"] = np.nan
    (guess,) = model.impute(holed, how="mean", random_state=0)
    filled = guess["few"][:21]
    assert (filled == filled.round()).all() and ((filled - 4.2).abs() < 2.9).all()  # 0.5 and five errors
    there = holed.notna().to_numpy()
    np.testing.assert_array_equal(guess.to_numpy()[there], holed.to_numpy()[there])


@pytest.mark.parametrize("proposal", [False, True])
def test_a_column_given_all_others_under_a_flow_is_a_quotient_by_quadrature(proposal):
    """With a proposal too, whose bound of the marginal would make an estimate that is too high."""
    rng = np.random.default_rng(4)
    table = pd.DataFrame(gaussians(200, rng), columns=["a", "b"]).assign(k=list("uv") * 100)
    options = {"likelihood": "flow", "states": 3, "proposal": proposal}
    model = NVF(latent="tree", latent_options=options, max_epochs=2, random_state=0).fit(table)
    grid = np.linspace(-6, 6, 6001)
    rows = pd.DataFrame({"a": grid, "b": 0.7, "k": "u"})
    joint = model.score_samples(rows)
    whole = np.log(np.exp(joint).sum() * (grid[1] - grid[0]))
    np.testing.assert_allclose(model.log_prob_given(rows[::300], ["a"]), joint[::300] - whole, atol=5e-3)
    without = model.log_prob_given(rows[:1].assign(a=np.nan), ["a"]) if proposal else np.zeros(1)
    assert without == 0.0
