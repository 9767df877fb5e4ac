"""The benchmark of islands: densities that are the truth, splits, runs that go on and fail aloud."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import i0e

from modeflow.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(monkeypatch, tmp_path):
    """The program, with a folder of data of two shapes: two squares with noise, and one without labels."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import islands

    rng = np.random.default_rng(0)
    island = rng.integers(0, 2, 300)
    points = (rng.random((300, 2)) + 5 * island[:, None]).astype(np.float32)
    labels = np.where(np.arange(300) < 30, "noise", island.astype(str))
    (tmp_path / "shapes2d").mkdir()
    np.savez(tmp_path / "shapes2d/shapes2d.npz", **{"2d-4c": points, "s-set3": points[:90]})
    np.savez(tmp_path / "shapes2d/labels.npz", **{"2d-4c": labels})
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path))
    monkeypatch.setattr(islands, "TEST", 200)
    monkeypatch.setattr("common.RESULTS", tmp_path)
    yield islands
    for name in ("common", "curved_islands", "islands", "table_rivals"):
        sys.modules.pop(name, None)


# -- densities ----------------------------------------------------------------------------------------


def grid(low, high, steps, dims):
    """Cells of a grid and their volume."""
    axes = [np.linspace(low[j], high[j], steps[j], endpoint=False) for j in range(dims)]
    widths = [(high[j] - low[j]) / steps[j] for j in range(dims)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dims)
    return points + np.array(widths) / 2, math.prod(widths)


@pytest.mark.parametrize("kind", ["ring", "moon", "other moon", "point", "sheet", "roll"])
def test_parts_have_mass_one(program, kind):
    from curved_islands import ball, moon, ring, roll, sheet

    part = {
        "ring": ring(1.0),
        "moon": moon(0),
        "other moon": moon(1),
        "point": ball(2, 0.0),
        "sheet": sheet(2.0),
        "roll": roll(1),
    }[kind]
    noise = 0.3  # a sum over cells no wider than the noise is exact to many digits: nothing is narrower
    steps = [60, 60, 20][: part.coordinates]
    points, volume = grid([-4.2, -4.2, -1.8], [4.2, 4.2, 3.8], steps, part.coordinates)
    total = np.exp(part.log_density(points, noise)).sum() * volume
    assert total == pytest.approx(1, abs=1e-5)


def test_a_ring_is_that_of_its_closed_form(program):
    from curved_islands import ring

    y = np.random.default_rng(0).normal(size=(200, 2))
    for radius, noise in ((1.0, 0.05), (2.0, 0.3)):
        r = np.linalg.norm(y, axis=1)
        bessel = np.log(i0e(r * radius / noise**2)) - (r - radius) ** 2 / (2 * noise**2)
        expected = bessel - math.log(2 * math.pi * noise**2)
        np.testing.assert_allclose(ring(radius).log_density(y, noise), expected, rtol=1e-9, atol=1e-8)


def test_quadrature_has_converged(program, monkeypatch):
    import curved_islands

    for part in (curved_islands.roll(0), curved_islands.moon(1)):
        points = part.draw(np.random.default_rng(0), 300)
        y = points + 0.05 * np.random.default_rng(1).normal(size=points.shape)
        once = part.log_density(y, 0.05)
        with monkeypatch.context() as patch:
            patch.setattr(curved_islands, "_NODES", 16)
            np.testing.assert_allclose(once, part.log_density(y, 0.05), rtol=0, atol=1e-8)


def test_an_even_density_keeps_its_digits_far_away(program):
    from curved_islands import _even

    far = _even(np.array([-2.0, 4.0, 1.0]), 2.0, 0.05)  # 40 deviations off either end, and the middle
    assert far[0] == pytest.approx(far[1], rel=1e-12)
    assert far[0] == pytest.approx(
        -(40**2) / 2 - math.log(40 * math.sqrt(2 * math.pi)) - math.log(2), abs=1e-3
    )
    assert far[2] == pytest.approx(-math.log(2), abs=1e-12)


