"""Names to data sets: what is listed loads, what is not there says where to get it."""

from __future__ import annotations

import gzip
import json
import time
import warnings

import numpy as np
import pytest

from modeflow.data import check_fit_table, list_datasets, load_dataset, load_images, resolve, toy, write_table
from modeflow.data.manifest import ANOMALY, REGRESSION, SHAPES2D
from modeflow.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    for name in ("tables", "anomaly", "shapes2d", "images"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("MODEFLOW_DATA", str(folder))
    return folder


def info(name):
    return {entry.name: entry for entry in list_datasets()}[name]


def test_listing_is_fast_plain_and_without_doubles(root):
    entries = list_datasets()
    start = time.perf_counter()
    list_datasets()
    # Measured at 10 ms; a second means that files are being read.
    assert time.perf_counter() - start < 1.0
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    assert len([n for n in names if n.startswith("shapes2d/")]) == 52 == len(SHAPES2D)
    assert len(ANOMALY) == 30
    json.dumps([entry.to_dict() for entry in entries])


def test_everything_available_without_a_folder_loads(root):
    ready = [entry for entry in list_datasets() if entry.available]
    assert {entry.kind for entry in ready} == {"toy", "bundled", "images"}
    for entry in ready:
        if entry.kind == "images":
            images = load_images(entry.name)
            assert entry.rows == len(images.images) == len(images.labels)
            assert entry.columns == np.prod(images.shape)
            continue
        data = load_dataset(entry.name)
        assert data.table.dim == entry.columns, entry.name
        assert entry.rows in (None, len(data.table)), entry.name
        assert len(data.labels) == len(data.table), entry.name
        assert entry.exact_density == (data.toy is not None and data.toy.has_density), entry.name


def test_demo_is_a_clean_multimodal_table():
    data = load_dataset("demo")
    assert data.table.values.shape == (1797, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fit_table(data.table.values, data.table.columns)
    from sklearn.mixture import GaussianMixture

    train, test = data.table.values[:1300], data.table.values[1300:]
    one, ten = (GaussianMixture(k, random_state=0).fit(train).score(test) for k in (1, 10))
    assert ten > one + 1.0


def test_toys_by_name():
    data = load_dataset("ring:k=3,sigma=0.05", n=50, seed=4)
    np.testing.assert_array_equal(data.table.values, toy("ring:k=3,sigma=0.05").sample(50, seed=4))
    assert data.toy.modes.shape == (3, 2)
    assert len(load_dataset("moons").table) == 10_000
    published = load_dataset("moons-nvf").split
    assert published.sizes == (1024, 1024, 1024)
    np.testing.assert_array_equal(published.test.values, toy("moons").sample(1024, seed=2023))
    with pytest.raises(ConfigError, match="no parameter"):
        load_dataset("ring:z=1")
    with pytest.raises(ConfigError, match="0 asked for"):
        load_dataset("ring", n=0)


def test_subset_keeps_rows_labels_and_says_so():
    whole, part = load_dataset("iris"), load_dataset("iris", n=30, seed=1)
    assert len(part.table) == len(part.labels) == 30
    for row, label in zip(part.table.values, part.labels, strict=True):
        same = (whole.table.values == row).all(1)
        assert label in whole.labels[same]
    assert "random 30 of 150 rows" in part.notes[-1]
    with pytest.raises(DataError, match="has 150 rows, and 151 are asked for"):
        load_dataset("iris", n=151)


def test_local_table_drops_constant_columns_and_says_so(root):
    rows, columns = REGRESSION["sml"]
    values = RNG.normal(size=(rows, columns)).astype(np.float32)
    values[:, [2, 20]] = 1.0
    np.savez(root / "tables/sml.npz", data=values, test_mask=np.zeros((2, 10)))
    data = load_dataset("sml")
    assert data.table.values.shape == (rows, columns - 2)
    assert data.table.columns[-1] == "target" and "x2" not in data.table.columns
    assert "constant columns dropped: x2, x20" in data.notes
    np.savez(root / "tables/sml.npz", data=values[:5])
    with pytest.raises(DataError, match="has shape"):
        load_dataset("sml")


def test_local_table_in_the_form_the_source_offers(root):
    rows, columns = REGRESSION["skillcraft"]
    values = RNG.normal(size=(rows, columns))
    with gzip.open(root / "tables/skillcraft.csv.gz", "wt") as handle:
        np.savetxt(handle, values, delimiter=",")
    assert info("skillcraft").available
    np.testing.assert_allclose(load_dataset("skillcraft").table.values, values)


def test_miniboone_val_never_trains_on_test_rows(root):
    val, test = RNG.normal(size=(100, 43)), RNG.normal(size=(50, 43)) + 9
    np.savez(root / "tables/miniboone_maf_test_val.npz", val=val, test=test)
    data = load_dataset("miniboone-val")
    assert data.split.sizes == (80, 20, 50)
    np.testing.assert_array_equal(data.split.test.values, test)
    joined = np.vstack([data.split.train.values, data.split.validation.values])
    np.testing.assert_array_equal(np.sort(joined[:, 0]), np.sort(val[:, 0]))
    assert data.table is data.split.train and "small-data variant" in data.notes[0]


def test_power_head_keeps_the_papers_columns(root):
    names = np.array([f"c{i}" for i in range(8)])
    np.savez(root / "tables/power_head.npz", x=RNG.normal(size=(20, 8)), columns=names)
    assert load_dataset("power-head").table.columns == ("c0", "c2", "c4", "c5", "c6", "c7")


def test_anomaly_labels_are_no_columns(root):
    stem, rows, columns = ANOMALY["wbc"]
    y = (np.arange(rows) % 10 == 0).astype(np.int32)
    np.savez(root / f"anomaly/{stem}.npz", X=RNG.normal(size=(rows, columns)), y=y)
    data = load_dataset("anomaly/wbc")
    assert data.table.dim == columns
    np.testing.assert_array_equal(data.labels, y)


def test_shapes_and_later_sets(root):
    np.savez(root / "shapes2d/shapes2d.npz", **{"2d-4c": RNG.normal(size=(1261, 2)), "x": np.ones(3)})
    assert load_dataset("shapes2d/2d-4c").table.columns == ("x", "y")
    assert not info("binary/nips").available and "later" in info("binary/nips").note
    with pytest.raises(DataError, match="come in a later version"):
        load_dataset("binary/nips")
    with pytest.raises(DataError, match="holds images"):
        load_dataset("images/digits")


def test_missing_files_name_source_and_place(root):
    for name in ("protein", "anomaly/cover", "shapes2d/2d-4c", "miniboone-val"):
        assert not info(name).available
        with pytest.raises(DataError, match="not on this machine; get it from") as caught:
            load_dataset(name)
        assert str(root) in str(caught.value)
    with pytest.raises(DataError, match="did you mean 'protein'"):
        load_dataset("protien")


def test_resolve_takes_paths_and_names(root, tmp_path, monkeypatch):
    path = write_table(tmp_path / "t.csv", RNG.normal(size=(20, 3)), ["a", "b", "c"])
    data = resolve(path, columns=["c", "a"], n=5)
    assert data.kind == "file" and data.table.columns == ("c", "a") and len(data.table) == 5
    assert resolve("iris").table.dim == 4
    assert resolve("ring:k=4", n=10).toy.modes.shape == (4, 2)
    assert resolve("moons-nvf", columns=["x1"]).split.test.columns == ("x1",)
    assert resolve("ring", columns=["x1"]).toy is None
    # A folder that happens to bear a data set's name does not hide it.
    (tmp_path / "iris").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("iris").kind == "bundled"
    for text, words in (
        ("irsi", "neither a file nor a known data set; did you mean 'iris'"),
        ("zzzzzz", "neither a file nor a known data set; give a file"),
        ("u.csv", "no file 'u.csv'; did you mean 't.csv'"),
        (str(tmp_path), "is a folder"),
    ):
        with pytest.raises(DataError, match=words):
            resolve(text)


def test_a_wrong_data_folder_is_named(monkeypatch):
    monkeypatch.setenv("MODEFLOW_DATA", "/nowhere/at/all")
    with pytest.raises(DataError, match="MODEFLOW_DATA='/nowhere/at/all' is no folder"):
        list_datasets()


def test_cache_folder_follows_xdg(monkeypatch, tmp_path):
    from modeflow.data import cache_root

    monkeypatch.delenv("MODEFLOW_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "modeflow"
