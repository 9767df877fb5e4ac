"""What if: columns given cells of others, beside the rows that have them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from modeflow import NVF
from modeflow.errors import ConfigError, DataError
from modeflow.report import plot_conditional
from modeflow.report.trees import TreeView
from modeflow.report.what_if import answer_of, questions_of, what_if_section


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    return pl.DataFrame(
        {
            "kind": np.array(["ash", "elm", "oak"])[kind],
            "size": np.round(kind * 6 + rng.normal(size=n), 3),
            "wind": np.round(rng.uniform(0, 360, n), 1),
        }
    )


@pytest.fixture(scope="module")
def model():
    options = {"states": 4, "likelihood": "leaves"}
    return NVF(
        latent="tree",
        latent_options=options,
        columns={"wind": "circular(360)"},
        max_epochs=30,
        random_state=0,
    ).fit(rows())


def encoded(model, table):
    return model.domain_.schema.encode(table, "score")


def test_an_answer_stands_beside_the_rows_that_have_the_cells(model):
    table = rows()
    answer = answer_of(model, "size", {"kind": "oak"}, encoded(model, table), random_state=0)
    such = table.filter(pl.col("kind") == "oak")["size"].to_numpy()
    assert answer.rows == len(such) and np.array_equal(np.sort(answer.marginal.data), np.sort(such))
    assert abs(np.median(answer.marginal.samples) - 12) < 0.6
    assert answer.title == "size given kind = oak" and answer.beside == f"grey: {len(such)} such rows"


def test_of_a_number_the_nearest_rows_and_of_an_angle_around_the_circle(model):
    answer = answer_of(model, "kind", {"size": 0.0}, encoded(model, rows()), random_state=0)
    assert answer.rows == 20 and answer.marginal.bars[0].name == "ash"
    answer = answer_of(model, "size", {"wind": 359.9}, encoded(model, rows(2000)), random_state=0)
    assert answer.rows == 100
    away = rows(2000)["wind"].to_numpy()
    assert min(away) < 9  # some of the nearest lie beyond zero
    assert "wind = 359.9" in answer.title


def test_without_rows_the_model_stands_beside_itself(model):
    for table in (None, encoded(model, rows().filter(pl.col("kind") != "oak"))):
        answer = answer_of(model, "size", {"kind": "oak"}, table, random_state=0)
        assert answer.rows is None and len(answer.marginal.data) == 2000
        assert answer.beside == "grey: drawn without the condition"


def test_it_is_drawn(model, tmp_path):
    figure = plot_conditional(model, "size", given={"kind": "ash"}, data=rows(), random_state=0)
    assert "size given kind = ash" in figure._suptitle.get_text()
    figure.savefig(tmp_path / "a.png")
    plot_conditional(model, "wind", given={"kind": "ash"}, random_state=0).savefig(tmp_path / "b.png")


@pytest.mark.parametrize(
    "name,given,error,message",
    [
        ("size", {}, ConfigError, "at least one column"),
        ("size", {"size": 1.0}, ConfigError, "given and asked for at once"),
        ("siz", {"kind": "oak"}, ConfigError, "siz"),
        ("size", {"kin": "oak"}, ConfigError, "kin"),
        ("size", {"kind": "yew"}, DataError, "yew"),
    ],
)
def test_impossible_questions_are_refused(model, name, given, error, message):
    with pytest.raises(error, match=message):
        plot_conditional(model, name, given)


def test_a_report_asks_along_the_strongest_edges(model):
    tree = TreeView(["size", "kind", "wind"], ["number", "levels", "angle"], [-1, 0, 0], [0.0, 0.9, 0.1])
    values = encoded(model, rows())
    asked = questions_of(model.domain_, tree, values)
    common = rows()["kind"].value_counts(sort=True)["kind"].to_list()
    assert [name for name, _ in asked] == ["size", "size"]
    assert {given["kind"] for _, given in asked} == set(common[:2])
    section = what_if_section([answer_of(model, *each, values, random_state=0) for each in asked])
    assert len(section.pictures) == 2 and "size given kind" in section.pictures[0].alt