@pytest.mark.parametrize("dim", [5, 20])
@pytest.mark.parametrize("name", ["rings", "moons", "swiss rolls", "dimensions 0 to d"])
def test_rows_are_of_the_density(program, name, dim):
    """E_p[q / p] = 1 for a density q of a little less noise: 5 errors, 8 cases (false alarm 5e-6)."""
    from curved_islands import CurvedIslands

    islands = CurvedIslands(name, dim, 3)
    x, label = islands.sample(1500, 1)
    assert set(label) == set(range(islands.count))
    narrow = CurvedIslands(name, dim, 3, noise=islands.noise * 0.98)
    ratio = np.exp(narrow.log_prob(x) - islands.log_prob(x))
    assert ratio.std() > 0.02  # it can fail
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(len(x))


@pytest.mark.parametrize("dim", [5, 20])
def test_the_entropy_of_separate_parts_adds_up(program, dim):
    """H(x) = log K + mean H(part), H(part) by quadrature or in closed form; 5 errors (false alarm 6e-7)."""
    from curved_islands import CurvedIslands, moon, ring

    noise = 0.2
    thin = (dim - 2) * 0.5 * math.log(2 * math.pi * math.e * noise**2)
    for name, parts in (("rings", (ring(1.0), ring(2.0))), ("moons", (moon(0), moon(1)))):
        points, volume = grid([-4, -4], [4, 4], [80, 80], 2)
        logs = [part.log_density(points, noise) for part in parts]
        entropy = math.log(4) + thin - np.mean([(np.exp(p) * p).sum() * volume for p in logs])
        islands = CurvedIslands(name, dim, 0, noise=noise)
        found = -islands.log_prob(islands.sample(1500, 2)[0])
        assert abs(found.mean() - entropy) < 5 * found.std() / math.sqrt(len(found))


def test_rows_repeat_and_places_are_apart(program):
    from curved_islands import CurvedIslands

    islands = CurvedIslands("rings", 5, 7)
    x, label = islands.sample(500, 1)
    again = CurvedIslands("rings", 5, 7).sample(500, 1)[0]
    assert np.array_equal(x, again)
    assert not np.array_equal(x, CurvedIslands("rings", 5, 8).sample(500, 1)[0])
    first, second = x[label < 2], x[label >= 2]
    assert np.linalg.norm(first[:, None] - second[None], axis=-1).min() > 3


# -- shapes -------------------------------------------------------------------------------------------


def test_a_split_gives_two_thirds_and_knows_noise(program):
    from curved_islands import NOWHERE, shape

    found = shape("2d-4c", 1500, 4000)
    assert (len(found.given), len(found.test), found.count) == (200, 100, 2)
    assert set(found.labels) == {NOWHERE, 0, 1}
    island = (found.test.mean(1) > 3).astype(int)
    kept = found.labels != NOWHERE
    assert np.array_equal(found.labels[kept], island[kept])
    both = np.concatenate([found.given, found.test])
    assert len(np.unique(both, axis=0)) == 300
    assert len(shape("2d-4c", 50, 20).given) == 50


def test_what_has_no_labels_has_no_agreement(program):
    from curved_islands import shape

    found = shape("s-set3", 1500, 4000)
    assert (found.labels, found.count) == (None, None)
    assert program.fit("shapes", "s-set3", 0, "KMeans") is None
    assert "agreement" not in program.fit("shapes", "s-set3", 0, "HDBSCAN")


def test_a_missing_file_is_named(program, monkeypatch, tmp_path):
    from curved_islands import shape

    (tmp_path / "shapes2d/labels.npz").unlink()
    with pytest.raises(DataError, match=r"shapes2d/labels.npz"):
        shape("2d-4c", 10, 10)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"shapes2d/shapes2d.npz"):
        shape("2d-4c", 10, 10)


# -- runs ---------------------------------------------------------------------------------------------


