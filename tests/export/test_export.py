"""Exported densities: what a file gives is what the estimator says, for any number of rows."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from modeflow import NVF, ConfigError, FlowDensity
from modeflow.cli import main
from modeflow.export import export_density
from modeflow.export.decompositions import _FUNCTIONS

SMALL = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4}


def islands(n=150):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)) + 8 * rng.integers(2, size=(n, 1))
    x[:, 2] = np.exp(x[:, 2] / 4)  # a bound at zero
    return x


@pytest.fixture(scope="module")
def states():
    """Two states of a coupling flow, with what stands beside."""
    options = {"flow": "nsf-coupling", "flow_options": SMALL, "max_epochs": 2, "stacking": True}
    return NVF(n_states=2, **options, random_state=0).fit(islands())


@pytest.fixture(scope="module")
def tree():
    """A tree of levels and numbers."""
    rng = np.random.default_rng(1)
    city = rng.choice(["Rome", "Oslo", "Bern"], 150)
    x = rng.normal(size=150) + 5 * (city == "Rome")
    frame = pl.DataFrame({"city": city, "x": x, "y": np.exp(0.3 * x + 0.2 * rng.normal(size=150))})
    options = {"states": 3, "likelihood": "leaves"}
    return NVF(latent="tree", latent_options=options, max_epochs=2, random_state=0).fit(frame)


def rows_of(estimator):
    """Rows in the units of the data, near and far, those of a tree with holes."""
    rows = estimator.model_.sample(40, generator=torch.Generator().manual_seed(1))
    rows[:5, -1] *= 1e4
    return rows


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_tree_by_torch_export(tree, tmp_path):
    found = export_density(tree, tmp_path / "a.pt2")
    assert found.missing and found.codes == {"city": ["Bern", "Oslo", "Rome"]}
    evaluate = torch.export.load(tmp_path / "a.pt2").module()
    rows = rows_of(tree)
    rows[10:20, 1] = torch.nan
    rows[15:25, 0] = torch.nan
    close(evaluate(rows), tree.score_samples(tree.domain_.from_tensor(rows)))
    for code in (3.0, -1.0, 0.5):  # levels that there are not
        rows[0, 0] = code
        assert evaluate(rows[:2])[0] == -torch.inf


@pytest.mark.slow
def test_states_by_onnx(states, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    assert states.stacking_ is not None
    found = export_density(states, tmp_path / "a.onnx")
    assert found.difference < 1e-10 and not found.missing and found.checked_by == "onnxruntime"
    session = runtime.InferenceSession(tmp_path / "a.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["columns"]) == list(found.columns) and told["kind"] == "exact"
    rows = rows_of(states).numpy()
    rows[5:9, -1] = -1.0  # beyond the bound
    wanted = states.score_samples(rows)
    for part in (slice(0, 1), slice(None)):
        close(session.run(["log_prob"], {"rows": rows[part]})[0], wanted[part])
    rows[0, 0] = np.nan
    values = session.run(None, {"rows": rows})[0]
    assert np.isnan(values[0]) and np.isfinite(values[1:]).all()


def test_what_is_no_graph(states, tmp_path):
    whole = np.random.default_rng(0).integers(0, 50, size=(60, 2))
    options = {"flow": "nsf-coupling", "flow_options": SMALL, "max_epochs": 1}
    on_lattice = FlowDensity(**options).fit(whole)
    with pytest.raises(ConfigError, match="dequantize='none'"):
        export_density(on_lattice, tmp_path / "a.pt2")
    continuous = NVF(latent="continuous", max_epochs=1, flow_options=SMALL, flow="nsf-coupling")
    with pytest.raises(ConfigError, match="latent='discrete'"):
        export_density(continuous.fit(islands(60)), tmp_path / "a.pt2")
    with pytest.raises(ConfigError, match=r"\.pt2 .* or \.onnx"):
        export_density(states, tmp_path / "a.pickle")
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    pl.DataFrame({"a": islands()[:, 0], "b": islands()[:, 1]}).write_csv(tmp_path / "table.csv")
    told = ["fit", str(tmp_path / "table.csv"), "-o", str(tmp_path / "run"), "--quiet"]
    for setting in ("n_states=1", "flow=maf", "flow_options.layers=1", "max_epochs=1", "stacking=false"):
        told += ["--set", setting]
    assert main(told) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "a.pt2"), "--json",
                 "--precision", "float32"]) == 0  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert result["columns"] == ["a", "b"] and 1e-10 < result["difference"] < 1e-3
    evaluate = torch.export.load(tmp_path / "a.pt2", extra_files=(told := {"modeflow.json": ""})).module()
    assert json.loads(told["modeflow.json"])["precision"] == "float32"
    assert torch.equal(
        evaluate(torch.tensor([[1.0, torch.nan], [1.0, 2.0]]).double()).isnan(), torch.tensor([True, False])
    )
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_functions_keep_their_digits(kind):
    """As exact as torch's own where the naive forms have no digit left."""
    eps = torch.finfo(kind).eps
    sizes = torch.logspace(-20, 1.5, 200, dtype=kind)
    x = torch.cat([sizes, -sizes[sizes < 0.99], torch.tensor([0.0, torch.inf], dtype=kind)])
    aten = torch.ops.aten
    for name, argument in (("log1p", x), ("expm1", torch.cat([x, -sizes])), ("softplus", x)):
        own = _FUNCTIONS[getattr(aten, name).default](argument)
        torch.testing.assert_close(own, getattr(aten, name)(argument), rtol=8 * eps, atol=0.0)
    y = torch.tensor([-torch.inf, -800.0, 0.0, 900.0], dtype=kind)
    for a in y:
        wanted = torch.logaddexp(a.expand(4), y)
        torch.testing.assert_close(_FUNCTIONS[aten.logaddexp.default](a.expand(4), y), wanted)
    pairs = torch.tensor(list(pairwise(y.tolist())), dtype=kind)
    torch.testing.assert_close(_FUNCTIONS[aten.logsumexp.default](pairs, [1]), pairs.logsumexp(1))
