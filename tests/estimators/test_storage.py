"""Saved models: the same numbers back, and nothing else accepted."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from small_estimators import FAST, edit, islands

from modeflow import NVF, FlowDensity, load_estimator
from modeflow.errors import DataError, ModelFileError
from modeflow.estimators.storage import read_header

SMALL = {**FAST, "latent_options": {"encoder_features": (8,)}}


@pytest.fixture(scope="module")
def fitted():
    x = islands()
    return NVF(3, **SMALL).fit(pd.DataFrame(x, columns=["a", "b"]))


@pytest.fixture
def file(fitted, tmp_path):
    return fitted.save(tmp_path / "m.safetensors")


def test_the_same_numbers_come_back(fitted, file):
    frame = pd.DataFrame(islands(80, 1), columns=["a", "b"])
    for loaded in (NVF.load(file), load_estimator(file)):
        np.testing.assert_array_equal(loaded.score_samples(frame), fitted.score_samples(frame))
        np.testing.assert_array_equal(loaded.predict_proba(frame), fitted.predict_proba(frame))
        np.testing.assert_array_equal(loaded.sample(5)[0], fitted.sample(5)[0])
        own = {**fitted.get_params(deep=False), "latent_options": {"encoder_features": [8]}}
        assert loaded.get_params(deep=False) == own
        # Times are not stored: equal fits are equal files.
        timed = [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history_]
        assert loaded.history_ == timed
        assert loaded.validation_ == fitted.validation_
        assert list(loaded.feature_names_in_) == ["a", "b"]


def test_the_default_options_of_the_flow_are_those_it_was_fitted_with(tmp_path):
    x = islands(100)
    fast = {**FAST, "max_epochs": 1}
    new = FlowDensity(**fast).fit(x)
    assert new.flow_ == "nsf-coupling" and new.flow_options_ == {**fast["flow_options"], "tail_bound": 5.0}
    again = load_estimator(new.save(tmp_path / "new.safetensors"))
    assert again.flow_options_ == new.flow_options_ and again.flow_options == fast["flow_options"]
    np.testing.assert_array_equal(again.score_samples(x), new.score_samples(x))


def test_pruned_states_stay_pruned(tmp_path):
    fitted = NVF(3, **SMALL).fit(islands())
    fitted.model_.model.prior.active[0] = False
    fitted._set_fitted(fitted.model_, fitted.domain_)
    loaded = NVF.load(fitted.save(tmp_path / "m.safetensors"))
    assert loaded.n_states_ == 2
    x = islands(20)
    np.testing.assert_array_equal(loaded.score_samples(x), fitted.score_samples(x))


def test_the_wrong_class_is_named(file):
    with pytest.raises(ModelFileError, match=r"holds a NVF, not a FlowDensity: use NVF\.load"):
        FlowDensity.load(file)


def test_a_newer_format_is_refused(file):
    edit(file, lambda h: h.update(format_version=99, modeflow_version="9.9"))
    with pytest.raises(ModelFileError, match=r"format 99, written by modeflow 9\.9.*upgrade"):
        load_estimator(file)


def test_a_file_of_the_first_release_is_refused_by_its_version(file):
    edit(file, lambda h: h.update(format_version=2, modeflow_version="0.1.0"))
    with pytest.raises(ModelFileError, match=r"written by modeflow 0\.1\.0, whose files.*fit again"):
        load_estimator(file)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"damaged|not a model file"):
        load_estimator(file)


def test_a_damaged_header_is_refused(file):
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="not a model file"):
        load_estimator(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("domain"),
        lambda h: h["domain"].pop("schema"),
        lambda h: h.update({"class": "Virus"}),
        lambda h: h["built"].update(flow="nothing"),
        lambda h: h["params"].update(unknown=1),
        lambda h: h.update(n_states=5),
        lambda h: h.update(format_version="x"),
        lambda h: h["built"].update(flow_options={"layers": 7}),
    ],
)
def test_a_foreign_description_is_refused(file, change):
    edit(file, change)
    with pytest.raises(ModelFileError) as caught:
        load_estimator(file)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("BOMB", str(tmp_path / "boom"))
    file = tmp_path / "model.safetensors"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Bomb()))
    elif kind == "torch":
        torch.save({"x": Bomb()}, file)
    else:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Bomb()))
        file.write_bytes(stream.getvalue())
    with pytest.raises(ModelFileError, match="pickle"):
        load_estimator(file)
    assert not (tmp_path / "boom").exists()


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ModelFileError, match="no model at"):
        load_estimator(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="not a run folder"):
        load_estimator(tmp_path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not written by modeflow"):
        load_estimator(tmp_path / "other.safetensors")


def test_a_path_that_cannot_be_written(fitted, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        fitted.save(tmp_path / "file" / "m.safetensors")
    with pytest.raises(ModelFileError, match="not plain data"):
        bad = NVF.load(fitted.save(tmp_path / "a.safetensors")).set_params(flow_options={"a": object()})
        bad.save(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_the_header_is_plain(file):
    header = read_header(file)
    assert header["class"] == "NVF"
    assert header["domain"]["schema"]["columns"] == ["a", "b"]