def test_runs_are_kept_and_go_on(program, monkeypatch, tmp_path):
    command = [
        "islands.py",
        "--groups",
        "shapes",
        "--sets",
        "2d-4c",
        "--models",
        "GaussianMixture",
        "HDBSCAN",
    ]
    monkeypatch.setattr("sys.argv", command)
    program.main()
    kept = json.loads((tmp_path / "islands.json").read_text())
    assert [r["model"] for r in kept["runs"]] == ["GaussianMixture", "HDBSCAN"]
    assert [r["agreement"] for r in kept["runs"]] == [1.0, 1.0]
    monkeypatch.setattr(program, "fit", lambda *a: pytest.fail("fitted again"))
    program.main()


def test_what_is_not_here_is_left_out(program, monkeypatch, tmp_path, capsys):
    (tmp_path / "shapes2d/labels.npz").unlink()
    monkeypatch.setattr("table_rivals.installed", dict)
    command = ["islands.py", "--groups", "shapes", "--sets", "2d-4c", "--models", "HDBSCAN", "zuko NSF"]
    monkeypatch.setattr("sys.argv", command)
    program.main()
    assert capsys.readouterr().out.count("left out") == 1
    assert not (tmp_path / "islands.json").exists()


def test_what_fails_is_said(program, monkeypatch):
    def broken(case, seed):
        raise ValueError("no clusters")

    monkeypatch.setitem(program.MODELS, "margarine", broken)
    run = program.fit("curved", "moons, d=5", 0, "margarine")
    assert run["failed"] == "ValueError: no clusters"
    (line,) = program.compared([run], "curved")
    assert line["failed"] == ["ValueError: no clusters"]
    assert "gap" not in line


def test_rows_without_density_are_counted(program, monkeypatch):
    def truth(case, seed):
        scores = case.truth - 0.5
        scores[:7] = -np.inf
        return program.Answer(scores)

    monkeypatch.setitem(program.MODELS, "CIF", truth)
    run = program.fit("curved", "moons, d=5", 0, "CIF")
    assert run["outside"] == 7
    assert run["gap"] == pytest.approx(0.5)


def test_who_is_fitted_to_what(program):
    assert program.wanted("curved", "rings, d=20", "NVF", 2)
    assert not program.wanted("curved", "rings, d=20", "CIF", 1)
    assert not program.wanted("curved", "rings, d=20", "FFJORD", 0)
    assert program.wanted("curved", "rings, d=5", "FFJORD", 0)
    assert not program.wanted("shapes", "2d-4c", "NVF", 1)
    assert not program.wanted("plane", "two moons", "KMeans", 0)


def test_losses_are_named(program):
    import islands_page

    def line(name, model, agreement, test, states=2):
        entry = {"test": {"mean": test}} if test is not None else {}
        return {
            "set": name,
            "model": model,
            "islands": 2,
            "states": [states],
            "agreement": {"mean": agreement},
            **entry,
        }

    every = [
        line("a", "NVF", 1.0, -1.0),
        line("a", "GaussianMixture", 0.5, -2.0),
        line("a", "HDBSCAN", 0.995, None),
        line("b", "NVF", 0.6, -1.5, states=3),
        line("b", "GaussianMixture", 0.4, -1.0),
        line("b", "HDBSCAN", 0.9, None),
        line("c", "HDBSCAN", 0.9, None),  # NVF is not fitted yet: not compared
    ]
    found = islands_page.standing(every)
    assert found["names"] == ["a", "b"]
    assert found["behind"] == {"NVF": [], "GaussianMixture": [], "HDBSCAN": ["b"]}
    assert found["below"] == {"NVF": [], "GaussianMixture": ["b"]}
    assert found["first"] == {"NVF": 1, "GaussianMixture": 0, "HDBSCAN": 2}
    assert found["rank"] == {"NVF": 1.5, "GaussianMixture": 1.5}
    assert (found["right"], found["fewer"], found["more"]) == (1, [], ["b"])
    sys.modules.pop("islands_page")
