"""Conditionals of a fitted tree: Bayes' rule by brute force over all cells of a small table."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from modeflow import NVF
from modeflow.cli import main
from modeflow.errors import ConfigError, DataError

NAMES = ("a", "b", "c")
LEVELS = (("x", "y"), ("p", "q", "r"), ("no", "yes"))
TREE = {"states": 3, "likelihood": "leaves"}


def table(n=300, holes=0.1):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, n)
    b = (a + rng.integers(0, 2, n)) % 3
    c = (rng.random(n) < 0.2 + 0.6 * (b == 1)).astype(int)
    codes = np.column_stack([a, b, c])
    frame = pd.DataFrame({name: np.array(LEVELS[j])[codes[:, j]] for j, name in enumerate(NAMES)})
    return frame.mask(pd.DataFrame(rng.random((n, 3)) < holes, columns=frame.columns))


@pytest.fixture(scope="module")
def fitted():
    x = table()
    return NVF(latent_options=TREE, max_epochs=4, random_state=0).fit(x[x.notna().any(axis=1)])


@pytest.fixture(scope="module")
def cells(fitted):
    """Every row that there is, and its probability, (2, 3, 2)."""
    rows = pd.DataFrame(list(itertools.product(*LEVELS)), columns=NAMES)
    return rows, np.exp(fitted.score_samples(rows)).reshape(2, 3, 2)


def test_the_probabilities_of_all_cells_sum_to_one(fitted, cells):
    assert fitted.density_kind_ == "exact"
    assert cells[1].sum() == pytest.approx(1, abs=1e-10)


def test_a_missing_cell_is_summed_out(fitted, cells):
    rows, joint = cells
    holes = rows.assign(b=None).drop_duplicates()
    np.testing.assert_allclose(np.exp(fitted.score_samples(holes)), joint.sum(1).ravel(), rtol=1e-10)


def test_conditional_densities_are_quotients(fitted, cells):
    rows, joint = cells
    found = np.exp(fitted.log_prob_given(rows, ["c"], ["b"])).reshape(joint.shape)
    pair = joint.sum(0)
    np.testing.assert_allclose(
        found, np.broadcast_to(pair / pair.sum(1, keepdims=True), joint.shape), rtol=1e-9
    )
    alone = np.exp(fitted.log_prob_given(rows, ["a"], [])).reshape(joint.shape)
    np.testing.assert_allclose(alone[:, 0, 0], joint.sum((1, 2)), rtol=1e-9)
    rest = np.exp(fitted.log_prob_given(rows, ["a"])).reshape(joint.shape)
    np.testing.assert_allclose(rest, joint / joint.sum(0), rtol=1e-9)


def test_a_column_is_predicted_from_the_others(fitted, cells):
    rows, joint = cells
    found = fitted.predict_column("b", rows)
    assert found.levels == LEVELS[1] and found.draws is None
    share = (joint / joint.sum(1, keepdims=True)).transpose(0, 2, 1)
    np.testing.assert_allclose(found.probabilities.reshape(2, 3, 2, 3)[:, 0], share, rtol=1e-9)
    assert (found.mode() == np.array(LEVELS[1])[found.probabilities.argmax(1)]).all()


def test_draws_follow_the_conditional(fitted, cells):
    """Five standard errors of every cell: a false alarm in 2e-6 for each of six."""
    n = 20_000
    drawn = fitted.sample_given({"c": "yes"}, n, random_state=1)
    assert (drawn["c"] == "yes").all() and list(drawn.columns) == list(NAMES)
    share = cells[1][:, :, 1] / cells[1][:, :, 1].sum()
    for (i, a), (j, b) in itertools.product(enumerate(LEVELS[0]), enumerate(LEVELS[1])):
        seen = float(((drawn["a"] == a) & (drawn["b"] == b)).mean())
        assert abs(seen - share[i, j]) < 5 * np.sqrt(share[i, j] * (1 - share[i, j]) / n)


def test_imputed_tables_keep_what_is_there(fitted):
    x = table()
    x = x[x.notna().any(axis=1)]
    first, second = fitted.impute(x, 2, random_state=0)
    for filled in (first, second):
        assert not filled.isna().any().any()
        known = x.notna().to_numpy()
        assert (filled.to_numpy()[known] == x.to_numpy()[known]).all()
    assert not first.equals(second)
    (same,) = fitted.impute(x, random_state=0)
    assert same.equals(first)
    (mean,) = fitted.impute(x, how="mean", random_state=0)
    assert not mean.isna().any().any()
    whole = x.dropna().reset_index(drop=True)
    assert fitted.impute(whole)[0].equals(whole)


def test_numbers_are_drawn_and_averaged():
    rng = np.random.default_rng(1)
    z = rng.integers(0, 2, 400)
    x = pd.DataFrame({"n": np.where(z, 5.0, -5.0) + 0.3 * rng.normal(size=400), "k": np.array(["u", "v"])[z]})
    x.loc[:40, "n"] = np.nan
    model = NVF(latent_options={"states": 4, "likelihood": "leaves"}, max_epochs=40, random_state=0).fit(x)
    found = model.predict_column("n", x)
    assert found.draws.shape == (400, 100) and found.levels is None
    assert np.abs(found.mode() - np.where(z, 5.0, -5.0)).mean() < 0.5
    (mean,) = model.impute(x, how="mean")
    assert np.abs(mean["n"][:41] - np.where(z[:41], 5.0, -5.0)).mean() < 0.7
    assert mean["n"].dtype == np.float64


def test_bad_questions_get_one_line(fitted):
    x = table()
    for wrong, message in (
        (lambda: fitted.sample_given({"d": 1}), r"no column 'd'"),
        (lambda: fitted.log_prob_given(x, ["a"], ["a"]), "'a' cannot be given and asked for"),
        (lambda: fitted.impute(x, 0), "m must be 1 or more"),
        (lambda: fitted.impute(x, how="median"), "how='median'"),
        (lambda: fitted.predict_column("z", x), "no column 'z'"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()
    with pytest.raises(DataError, match=r"'b'.*holds 's'"):
        fitted.sample_given({"b": "s"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        numbers = pd.DataFrame({"n": rng.normal(size=60), "k": list("uvw") * 20})
        bent = NVF(latent_options={"states": 3}, max_epochs=1, random_state=0).fit(numbers)
        with pytest.raises(ConfigError, match="likelihood': 'leaves'"):
            bent.impute(numbers)
        with pytest.raises(DataError, match="row 1 has a missing cell"):
            bent.score_samples(numbers.assign(n=np.nan))


def test_cells_are_filled_and_given_at_the_command_line(tmp_path, capsys):
    table().to_csv(tmp_path / "t.csv", index=False)
    run, data = str(tmp_path / "run"), str(tmp_path / "t.csv")
    settings = ["--set", "max_epochs=2", "--set", "latent_options.states=3", "--quiet"]
    frame = pd.read_csv(data)
    frame[frame.notna().any(axis=1)].to_csv(data, index=False)
    assert main(["fit", data, "-o", run, *settings]) == 0
    assert main(["impute", run, data, "-m", "2", "-o", str(tmp_path / "f.csv")]) == 0
    filled = pd.read_csv(tmp_path / "f.csv")
    assert list(filled.columns) == [*NAMES, "imputation"] and not filled.isna().any().any()
    assert set(filled["imputation"]) == {1, 2}
    capsys.readouterr()
    assert main(["sample", run, "-n", "4", "--given", "a=x,c=yes", "-o", "-"]) == 0
    lines = capsys.readouterr().out.split()
    assert len(lines) == 5 and all(line.startswith("x,") and line.endswith(",yes") for line in lines[1:])
    for given in ("a", "z=1", "a=zebra"):
        assert main(["sample", run, "-n", "4", "--given", given, "-o", "-"]) != 0
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
