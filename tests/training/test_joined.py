"""Processes that torchrun started, here two machines of one process each on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file
from small_trainings import config, model, rows

from modeflow.cli import main
from modeflow.errors import ConfigError
from modeflow.training import Trainer
from modeflow.training.joined import Group, group


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells the process of one of two machines."""
    return {
        "TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


@pytest.mark.slow
def test_two_machines_fit_what_one_does(tmp_path):
    """Equal weights up to 1e-4, which rounding in another order makes of some steps; the second is silent."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) + 4 * rng.integers(0, 2, (300, 1))
    np.savetxt(tmp_path / "rows.csv", x, delimiter=",", header="a,b", comments="", fmt="%.9f")
    asked = ["fit", str(tmp_path / "rows.csv"), "--model", "nice", "--set", "max_epochs=3", "--device", "cpu"]
    asked += ["--set", "flow_options.hidden_features=8"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modeflow", *asked, "-o", str(tmp_path / "two")]
    started = [
        subprocess.Popen(
            command, env={**os.environ, **environment(rank, port)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert main([*asked, "-o", str(tmp_path / "one"), "--quiet"]) == 0
    said = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "test " in said[0][0] and not said[1][0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name].double(), value.double(), atol=1e-4, err_msg=name)


def test_what_the_environment_says(monkeypatch):
    assert group() is None
    for name, value in environment(1, 1).items():
        monkeypatch.setenv(name, value)
    assert group() == Group(1, 2, 1)
    with pytest.raises(ConfigError, match="torchrun has started the processes: leave out devices"):
        Trainer(config(devices=2)).fit(model(), rows(40), rows(10))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert group() is None
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="unlike numbers of processes"):
        group()
    monkeypatch.delenv("RANK")
    with pytest.raises(ConfigError, match="environment is incomplete"):
        group()
