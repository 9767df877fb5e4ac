"""Conditionals of a fitted tree: Bayes' rule by brute force over all cells of a small table."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
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


def test_rows_without_a_cell_are_said_not_to_be_usual(fitted):
    rows = table(20, holes=0.0)
    rows.loc[4:5] = None
    with pytest.warns(
        UserWarning, match="2 of 20 rows have no cell at all, first data row 5: .* 0, that of"
    ) as told:
        found = fitted.score_samples(rows)
    assert (
        len(told) == 1
        and found[4:6] == pytest.approx(0, abs=1e-12)
        and (np.delete(found, [4, 5]) < -0.1).all()
    )


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


def test_levels_are_scored_with_a_row_and_alone(fitted, cells):
    rows, joint = cells
    found = np.exp(fitted.level_scores("b", rows)).reshape(2, 3, 2, 3)
    np.testing.assert_allclose(found[:, 0], joint.transpose(0, 2, 1), rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=0)
    np.testing.assert_allclose(np.exp(fitted.level_scores("b")), joint.sum((0, 2))[None], rtol=1e-9)


def test_one_value_may_be_given_for_each_row(fitted):
    drawn = fitted.sample_given({"a": ["x", "y", "x"], "c": "no"}, 3, random_state=0)
    assert drawn["a"].tolist() == ["x", "y", "x"] and (drawn["c"] == "no").all()
    with pytest.raises(ConfigError, match="'a' is given 2 values for 3 rows"):
        fitted.sample_given({"a": ["x", "y"]}, 3)


def test_a_number_far_from_all_rows_is_told():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(40, 12, 300), "kind": rng.choice(["a", "b"], 300)})
    options = {"likelihood": "leaves", "states": 2}
    model = NVF(latent="tree", latent_options=options, max_epochs=2, random_state=0).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample_given({"age": 95.0}, 3)
    with pytest.warns(UserWarning, match=r"age=900.0 lies far from all rows that the model was fitted to"):
        model.sample_given({"age": 900.0}, 3)
    with pytest.warns(UserWarning, match=r"age=-900.0 lies far"):
        model.sample_given({"age": [40.0, -900.0]}, 2)


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


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "dict", "numpy"])
def test_imputed_rows_keep_their_labels_and_dropped_columns(kind):
    if kind == "arrow":
        pytest.importorskip("pyarrow")
    x = table(120)
    x = x[x.notna().any(axis=1)].sample(frac=1, random_state=0)
    x.insert(1, "name", [f"r{i}" for i in x.index])
    x["unit"] = "cm"
    rows = x.to_numpy()
    if kind == "pandas":
        rows = x
    elif kind != "numpy":
        rows = pl.DataFrame({c: [None if pd.isna(v) else v for v in x[c]] for c in x})
        rows = {
            "polars": lambda: rows,
            "arrow": rows.to_arrow,
            "dict": lambda: rows.to_dict(as_series=False),
        }[kind]()
    name = "x1" if kind == "numpy" else "name"
    fitted = NVF(columns={name: "drop"}, latent_options=TREE, max_epochs=1, random_state=0).fit(rows)
    (filled,) = fitted.impute(rows, random_state=0)
    if kind == "pandas":
        assert filled.index.equals(x.index)
    found = filled if kind != "arrow" else pl.from_arrow(filled)
    cells = found if kind == "numpy" else np.column_stack([np.array(found[c], dtype=object) for c in x])
    assert cells.shape == x.shape and not pd.isna(cells).any()
    known = x.notna().to_numpy()
    assert (cells[known] == x.to_numpy()[known]).all()


def test_impossible_cells_are_named():
    x = table(120, holes=0.0).assign(unit="cm")
    fitted = NVF(latent_options=TREE, max_epochs=1, random_state=0).fit(x)
    with pytest.raises(DataError, match=r"column 'unit', data row 1 holds 'mm', .*unseen='missing'"):
        fitted.impute(x.assign(unit="mm"))
    odd = x.assign(c=["yes", "maybe", *["no"] * 118])
    with pytest.raises(DataError, match=r"column 'c', data row 2 holds 'maybe', .*unseen='missing'"):
        fitted.impute(odd)
    with pytest.raises(DataError, match="column 'c', data row 2 holds 'maybe'"):
        fitted.predict_column("a", odd)
    with pytest.raises(ConfigError, match="unseen='mising' is not known"):
        fitted.impute(odd, unseen="mising")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its own cells are not looked at
        own = fitted.predict_column("c", odd).probabilities
        np.testing.assert_array_equal(own, fitted.predict_column("c", x).probabilities)
    with pytest.raises(ConfigError, match=r"column 'unit' is constant\('cm'\): no part of the model"):
        fitted.sample_given({"unit": "cm"})
    with pytest.raises(DataError, match=r"column 'a' is given 'z', which categorical\(.*\) cannot have"):
        fitted.sample_given({"a": "z"})


def test_impossible_cells_are_filled_where_that_is_asked_for():
    x = table(120, holes=0.0).assign(unit="cm")
    fitted = NVF(latent_options=TREE, max_epochs=1, random_state=0).fit(x)
    odd, holed = x.copy(), x.copy()
    odd.loc[3, "c"], odd.loc[5, "a"], odd.loc[7, "unit"] = "maybe", "z", "mm"
    holed.loc[3, "c"], holed.loc[5, "a"] = None, None
    with pytest.warns(
        UserWarning, match="columns 'a', 'c', 'unit' .* 3 of 120 rows have cells that are taken"
    ):
        found = fitted.impute(odd, 2, unseen="missing", random_state=1)
    for one, other in zip(found, fitted.impute(holed, 2, random_state=1), strict=True):
        pd.testing.assert_frame_equal(one, other)
    with pytest.warns(UserWarning, match="taken as missing"):
        found = fitted.predict_column("b", odd, unseen="missing").probabilities
    np.testing.assert_array_equal(found, fitted.predict_column("b", holed).probabilities)


def test_of_an_impossible_cell_nothing_follows(fitted):
    """Asked for it has probability zero; given, no conditional density is there."""
    rows = pd.DataFrame({"a": ["z", "x"], "b": ["p", "p"], "c": ["no", "no"]})
    with pytest.warns(UserWarning, match="column 'a' has values"):
        assert np.isneginf(fitted.log_prob_given(rows, ["a"])).tolist() == [True, False]
    with pytest.warns(UserWarning, match="column 'a' has values") as told:
        assert np.isnan(fitted.log_prob_given(rows, ["b"])).tolist() == [True, False]
    assert len(told) == 1


def test_rows_are_looked_at_once(fitted, monkeypatch):
    """Warnings of values not seen came once for every look, and checks of missing cells once a table."""
    looks = {"encode": 0, "check": 0}
    encode, check = type(fitted.domain_.schema).encode_apart, type(fitted)._check_missing

    def encoding(self, *args, **kwargs):
        looks["encode"] += 1
        return encode(self, *args, **kwargs)

    def checking(self, *args, **kwargs):
        looks["check"] += 1
        return check(self, *args, **kwargs)

    monkeypatch.setattr(type(fitted.domain_.schema), "encode_apart", encoding)
    monkeypatch.setattr(type(fitted), "_check_missing", checking)
    x = table(40)
    for call, checks in (
        (lambda: fitted.impute(x, 5), 0),
        (lambda: fitted.likelihood_of(x), 1),
        (lambda: fitted.scores(x), 1),
        (lambda: fitted.predict_column("a", x), 0),
    ):
        looks.update(encode=0, check=0)
        call()
        assert looks == {"encode": 1, "check": checks}


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
    with pytest.raises(DataError, match=r"'b' is given 's', which .* cannot have"):
        fitted.sample_given({"b": "s"})
    with pytest.raises(DataError, match=r"'b' is given no value: leave it out to have it drawn"):
        fitted.sample_given({"b": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        numbers = pd.DataFrame({"n": rng.normal(size=60), "m": rng.normal(size=60), "k": list("uvw") * 20})
        bent = NVF(latent_options={"states": 3}, max_epochs=1, random_state=0).fit(numbers)
        holes = numbers.assign(n=numbers["n"].where(numbers.index != 3))
        with pytest.raises(DataError, match=r"row 4 has a missing cell.*likelihood': 'leaves'"):
            bent.score_samples(holes)


@pytest.fixture(scope="module")
def bent():
    """A number, and two columns of levels, under a flow."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 400), rng.integers(0, 3, 400)
    frame = pd.DataFrame(
        {"n": 2.0 * a - b + rng.normal(size=400), "a": np.array(["u", "v"])[a], "b": np.array(list("pqr"))[b]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"layers": 2, "hidden_features": 8, "blocks": 1, "bins": 4}
        fitted = NVF(latent_options={"states": 3}, flow_options=options, max_epochs=20, random_state=0).fit(
            frame
        )
    assert fitted.density_kind_ == "exact"
    return fitted


@pytest.fixture(scope="module")
def cells_of_bent(bent):
    """Of every pair of levels its probability (2, 3), by quadrature over the number."""
    axis = np.linspace(-25, 25, 20_001)
    mass = []
    for a, b in itertools.product("uv", "pqr"):
        density = np.exp(bent.score_samples(pd.DataFrame({"n": axis, "a": a, "b": b})))
        mass.append(density.sum() * (axis[1] - axis[0]))
    return np.reshape(mass, (2, 3))


def test_levels_without_numbers_have_their_exact_probability_under_a_flow(bent, cells_of_bent):
    assert cells_of_bent.sum() == pytest.approx(1, abs=2e-4)
    pairs = pd.DataFrame(list(itertools.product("uv", "pqr")), columns=["a", "b"]).assign(n=np.nan)
    found = np.exp(bent.score_samples(pairs[["n", "a", "b"]])).reshape(2, 3)
    assert found.sum() == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(found, cells_of_bent, atol=2e-4)
    alone = np.exp(bent.score_samples(pairs[["n", "a", "b"]].assign(b=None)[::3]))
    np.testing.assert_allclose(alone, found.sum(1), rtol=1e-10)


def test_levels_are_predicted_under_a_flow_by_every_level(bent):
    with pytest.raises(ConfigError, match="'n' has no levels: it is real"):
        bent.level_scores("n")
    axis = np.linspace(-4, 4, 9)
    rows = [pd.DataFrame({"n": axis, "a": a, "b": "q"}) for a in "uv"]
    joint = np.stack([np.exp(bent.score_samples(part)) for part in rows], 1)
    found = bent.predict_column("a", rows[0])
    np.testing.assert_allclose(found.probabilities, joint / joint.sum(1, keepdims=True), rtol=1e-9)
    assert np.ptp(found.probabilities[:, 0]) > 0.1


def test_rows_given_levels_follow_bayes_under_a_flow(bent):
    """Cells of a level and an interval, by quadrature: five standard errors each, false alarm 1e-5."""
    n, edges = 20_000, np.array([-np.inf, -2.0, -0.5, 0.5, 2.0, np.inf])
    drawn = bent.sample_given({"a": "v"}, n, random_state=1)
    assert (drawn["a"] == "v").all()
    axis = np.linspace(-25, 25, 20_001)
    mass = np.stack([np.exp(bent.score_samples(pd.DataFrame({"n": axis, "a": "v", "b": b}))) for b in "pqr"])
    place = np.digitize(axis, edges[1:-1])
    share = np.stack([mass[:, place == i].sum(1) for i in range(5)], 1) / mass.sum()
    at = np.digitize(drawn["n"], edges[1:-1])
    for j, i in itertools.product(range(3), range(5)):
        seen = float(((drawn["b"] == "pqr"[j]) & (at == i)).mean())
        # The grid is off by less than 1e-3.
        assert abs(seen - share[j, i]) < 5 * np.sqrt(share[j, i] * (1 - share[j, i]) / n) + 1e-3
    assert share.std() > 0.02


def test_levels_given_a_number_follow_bayes_under_a_flow(bent):
    """Drawn by a proposal that is fitted to samples: five standard errors of every pair, false alarm 4e-6."""
    n = 5000
    drawn = bent.sample_given({"n": 0.5}, n, random_state=1)
    assert (drawn["n"] == 0.5).all() and bent.conditional_kind_ == "estimate"
    pairs = pd.DataFrame(list(itertools.product("uv", "pqr")), columns=["a", "b"]).assign(n=0.5)
    joint = np.exp(bent.score_samples(pairs[["n", "a", "b"]]))
    for (a, b), share in zip(itertools.product("uv", "pqr"), joint / joint.sum(), strict=True):
        seen = float(((drawn["a"] == a) & (drawn["b"] == b)).mean())
        assert abs(seen - share) < 5 * np.sqrt(share * (1 - share) / n), (a, b)
    # p(n | a) with b summed out, of which the marginal of a is exact.
    found = bent.log_prob_given(pairs[["n", "a", "b"]], ["n"], ["a"])[::3]
    axis = np.linspace(-25, 25, 5001)
    for a, value in zip("uv", found, strict=True):
        rest = np.concatenate(
            [np.exp(bent.score_samples(pd.DataFrame({"n": axis, "a": a, "b": b}))) for b in "pqr"]
        )
        expected = joint.reshape(2, 3)["uv".index(a)].sum() / (rest.sum() * 0.01)
        assert value == pytest.approx(np.log(expected), abs=0.02)


def test_conditionals_that_a_flow_over_a_tree_has_itself_stay_exact(bent):
    domain = bent.domain_
    assert bent.conditional_kind_of(domain.given({"a": "v"})) == "exact"
    assert bent.conditional_kind_of(domain.given({"n": 0.5})) == "estimate"
    rows = pd.DataFrame({"n": [0.5], "a": ["u"], "b": ["q"]})
    assert bent.predict_column("a", rows).kind == bent.predict_column("n", rows).kind == "exact"


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
    lines = (tmp_path / "t.csv").read_text().splitlines()
    lines[2], lines[4], lines[6] = "x,p,maybe", "x,,no", "x,q,no"
    (tmp_path / "odd.csv").write_text("\n".join(lines))
    odd = ["impute", run, str(tmp_path / "odd.csv"), "-o", str(tmp_path / "g.csv")]
    capsys.readouterr()
    assert main(odd) == 2
    assert "column 'c', data row 2 holds 'maybe'" in (told := capsys.readouterr().err) and "--unseen" in told
    assert "warning" not in told and main([*odd, "--unseen", "missing"]) == 0
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and "taken as missing" in told
    filled = pd.read_csv(tmp_path / "g.csv")
    assert filled["c"][1] in ("no", "yes") and filled.iloc[5].tolist() == ["x", "q", "no"]
    assert main(["score", run, str(tmp_path / "odd.csv")]) == 0
    assert capsys.readouterr().err.count("column 'c' has values") == 1
    assert main(["sample", run, "-n", "4", "--given", "a=x,c=yes", "-o", "-"]) == 0
    lines = capsys.readouterr().out.split()
    assert len(lines) == 5 and all(line.startswith("x,") and line.endswith(",yes") for line in lines[1:])
    for given in ("a", "z=1", "a=zebra"):
        assert main(["sample", run, "-n", "4", "--given", given, "-o", "-"]) != 0
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
