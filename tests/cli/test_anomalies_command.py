"""`modeflow anomalies`: what it writes and says, and bad input."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from mixed_files import SMALL, write

from modeflow.cli import main
from modeflow.metrics import rank_p_values
from modeflow.runs import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a mixed table, and rows to be ranked: usual ones, three odd ones, an empty one, a bad one."""
    folder = tmp_path_factory.mktemp("odd")
    write(folder / "table.csv", n=240)
    told = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet", *SMALL]
    told += ["--set", "latent_options.likelihood=leaves", "--set", "max_epochs=8", "--test", "0.25"]
    assert main([str(a) for a in told]) == 0
    write(folder / "new.csv", n=40, seed=5)
    with (folder / "new.csv").open("a") as file:
        file.write("400,Oslo,1980-03-14,40,cm\n170,Paris,1980-03-14,40,cm\n,,,,\nx,Oslo,1980-03-14,40,cm\n")
    return folder


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    pl.DataFrame({"a": x[:, 0], "b": x[:, 0] + 0.2 * x[:, 1]}).write_csv(folder / "table.csv")
    told = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet"]
    for setting in ("n_states=1", "flow=nsf-coupling", "flow_options.hidden_features=8", "max_epochs=20"):
        told += ["--set", setting]
    assert main([str(a) for a in told]) == 0
    pl.DataFrame({"a": [0.1, 1.0, 8.0], "b": [0.1, -1.0, 8.0]}).write_csv(folder / "new.csv")
    return folder


@pytest.fixture(scope="module")
def detected(numbers):
    """The same run with a detector, as it is by default, and three rows more to be ranked."""
    told = ["fit", numbers / "table.csv", "-o", numbers / "detected", "--quiet", "--set", "detector=true"]
    for setting in ("n_states=1", "flow=nsf-coupling", "flow_options.hidden_features=8", "max_epochs=2"):
        told += ["--set", setting]
    assert main([str(a) for a in told]) == 0
    return numbers


def call(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    return code, *capsys.readouterr()


def test_what_is_written(run, capsys):
    out = run / "odd.csv"
    code, text, said = call(capsys, "anomalies", run / "run", run / "new.csv", "-o", out)
    assert code == 0 and "among 60 test rows (2.1 would if all were usual)" in text
    assert "row 44: column 'height' holds 'x'" in said and said.count("'city' has values") == 1
    found = pl.read_csv(out)
    names = ["height", "city", "born", "wind"]
    assert found.columns[:4] == ["row", "log_density_lower_bound", "p_value", "why"]
    assert found.columns[4:] == [f"nats_{name}" for name in names]
    assert found["row"].to_list() == list(range(1, 45))
    fitted = load_run(run / "run")
    held = fitted.held_scores()
    assert len(held) == fitted.result["rows"]["test"] == 60
    scores = found["log_density_lower_bound"].to_numpy()[:42]
    np.testing.assert_allclose(found["p_value"].to_numpy()[:42], rank_p_values(scores, held))
    assert found["p_value"][42:].is_null().all(), "of nothing nothing is said"
    odd = found.filter(pl.col("p_value") <= 0.05)
    assert odd["why"].is_not_null().all() and found.filter(pl.col("p_value") > 0.05)["why"].is_null().all()
    assert found["why"][40].startswith("height (+") and found["why"][41] == "city (no value of it)"
    assert found["nats_height"][40] > 3 and found["nats_city"][41] == np.inf


def test_test_scores_are_those_of_the_test_rows(run):
    fitted = load_run(run / "run")
    _, parts = fitted.data()
    np.testing.assert_allclose(fitted.estimator.score_samples(parts.test), fitted.held_scores())


def test_the_oddest_and_json(run, capsys):
    code, text, _ = call(capsys, "anomalies", run / "run", run / "new.csv", "--top", 2, "--json")
    told = json.loads(text)
    assert code == 0 and [row["row"] for row in told["oddest_rows"]] == [42, 41]
    assert next(iter(told["oddest_rows"][1]["why"])) == "height"
    assert (told["rows"], told["rows_held_out"], told["rows_without_cells"]) == (44, 60, [43])
    assert told["rows_without_score"][0]["row"] == 44
    out = run / "two.parquet"
    assert call(capsys, "anomalies", run / "run", run / "new.csv", "--top", 2, "-o", out)[0] == 0
    assert pl.read_parquet(out)["row"].to_list() == [42, 41]
    code, text, _ = call(capsys, "anomalies", run / "run", run / "new.csv", "-o", "-", "--quiet")
    assert code == 0 and text.startswith("row,log_density_lower_bound,p_value,why,nats_height")


def test_a_level_below_the_least_p_value_is_said(run, capsys):
    code, text, _ = call(capsys, "anomalies", run / "run", run / "new.csv", "--alpha", 0.001)
    assert code == 0 and "0 of 42 rows" in text and "no p-value is below 0.016" in text


def test_a_flow_explains_by_quadrature(numbers, capsys):
    code, text, _ = call(capsys, "anomalies", numbers / "run", numbers / "new.csv", "--top", 3, "--json")
    rows = {row["row"]: row for row in json.loads(text)["oddest_rows"]}
    assert code == 0 and set(rows[2]["why"]) == {"a", "b"} and rows[1]["p_value"] > 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--alpha", "1.5"], "--alpha must lie between 0 and 1, received 1.5"),
        (["--top", "0"], "--top must be 1 or more, received 0"),
        (["-o", "odd.xlsx"], "cannot write"),
        (["-o", "-", "--json"], "give one of them"),
        (["--columns", "height"], "city"),
    ],
)
def test_bad_options(run, capsys, monkeypatch, options, words):
    monkeypatch.chdir(run)
    code, text, said = call(capsys, "anomalies", "run", "new.csv", *options)
    assert code == 2 and text == ""
    assert words in said.splitlines()[-1] and said.splitlines()[-1].startswith("modeflow: error: ")


