"""What is shown of a run is what its estimator says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modeflow.errors import DataError
from modeflow.exploring.views import Explored
from modeflow.runs.folder import Run
from modeflow.serving.model import Limits, Served


def test_rows_are_those_of_the_run(mixed, numbers):
    assert mixed.parts == ("held out", "training", "validation") and not mixed.missing_data
    _, parts = mixed.served.run.data()
    rows = mixed.rows("held out")
    assert rows.total == len(parts.test) == len(rows.frame)
    assert rows.frame["city"].to_list() == parts.test["city"].to_list()
    assert np.isnan(rows.values[:, 0]).sum() == parts.test["height"].null_count() > 0
    assert rows.cells["height"][int(np.isnan(rows.values[:, 0]).argmax())] == ""
    assert mixed.names == ("height", "city", "born", "wind")  # `unit` is constant
    values = numbers.rows("training").values
    assert np.array_equal(numbers.rows("training").states["state"], numbers.estimator.predict(values))
    with pytest.raises(DataError, match="no rows 'test'"):
        mixed.rows("test")


def test_cells_and_numbers(mixed, numbers):
    for explored in (mixed, numbers):
        values = explored.samples().values
        assert np.array_equal(explored.encoded(explored.decoded(values)), values, equal_nan=True)
    codes = {mixed.cell("city", float(k)): k for k in range(2)}
    assert set(codes) == {"Oslo", "Rome"}
    born = mixed.axes["born"]
    assert born.is_time and born.ticks is not None and born.ticks[1][0].startswith("1980-0")
    assert mixed.words({"city": float(codes["Rome"]), "wind": 40.0}) == "city = Rome, wind = 40"
    assert born.between("1980-12-31", "", mixed.rows("training").values[:, 2]).any()
    with pytest.raises(DataError, match="'soon' is no time of born"):
        born.between("soon", "", np.zeros(1))


def test_samples_have_what_is_given(mixed):
    rome = next(float(k) for k in range(2) if mixed.cell("city", float(k)) == "Rome")
    rows = mixed.samples({"city": rome, "wind": 40.0}, 3, 50)
    assert rows.frame["city"].unique().to_list() == ["Rome"] and rows.frame["wind"].unique().to_list() == [40]
    assert mixed.samples({"city": rome, "wind": 40.0}, 3, 50) is rows
    assert set(mixed.nodes) >= {"height", "city", "born", "wind"}
    assert rows.states["height"].shape == (50,)
    assert set(np.unique(rows.states["height"])) <= set(range(4))


def test_what_is_not_available_is_said(mixed, numbers, flow):
    assert not mixed.stateless and not numbers.stateless
    assert "without states" in flow.stateless and flow.nodes == ()
    assert numbers.nodes == ("state",) and numbers.states_of("state") == (0, 1)


def test_data_that_are_gone_leave_the_samples(mixed, monkeypatch):
    def gone(self):
        raise DataError("'table.csv' is not there")

    monkeypatch.setattr(Run, "data", gone)
    found = Explored(Served(mixed.served.run))
    assert found.parts == () and "not there" in found.missing_data
    assert found.axes["height"].low < found.axes["height"].high
    assert np.isfinite(found.likeliest).all()


def test_a_file_is_scored_as_by_the_command(mixed):
    text = "height,city,born,wind,unit\n170.5,Oslo,1980-03-14,40,cm\n,Rome,1981-02-11,50,cm\nx,Oslo,,0,cm\n"
    found = mixed.score_file("new.csv", text.encode())
    assert len(found.score) == 3 and np.isnan(found.score[2])
    assert found.rows == tuple(np.argsort(found.score[:2]).tolist())
    rows = {"height": [170.5], "city": ["Oslo"], "born": ["1980-03-14"], "wind": [40], "unit": ["cm"]}
    assert found.score[0] == mixed.served.score(rows).listed["log_density"][0]
    assert any("row 3" in note for note in found.notes)
    assert found.csv().splitlines()[0].startswith("row,log_density_")
    assert all("/" not in note for note in found.notes)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.xlsx", b"", "'a.xlsx' is none of .csv"),
        ("a.csv", b"", "a.csv"),
        ("a.csv", b"x,y\n1,2\n", "missing 'height'"),
        ("a.parquet", b"PAR1 not really", "a.parquet"),
    ],
)
def test_a_file_that_cannot_be_scored(mixed, name, content, said):
    with pytest.raises(DataError) as caught:
        mixed.score_file(name, content)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "modeflow-" not in str(caught.value)  # nobody is told of the folder it lay in


def test_coarse_scores_share_the_model(mixed):
    fine, coarse = mixed.estimator, mixed.drawn.estimator
    assert coarse._scorer_model.draws == 2 and fine._scorer_model.draws == 16
    assert coarse.model_ is fine.model_
    frame = mixed.samples().frame[:40]
    rows = {column.name: column for column in frame}
    difference = mixed.served.score(rows).listed["log_density"], mixed.drawn.score(rows).listed["log_density"]
    assert 0 < np.abs(np.subtract(*difference)).max() < 1.0


def test_limits_hold(mixed):
    few = Explored(Served(mixed.served.run, replace(Limits(), rows=30)))
    assert len(few.samples().values) == 30
    with pytest.raises(DataError, match="between 1 and 30"):
        few.sample_csv(31, {}, 0)


def test_states_of_samples_given_cells_are_those_that_are_served(mixed):
    found = mixed.samples({"wind": 40.0})
    cells = {"wind": mixed.cell("wind", 40.0)}
    served = mixed.served.sample(len(found.values), given=cells, seed=0, states=True).frame
    assert found.frame.equals(served.select(mixed.names))
    for node, states in found.states.items():
        assert np.array_equal(states, served[f"state_{node}"])
