"""The published tables, on small fabricated files of the published formats.

The preprocessing is compared with a second, literal implementation of the published steps in pandas.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter

import h5py
import numpy as np
import pandas as pd
import pytest

from modeflow.data import BENCHMARKS, benchmarks, download_benchmark, list_datasets, load_benchmark
from modeflow.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path))
    for name in ("power", "gas", "hepmass", "miniboone", "BSDS300"):
        (tmp_path / "benchmarks" / name).mkdir(parents=True)
    return tmp_path / "benchmarks"


def test_power_follows_the_published_steps(root):
    raw = RNG.normal(size=(200, 8)) * 10
    np.save(root / "power/data.npy", raw)
    rng = np.random.RandomState(42)
    data = raw.copy()
    rng.shuffle(data)
    data = np.delete(np.delete(data, 3, axis=1), 1, axis=1)
    voltage, active, meters = 0.01 * rng.rand(200, 1), 0.001 * rng.rand(200, 1), rng.rand(200, 3)
    data += np.hstack((active, voltage, meters, np.zeros((200, 1))))
    known = data[:180]
    expected = ((data - known.mean(0)) / known.std(0)).astype(np.float32)
    split = load_benchmark("power").split
    assert split.sizes == (162, 18, 20)
    np.testing.assert_array_equal(np.vstack([part.values for part in split]), expected)


def gas_rows(n=300):
    base = RNG.normal(size=(n, 8))
    twins = base + 0.01 * RNG.normal(size=(n, 8))
    return np.hstack([RNG.normal(size=(n, 3)), base, twins])


def pandas_gas(raw):
    data = pd.DataFrame(raw[:, 3:])
    while True:
        partners = (data.corr() > 0.98).to_numpy().sum(axis=1)
        if not (partners > 1).any():
            break
        data = data.drop(columns=data.columns[np.where(partners > 1)[0][0]])
    return ((data - data.mean()) / data.std()).to_numpy()


def test_gas_follows_the_published_steps(root):
    raw = gas_rows()
    np.save(root / "gas/ethylene_CO.npy", raw)
    data = load_benchmark("gas")
    together = np.vstack([part.values for part in data.split])
    np.testing.assert_allclose(together, pandas_gas(raw), atol=1e-6)
    assert data.split.sizes == (243, 27, 30)


def test_gas_from_the_uci_text_says_that_it_is_another_draw(root):
    raw = np.round(gas_rows(400), 3)
    lines = ["Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings"]
    lines += ["  ".join(f"{v:.3f}" for v in row) for row in raw]
    (root / "gas/ethylene_CO.txt").write_text("\r\n".join(lines) + "\r\n")
    data = load_benchmark("gas")
    assert sum(data.split.sizes) == 100
    assert "another random quarter" in data.notes[0]
    (root / "gas/ethylene_CO.txt").write_text("header\n1 2 x\n")
    with pytest.raises(DataError, match="not the UCI text file"):
        load_benchmark("gas")


def test_gas_pickle_is_never_touched(root):
    (root / "gas/ethylene_CO.pickle").write_bytes(b"would run")
    with pytest.raises(DataError, match=r"ethylene_CO.txt from .*a pickle, which is refused"):
        load_benchmark("gas")
    with pytest.raises(DataError, match="pickle"):
        download_benchmark("gas")


def hepmass_files(root, features=27, n=400):
    """27 features of which 6 repeat their smallest value; the test file has a column too many."""
    parts = {}
    for part, extra in (("train", 0), ("test", 1)):
        x = RNG.normal(size=(n, features + extra))
        x[:, :6] = np.maximum(x[:, :6], 0.0)
        x[:, 6] = np.minimum(x[:, 6], 0.0)  # repeats its largest value: published code keeps that
        label = RNG.integers(0, 2, n).astype(float)
        names = ["# label", *[f"f{i}" for i in range(features)], *["mass"] * extra]
        frame = pd.DataFrame(np.column_stack([label, x]), columns=names)
        frame.to_csv(root / f"hepmass/1000_{part}.csv", index=False)
        parts[part] = frame
    return parts


def test_hepmass_follows_the_published_steps(root):
    parts = hepmass_files(root)
    train = parts["train"].query("`# label` == 1").iloc[:, 1:]
    test = parts["test"].query("`# label` == 1").iloc[:, 1:-1]
    mean, deviation = train.mean(), train.std()
    train, test = ((train - mean) / deviation).to_numpy(), ((test - mean) / deviation).to_numpy()
    keep = [i for i, x in enumerate(train.T) if sorted(Counter(x).items())[0][1] <= 5]
    assert len(keep) == 21 and 6 in keep
    split = load_benchmark("hepmass").split
    np.testing.assert_allclose(split.test.values, test[:, keep], atol=1e-6)
    joined = np.vstack([split.train.values, split.validation.values])
    np.testing.assert_allclose(joined, train[:, keep], atol=1e-6)
    assert len(split.validation) == int(0.1 * len(train))


def test_miniboone_and_bsds300(root):
    raw = RNG.normal(size=(100, 43)) * 5 + 3
    np.save(root / "miniboone/data.npy", raw)
    data = load_benchmark("miniboone")
    assert data.split.sizes == (81, 9, 10)
    expected = (raw[90:] - raw[:90].mean(0)) / raw[:90].std(0)
    np.testing.assert_allclose(data.split.test.values, expected, atol=1e-6)
    assert "differ from the published (29556, 3284, 3648)" in data.notes[0]
    with h5py.File(root / "BSDS300/BSDS300.hdf5", "w") as handle:
        for key, n in (("train", 5), ("validation", 3), ("test", 4)):
            handle[key] = np.full((n, 63), n, dtype=np.float32)
    assert load_benchmark("bsds300").split.sizes == (5, 3, 4)


def test_wrong_files_are_named(root):
    np.save(root / "power/data.npy", np.ones((50, 6)))
    with pytest.raises(DataError, match="has 6 columns, the published file 8"):
        load_benchmark("power")
    np.save(root / "gas/ethylene_CO.npy", RNG.normal(size=(300, 19)))
    with pytest.raises(DataError, match=r"gives 16 columns after preprocessing, published are 8"):
        load_benchmark("gas")


def test_missing_files_say_where_to_get_and_put_them(root):
    for name in BENCHMARKS:
        with pytest.raises(DataError, match="not on this machine") as caught:
            load_benchmark(name)
        assert "https://" in str(caught.value) and str(root) in str(caught.value)
        assert "\n" not in str(caught.value)
    here = {info.name: info.available for info in list_datasets()}
    assert not any(here[name] for name in BENCHMARKS)


def test_published_numbers():
    assert {name: b.columns for name, b in BENCHMARKS.items()} == {
        "power": 6,
        "gas": 8,
        "hepmass": 21,
        "miniboone": 43,
        "bsds300": 63,
    }
    # The tail split must give the published sizes from the published totals.
    for name, total in (("power", 2049280), ("gas", 1052065), ("miniboone", 36488)):
        parts = benchmarks._tail_split(np.broadcast_to(0.0, (total, 1)))
        assert tuple(map(len, parts)) == BENCHMARKS[name].rows


def test_download_verify_extract_load(root, tmp_path):
    raw = RNG.normal(size=(100, 43))
    np.save(tmp_path / "data.npy", raw)
    archive = tmp_path / "served.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "data.npy", "data/miniboone/data.npy")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="has checksum"):
        download_benchmark("miniboone", url=archive.as_uri())
    assert not (root / "miniboone/data.npy").exists()
    download_benchmark("miniboone", url=archive.as_uri(), md5=md5)
    assert load_benchmark("miniboone").split.sizes == (81, 9, 10)
    with pytest.raises(DataError, match=r"does not hold data/power/data\.npy"):
        download_benchmark("power", url=archive.as_uri(), md5=md5)