def test_columns_that_are_missing_or_unknown(run, capsys):
    pl.read_csv(run / "table.csv").drop("wind").write_csv(run / "less.csv")
    code, _, said = call(capsys, "anomalies", run / "run", run / "less.csv")
    assert code == 2 and "wind" in said and said.count("\n") == 1


def test_a_run_without_held_out_rows_says_what_to_do(numbers, capsys):
    held = numbers / "run" / "test_scores.npy"
    kept = held.read_bytes()
    held.unlink()
    code, _, said = call(capsys, "anomalies", numbers / "run", numbers / "new.csv")
    assert code == 2 and "has no scores of rows that were held out" in said and "--test 0.1" in said
    held.write_bytes(b"no numbers")
    code, _, said = call(capsys, "anomalies", numbers / "run", numbers / "new.csv")
    assert code == 2 and "is damaged: fit again" in said and said.count("\n") == 1
    held.write_bytes(kept)


def test_numbers_are_ranked_by_the_detector_of_the_run(detected, capsys):
    run = load_run(detected / "detected")
    _, parts = run.data()
    held = run.detector.held_scores_
    assert run.result["detector"]["rows"] == 180 and run.result["detector"]["rows_held_out"] == 20
    test = parts.test.values
    np.testing.assert_allclose(held, run.detector.densities_[0].score_samples(test))
    code, text, _ = call(capsys, "anomalies", detected / "detected", detected / "new.csv", "--json")
    found = json.loads(text)
    assert code == 0 and found["by"] == "noise" and "density" not in found
    new = pl.read_csv(detected / "new.csv")
    scores = run.detector.score_samples(new)
    order = np.argsort(scores)[: len(found["oddest_rows"])]
    assert [row["row"] - 1 for row in found["oddest_rows"]] == order.tolist()
    for row in found["oddest_rows"]:
        assert row["log_density_through_noise"] == pytest.approx(scores[row["row"] - 1])
    out = detected / "noise.csv"
    assert call(capsys, "anomalies", detected / "detected", detected / "new.csv", "-o", out)[0] == 0
    table = pl.read_csv(out)
    assert table.columns == ["row", "log_density_through_noise", "p_value", "why", "nats_a", "nats_b"]
    np.testing.assert_allclose(table["p_value"], rank_p_values(scores, held))
    parts_of = run.detector.contributions(new)
    odd = table["p_value"].to_numpy() <= 0.05
    assert odd[2] and np.allclose(table["nats_a"].to_numpy()[odd], parts_of[odd, 0], rtol=1e-6)


def test_what_rows_are_ranked_by_can_be_chosen(detected, numbers, capsys):
    out = detected / "density.csv"
    asked = ("anomalies", detected / "detected", detected / "new.csv", "--by", "density", "-o", out)
    assert call(capsys, *asked)[0] == 0 and pl.read_csv(out).columns[1] == "log_density"
    code, _, said = call(capsys, "anomalies", numbers / "run", numbers / "new.csv", "--by", "noise")
    assert code == 2 and "has no detector to rank by" in said
    code, text, said = call(capsys, "anomalies", numbers / "run", numbers / "new.csv", "--json")
    assert code == 0 and json.loads(text)["by"] == "density" and json.loads(text)["density"] == "exact"
    code, text, said = call(capsys, "anomalies", numbers / "run", numbers / "new.csv")
    assert (text + said).count("the run has no detector") == 1


def test_many_files_are_ranked_by_the_detector_too(detected, capsys, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.csv").write_bytes((detected / "new.csv").read_bytes())
    out = tmp_path / "out"
    asked = ("anomalies", detected / "detected", tmp_path / "in", "-o", out)
    assert call(capsys, *asked)[0] == 0
    assert all("log_density_through_noise" in (out / f"{name}.csv").read_text() for name in "ab")


def test_without_test_rows_or_where_it_is_not_wanted_there_is_no_detector(detected, tmp_path, capsys):
    told = ["fit", detected / "table.csv", "-o", tmp_path / "run", "--quiet", "--no-detector"]
    told += ["--set", "n_states=1", "--set", "flow=nsf-coupling", "--set", "max_epochs=1"]
    assert call(capsys, *told)[0] == 0
    assert not (tmp_path / "run" / "detector.safetensors").exists()
    assert load_run(tmp_path / "run").config["detector"] is False
    (detected / "detected" / "detector.safetensors").rename(tmp_path / "kept")
    try:
        (detected / "detected" / "detector.safetensors").write_bytes(b"no file of ours")
        code, _, said = call(capsys, "anomalies", detected / "detected", detected / "new.csv")
        assert code == 2 and len(said.strip().splitlines()) == 1
    finally:
        (tmp_path / "kept").replace(detected / "detected" / "detector.safetensors")
