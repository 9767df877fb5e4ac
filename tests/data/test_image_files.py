"""Images from files: every published format, from a few bytes written here."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from modeflow.data import (
    IMAGE_SETS,
    ImageSet,
    as_images,
    image_grid,
    is_image_source,
    list_datasets,
    load_images,
    save_png,
    split_images,
)
from modeflow.data import image_sets as sets
from modeflow.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path))
    (tmp_path / "images").mkdir()
    return tmp_path


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return (
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_in_the_layout_of_its_publishers(root, zipped):
    folder = root / "images/MNIST/raw"
    folder.mkdir(parents=True)
    parts = {
        "train-images-idx3": pixels(30, 28, 28),
        "train-labels-idx1": (np.arange(30) % 10).astype(np.uint8),
        "t10k-images-idx3": pixels(7, 28, 28),
        "t10k-labels-idx1": np.arange(7, dtype=np.uint8),
    }
    for name, array in parts.items():
        raw = idx(array)
        if zipped:
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / f"{name}-ubyte").write_bytes(raw)
    data = load_images("images/mnist")
    assert data.shape == (1, 28, 28) and data.levels == 256 and data.classes[3] == "3"
    np.testing.assert_array_equal(data.images[..., 0], parts["train-images-idx3"])
    np.testing.assert_array_equal(data.test_labels, np.arange(7))
    name = "images/mnist"
    assert next(i for i in list_datasets() if i.name == name).available
    split = split_images(data, validation=0.2)
    assert split.sizes == (24, 6, 7)
    np.testing.assert_array_equal(split.test, data.test)
    seen = {i.tobytes() for part in (split.train, split.validation) for i in part}
    assert len(seen) == 30  # every image in one part
    first = folder / ("train-images-idx3-ubyte.gz" if zipped else "train-images-idx3-ubyte")
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(DataError, match="train-images-idx3"):
        load_images("images/mnist")


def test_one_file_is_used_as_it_is(root):
    x, y = pixels(9, 28, 28), np.arange(9, dtype=np.uint8)
    np.savez(root / "images/fashion_mnist.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    data = load_images("images/fashion-mnist", n=5, seed=3)
    assert len(data.images) == 5 and len(data.test) == 2 and data.classes[9] == "Ankle boot"
    assert "random 5 of 9" in data.notes[0]
    with pytest.raises(DataError, match="9 images, 10 were asked for"):
        load_images("images/fashion-mnist", n=10)


def test_cifar_from_its_binary_archive(root, monkeypatch):
    images = {f: pixels(10_000, 3073) for f in ("data_batch_1", "test_batch")}
    for raw in images.values():
        raw[:, 0] %= 10
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=0) as tar:
        for name in sets._CIFAR_FILES:
            raw = images["test_batch" if name == "test_batch.bin" else "data_batch_1"].tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    source = root / "published.tar.gz"
    source.write_bytes(archive.getvalue())
    digest = hashlib.md5(archive.getvalue()).hexdigest()
    known = IMAGE_SETS["cifar10"]
    files = {"cifar-10-binary.tar.gz": (source.as_uri(), digest)}
    monkeypatch.setitem(IMAGE_SETS, "cifar10", type(known)(**{**known.__dict__, "files": files}))
    with pytest.raises(DataError, match="modeflow data download images/cifar10"):
        load_images("images/cifar10")
    sets.download_images("images/cifar10", progress=False)
    data = load_images("images/cifar10")
    assert data.images.shape == (50_000, 32, 32, 3) and data.classes[data.labels[0]] in sets._CIFAR_CLASSES
    planes = images["data_batch_1"][4, 1:].reshape(3, 32, 32)
    np.testing.assert_array_equal(data.images[4], planes.transpose(1, 2, 0))
    np.testing.assert_array_equal(data.test_labels, images["test_batch"][:, 0])


def test_faces_are_cut_and_resized(root):
    folder = root / "images/celeba/img_align_celeba"
    folder.mkdir(parents=True)
    lines = []
    for i, part in enumerate((0, 0, 1, 2)):
        Image.fromarray(pixels(218, 178, 3)).save(folder / f"{i:06d}.jpg")
        lines.append(f"{i:06d}.jpg {part}")
    (folder.parent / "list_eval_partition.txt").write_text("\n".join(lines))
    data = load_images("images/celeba", size=16)
    assert data.images.shape == (3, 16, 16, 3) and data.test.shape == (1, 16, 16, 3)
    assert load_images("images/celeba").shape == (3, 64, 64)
    (folder.parent / "list_eval_partition.txt").write_text("000000.jpg nine")
    with pytest.raises(DataError, match="not 'file part'"):
        load_images("images/celeba")


def test_imagenet_in_its_batches(root):
    folder = root / "images/imagenet32"
    folder.mkdir()
    raw = pixels(4, 3072)
    for i in range(1, 11):
        np.savez(folder / f"train_data_batch_{i}.npz", data=raw, labels=np.arange(1, 5))
    np.savez(folder / "val_data.npz", data=raw[:2], labels=np.arange(1, 3))
    data = load_images("images/imagenet32")
    assert data.images.shape == (40, 32, 32, 3) and data.labels.min() == 0
    np.testing.assert_array_equal(data.test[1, :, :, 2], raw[1].reshape(3, 32, 32)[2])
    np.savez(folder / "train_data_batch_3.npz", data=raw[:, :12], labels=np.arange(1, 5))
    with pytest.raises(DataError, match="train_data_batch_3"):
        load_images("images/imagenet32")
    with pytest.raises(DataError, match=r"image-net\.org"):
        load_images("images/imagenet64")
    with pytest.raises(DataError, match="cannot be fetched"):
        sets.download_images("images/imagenet64")


def test_folders_of_images(tmp_path):
    for kind, count in (("cats", 3), ("dogs", 2)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            Image.fromarray(pixels(10, 14)).save(tmp_path / kind / f"{i}.png")
    assert is_image_source(tmp_path) and not is_image_source(tmp_path / "cats/none")
    data = load_images(tmp_path)
    assert data.shape == (1, 10, 14) and data.classes == ("cats", "dogs")
    np.testing.assert_array_equal(data.labels, [0, 0, 0, 1, 1])
    assert load_images(tmp_path, size=8).images.shape == (5, 8, 8, 1)
    Image.fromarray(pixels(12, 14, 3)).save(tmp_path / "dogs/wide.png")
    with pytest.raises(DataError, match=r"wide.png' has 14 x 12 pixels.*give size"):
        load_images(tmp_path)
    assert load_images(tmp_path, size=8).shape == (3, 8, 8)
    (tmp_path / "dogs/wide.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_images(tmp_path, size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_images(tmp_path / "empty")


def test_arrays_and_bits(tmp_path):
    file = tmp_path / "x.npy"
    x = pixels(6, 8, 8)
    np.save(file, x)
    assert is_image_source(file)
    five = load_images(file, bits=5)
    assert five.levels == 32
    np.testing.assert_array_equal(five.images[..., 0], x // 8)
    assert load_images("images/digits").levels == 17
    with pytest.raises(ConfigError, match="17 levels"):
        load_images("images/digits", bits=5)
    with pytest.raises(ConfigError, match="bits must be"):
        load_images(file, bits=9)
    with pytest.raises(ConfigError, match="as they are"):
        load_images(file, size=4)
    np.save(file, np.ones((5, 2)))
    assert not is_image_source(file)
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        load_images("images/mnits")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 8)), "need shape"),
        (np.zeros((0, 8, 8)), "need shape"),
        (np.zeros((3, 3, 8, 8)), "move the channels to the end"),
        (np.full((3, 8, 8), 0.5), "whole numbers 0 to 255 as they were stored"),
        (np.full((3, 8, 8), np.nan), "no finite numbers"),
        (np.full((3, 8, 8), 256), "go from 256 to 256"),
        (np.full((3, 8, 8), -1), "go from -1 to -1"),
        (np.full((3, 8, 8), "a"), "must be numbers"),
    ],
)
def test_what_is_no_image_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        as_images(values)


def test_pictures(tmp_path):
    images = pixels(5, 4, 3, 1)
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (14, 7)
    np.testing.assert_array_equal(grid[5:9, 4:7], images[3, :, :, 0])
    assert (grid[10:, 4:] == 255).all()
    back = np.asarray(Image.open(save_png(tmp_path / "g.png", grid)))
    np.testing.assert_array_equal(back, grid)
    two = image_grid(np.array([[[[0, 1, 2]]]], dtype=np.uint8), levels=3, scale=2)
    assert two.shape == (2, 2, 3) and two[0, 0].tolist() == [0, 128, 255]


def test_splits_refuse_what_cannot_be_split():
    data = ImageSet("x", pixels(4, 2, 2))
    with pytest.raises(DataError, match="too few"):
        split_images(data, test=0.01)
    with pytest.raises(ConfigError, match="fraction"):
        split_images(data, test=1.5)
    assert split_images(data, validation=0.25, test=0.25).sizes == (2, 1, 1)
