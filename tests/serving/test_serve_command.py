"""`modeflow serve` as a process: load, memory, Ctrl-C; and what it refuses to begin."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from modeflow.cli import main
from modeflow.errors import ConfigError

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
launch = importlib.import_module("modeflow.serving.launch")


def resident(pid):
    """Megabytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
def test_it_bears_load(numbers):
    """Four clients at full speed: no error, and no memory that grows after the first answers."""
    command = [sys.executable, "-m", "modeflow", "serve", str(numbers), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
            asked = (
                ("/score", {"rows": [{"a": 0.1, "b": 0.2}] * 50}, 200),
                ("/sample", {"n": 50}, 200),
                ("/assign", {"columns": ["a", "b"], "rows": [[8.0, 8.0]] * 20}, 200),
                ("/score", {"rows": [{"a": "x", "b": 0.2}]}, 422),
            )
            wrong: list[tuple[str, int]] = []
            counts = [0] * 4

            def load(k, seconds):
                connection, end = HTTPConnection("127.0.0.1", port, timeout=60), time.monotonic() + seconds
                while time.monotonic() < end or counts[k] < 8:
                    path, body, status = asked[(k + counts[k]) % 4]
                    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    counts[k] += 1
                    if answer.status != status:
                        wrong.append((path, answer.status))
                connection.close()

            def all_at_once(seconds):
                threads = [threading.Thread(target=load, args=(k, seconds)) for k in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            all_at_once(0.5)
            before = resident(process.pid)
            all_at_once(1.5)
            assert not wrong
            assert min(counts) >= 8
            assert resident(process.pid) < before + 20
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_other_addresses_have_a_token(monkeypatch, tmp_path):
    monkeypatch.delenv("MODEFLOW_TOKEN", raising=False)
    assert all(map(launch.is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(launch.is_loopback, ("0.0.0.0", "::", "a.b", "10.0.0.1")))
    assert launch.token_for("127.0.0.1", None) == (None, False)
    made, new = launch.token_for("0.0.0.0", None)
    assert new and made is not None and len(made) >= 32
    monkeypatch.setenv("MODEFLOW_TOKEN", "of-the-environment")
    assert (
        launch.token_for("127.0.0.1", None)
        == launch.token_for("0.0.0.0", None)
        == ("of-the-environment", False)
    )
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert launch.token_for("0.0.0.0", str(file)) == ("0123456789abcdef", False)
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="16 or more characters"):
        launch.token_for("0.0.0.0", str(file))


def test_addresses_that_cannot_be_had():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="give another --port"):
            launch.Address("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="between 0 and 65535"):
        launch.Address("127.0.0.1", 70000)


def test_what_it_refuses(numbers, capsys, monkeypatch, tmp_path):
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "there is no run" in capsys.readouterr().err
    assert main(["serve", str(numbers), "--max-rows", "0"]) == 2
    assert "limits must be 1 row or more" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["serve", str(numbers)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'modeflow[serve]'" in said
