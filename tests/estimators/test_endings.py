"""How a fit ends early, what it leaves, and the frames and files that come of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from small_estimators import FAST, islands

from modeflow import NVF, DataError, FlowDensity, load_estimator
from modeflow.training import loop

SMALL = {**FAST, "latent_options": {"encoder_features": (8,)}}


@pytest.fixture
def interrupted_at(monkeypatch):
    """Sends a signal after so many steps of training, counted over all fits."""

    def at(step: int, number: int = signal.SIGINT) -> list[int]:
        steps: list[int] = []
        plain = loop.Loop._step

        def counted(self: Any, index: Any, x: Any) -> Any:
            steps.append(1)
            if len(steps) == step:
                os.kill(os.getpid(), number)
            return plain(self, index, x)

        monkeypatch.setattr(loop.Loop, "_step", counted)
        return steps

    return at


@pytest.mark.parametrize("n_states", [2, "auto"])
def test_ctrl_c_ends_a_loop_of_fits_with_the_last_one_fitted(interrupted_at, tmp_path, n_states):
    x = islands(200)
    steps = interrupted_at(4)
    fitted = []
    with pytest.raises(KeyboardInterrupt):
        for seed in range(3):
            fitted.append(NVF(n_states, **{**SMALL, "random_state": seed}))
            fitted[-1].fit(x, run_dir=tmp_path / str(seed))
    assert (len(fitted), len(steps)) == (1, 4)
    assert fitted[0].training_["interrupted"]
    assert np.isfinite(fitted[0].score_samples(x)).all()
    assert list(tmp_path.rglob("last.safetensors"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("step", [4, 30])
def test_a_choice_that_was_interrupted_is_resumed(interrupted_at, tmp_path, step):
    """Whatever was best so far: the run folder must not hold a checkpoint of it."""
    x = islands(200)
    options = {**SMALL, "flow": "auto", "max_epochs": 2}
    whole = NVF(2, **options).fit(x)
    interrupted_at(step)
    with pytest.raises(KeyboardInterrupt):
        NVF(2, **options).fit(x, run_dir=tmp_path)
    again = NVF(2, **options).fit(x, run_dir=tmp_path, resume=True)
    np.testing.assert_array_equal(again.score_samples(x), whole.score_samples(x))


def test_sigterm_goes_to_the_handler_of_the_caller(interrupted_at):
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        interrupted_at(2, signal.SIGTERM)
        model = FlowDensity(**FAST).fit(islands(200))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert model.training_["stopped"] == "interrupted"


def test_sigterm_without_a_handler_ends_the_process(tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from small_estimators import *\n"
        "from modeflow import FlowDensity; from modeflow.training import loop; plain = loop.Loop._step\n"
        "def step(self, index, x): os.kill(os.getpid(), signal.SIGTERM); return plain(self, index, x)\n"
        "loop.Loop._step = step; FlowDensity(**FAST).fit(islands(200), run_dir=sys.argv[2]); print('went on')"
    )
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, ""), ended.stderr
    assert (tmp_path / "checkpoints" / "last.safetensors").exists()


def test_samples_are_of_the_kind_that_was_fitted(tmp_path):
    x = islands(200)
    whole = np.random.default_rng(0).integers(5, size=200)
    frames = {
        "pandas": pd.DataFrame({"a": x[:, 0], "n": whole}),
        "polars": pl.DataFrame({"a": x[:, 0], "n": whole}),
        "array": np.column_stack([x[:, 0], whole]),
    }
    rows = {}
    for kind, frame in frames.items():
        model = NVF(2, **SMALL).fit(frame)
        for each in (model, load_estimator(model.save(tmp_path / "m.safetensors"))):
            rows[kind], states = each.sample(20, random_state=0)
            assert type(rows[kind]) is type(frame)
            assert isinstance(states, np.ndarray)
            if kind != "array":
                assert list(rows[kind].columns) == ["a", "n"]
                assert each.score_samples(rows[kind]).shape == (20,)
    assert rows["pandas"]["n"].dtype == np.int64
    assert rows["polars"]["n"].dtype == pl.Int64
    for frame in rows.values():
        np.testing.assert_array_equal(np.asarray(frame, dtype=np.float64), rows["array"])


def test_equal_fits_are_equal_files(tmp_path):
    """In processes whose sets and dictionaries of names are in another order."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from small_estimators import *\n"
        "from modeflow import NVF\n"
        "NVF(2, **FAST).fit(islands(100)).save(sys.argv[2])"
    )
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.safetensors")
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(files[-1])]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_missing_values_in_validation_are_named():
    x = pd.DataFrame(islands(100), columns=["a", "b"])
    held = x[:20].astype("Float64")
    held.loc[3, "b"] = pd.NA
    with pytest.raises(DataError, match="'b'"):
        NVF(2, **SMALL).fit(x, validation=held)


def test_a_row_without_density_has_the_prior_as_posterior(monkeypatch):
    """As the scorer gives log p(x, k) = -inf for all k."""
    x = islands(100)
    model = NVF(3, **SMALL).fit(x)
    inner = model._scorer_model.model
    plain = type(inner).log_joint

    def nothing(self, u):
        joint = plain(self, u)
        joint[0] = -torch.inf
        return joint

    monkeypatch.setattr(type(inner), "log_joint", nothing)
    proba = model.predict_proba(x)
    np.testing.assert_allclose(proba[0], model.weights_)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert model.predict(x)[0] == model.weights_.argmax()
    assert model.score_samples(x)[0] == -np.inf
    with torch.no_grad():
        u = inner.likelihood.sample(4, torch.nn.functional.one_hot(torch.tensor(0), 3).double())
        assert torch.isfinite(inner.posterior(u)).all()
        cost = inner.log_prob_and_cost(u)[1]
    assert cost[0] == 0 and torch.isfinite(cost).all()
