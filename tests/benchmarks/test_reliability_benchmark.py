"""Numbers of any size through every transform, and damaged files through commands, a few of each."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from modeflow.cli import main
from modeflow.transforms import SigmoidalElementwise
from reliability_transforms import fuzzed, transforms


@pytest.fixture(scope="module")
def swept():
    *_, last = transforms({}, 300)
    return last["rows"]


def test_no_number_makes_another_that_is_none(swept):
    wrong = {k: row for k, row in swept.items() if row["not_finite"] or "exception" in row}
    assert not wrong and len(swept) > 100
    assert not [name for name, row in swept.items() if row["neighbours_changed"]]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_slopes_far_below_what_a_number_can_be(kind):
    x = fuzzed(500, 1, kind, torch.Generator().manual_seed(0))[:, 0]
    params = torch.zeros(len(x), 6, dtype=kind)
    params[:, 2:4] = -1e6  # a softplus of that is zero, its logarithm is not minus infinity
    u, slope = SigmoidalElementwise(2)(x, params)
    assert torch.isfinite(u).all() and torch.isfinite(slope).all()


def _saved(save):
    save(buffer := io.BytesIO(), np.zeros((4, 2)))
    return buffer.getvalue()


def test_files_whose_readers_fail_in_their_own_ways(tmp_path, capsys):
    """A header of numpy's that Python cannot read, YAML that is not UTF-8."""
    (tmp_path / "t.csv").write_text("a,b\n" + "1.5,2\n0.5,1\n" * 20)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\x16\x00{'descr': '<f8', (((\n\n" + b"\0" * 64)
    (tmp_path / "an_archive.npy").write_bytes(_saved(np.savez))
    (tmp_path / "an_array.npz").write_bytes(_saved(np.save))
    (tmp_path / "bad.yaml").write_bytes(b"a: \xf5\xff")
    run = ["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "run")]
    for told in (
        [*run, "--schema", str(tmp_path / "bad.yaml")],
        ["fit", str(tmp_path / "bad.npy"), *run[2:]],
    ):
        assert main(told) == 2
        assert capsys.readouterr().err.count("modeflow: error") == 1 and not (tmp_path / "run").exists()
