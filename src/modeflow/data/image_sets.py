"""The image sets of the literature by name: from their published files, with their checksums.

Files are looked for in the data folder (`modeflow.data.data_roots`), below ``images/``; nothing is unpickled.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeflow.data.dataset import DatasetInfo
from modeflow.data.download import download, extract
from modeflow.data.images import IMAGE_SUFFIXES, ImageSet, open_image, prepared, read_image_folder
from modeflow.data.local import cache_root, data_roots, find_file
from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["IMAGE_SETS", "download_images", "is_image_source", "list_image_sets", "load_images"]

_PREFIX = "images/"
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """One image set.

    `shape` is ``(channels, height, width)``; `files` maps a path below ``images/`` to its address and MD5
    (both None where the publisher asks for a login or terms to be agreed).
    """

    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    source: str
    licence: str
    load: Callable[[str, int | None], ImageSet]
    files: dict[str, tuple[str | None, str | None]]
    note: str = ""


# -- finding files -------------------------------------------------------------------------------


def _find(name: str, *candidates: str) -> Path:
    """The first of the paths below ``images/`` that is there."""
    found = find_file(*(f"images/{c}" for c in candidates))
    if found is not None:
        return found
    known = IMAGE_SETS[name]
    target = cache_root() / "images" / candidates[-1]
    if any(url for url, _ in known.files.values()):
        raise DataError(f"'{_PREFIX}{name}' is not here: `modeflow data download {_PREFIX}{name}` fetches it")
    raise DataError(f"'{_PREFIX}{name}' is not here: get it from {known.source} and put it at {target}")


def _find_folder(name: str, folder: str) -> Path:
    for root in data_roots():
        if (root / "images" / folder).is_dir():
            return root / "images" / folder
    raise DataError(
        f"'{_PREFIX}{name}' is not here: get it from {IMAGE_SETS[name].source} and put its folder at "
        f"{cache_root() / 'images' / folder}"
    )


def _arrays(file: Path, *keys: str) -> list[np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            return [stored[key] for key in keys]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"'{file}' is damaged or not the published file ({error})") from error


def read_idx(file: Path) -> np.ndarray:
    """An array of bytes in the IDX format of MNIST, gzipped or not.

    Raises:
        DataError: damaged, or another format.
    """
    try:
        raw = file.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        zero, kind, dims = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dims}I", raw, 4)
    except (OSError, EOFError, struct.error, gzip.BadGzipFile) as error:
        raise DataError(f"'{file}' is damaged: {error}") from error
    if zero or kind != 8 or len(raw) != 4 + 4 * dims + int(np.prod(shape)):
        raise DataError(f"'{file}' is not an IDX file of bytes, or it is cut short")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


# -- readers -------------------------------------------------------------------------------------


def _idx_set(name: str, folder: str, classes: tuple[str, ...]) -> ImageSet:
    one = find_file(f"images/{name.replace('-', '_')}.npz")
    if one is not None:
        x, y, test_x, test_y = _arrays(one, "x_train", "y_train", "x_test", "y_test")
    else:
        parts = []
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            file = f"{folder}/raw/{part}-ubyte"
            parts.append(read_idx(_find(name, file, f"{file}.gz")))
        x, y, test_x, test_y = parts
    labels = (y.astype(np.int64), test_y.astype(np.int64))
    return ImageSet(_PREFIX + name, x, labels[0], test_x, labels[1], classes=classes)


def _cifar(name: str, _: int | None) -> ImageSet:
    def batch(file: str) -> tuple[np.ndarray, np.ndarray]:
        path = _find(name, f"cifar-10-batches-bin/{file}.bin")
        raw = np.fromfile(path, np.uint8)
        if raw.size != 10_000 * 3073:
            raise DataError(f"'{path}' is not a batch of 10,000 images, or it is cut short")
        raw = raw.reshape(10_000, 3073)
        return raw[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), raw[:, 0].astype(np.int64)

    batches = [batch(f"data_batch_{i}") for i in range(1, 6)]
    test, test_labels = batch("test_batch")
    images = np.concatenate([b[0] for b in batches])
    labels = np.concatenate([b[1] for b in batches])
    return ImageSet(_PREFIX + name, images, labels, test, test_labels, classes=_CIFAR_CLASSES)


def _cifar_head(name: str, _: int | None) -> ImageSet:
    x, y = _arrays(_find(name, "cifar10_lossless_first4000.npz"), "x", "y")
    note = "the first 4,000 training images: too few for the published protocol"
    return ImageSet(_PREFIX + name, x, y.astype(np.int64), classes=_CIFAR_CLASSES, notes=(note,))


def _omniglot(name: str, _: int | None) -> ImageSet:
    x, y, names = _arrays(_find(name, "omniglot_small.npz"), "x28", "alphabet", "alphabet_names")
    note = "the small background sets; not the split of the importance-weighted autoencoder"
    return ImageSet(
        _PREFIX + name, x, y.astype(np.int64), classes=tuple(str(n) for n in names), notes=(note,)
    )


def _digits(name: str, _: int | None) -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images)
    return ImageSet(
        _PREFIX + name, images, np.asarray(bunch.target, np.int64), levels=17, classes=tuple("0123456789")
    )


def _celeba(name: str, size: int | None) -> ImageSet:
    """The aligned faces: 148 x 148 from the middle, resized to `size` (64 by default)."""
    folder = _find_folder(name, "celeba")
    images = folder / "img_align_celeba"
    listing = folder / "list_eval_partition.txt"
    if not images.is_dir() or not listing.is_file():
        raise DataError(f"'{folder}' needs img_align_celeba/ and list_eval_partition.txt, as published")
    side = 64 if size is None else size
    parts: dict[str, list[np.ndarray]] = {"0": [], "1": [], "2": []}
    for line in listing.read_text(encoding="ascii").splitlines():
        file, _, part = line.partition(" ")
        if part.strip() not in parts:
            raise DataError(f"'{listing}' has a line that is not 'file part': {line[:40]!r}")
        with open_image(images / file) as image:
            width, height = image.size
            left, top = (width - 148) // 2, (height - 148) // 2
            face = image.crop((left, top, left + 148, top + 148))
            parts[part.strip()].append(np.asarray(prepared(face, side)))
    # The published validation part joins the training images: `split_images` cuts one of its own.
    train = np.stack(parts["0"] + parts["1"])
    note = f"148 x 148 from the middle, resized to {side} x {side}"
    return ImageSet(_PREFIX + name, train, test=np.stack(parts["2"]), notes=(note,))


def _imagenet(side: int) -> Callable[[str, int | None], ImageSet]:
    def load(name: str, _: int | None) -> ImageSet:
        folder = _find_folder(name, f"imagenet{side}")

        def batch(file: str) -> tuple[np.ndarray, np.ndarray]:
            x, y = _arrays(folder / file, "data", "labels")
            if x.dtype != np.uint8 or x.shape[1:] != (3 * side * side,):
                raise DataError(f"'{folder / file}' does not hold images of {side} x {side}")
            return x.reshape(-1, 3, side, side).transpose(0, 2, 3, 1), y.astype(np.int64) - 1

        batches = [batch(f"train_data_batch_{i}.npz") for i in range(1, 11)]
        test, test_labels = batch("val_data.npz")
        images = np.concatenate([b[0] for b in batches])
        labels = np.concatenate([b[1] for b in batches])
        note = (
            "the published validation images are the test set; downsampled with a box filter (Chrabaszcz et "
            "al. 2017), not the older files of van den Oord et al. that Glow's numbers are for"
        )
        return ImageSet(_PREFIX + name, images, labels, test, test_labels, notes=(note,))

    return load


def _idx_files(
    folder: str, base: str, sums: tuple[str, str, str, str]
) -> dict[str, tuple[str | None, str | None]]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {
        f"{folder}/raw/{n}-ubyte.gz": (f"{base}/{n}-ubyte.gz", md5)
        for n, md5 in zip(names, sums, strict=True)
    }


_CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_IMAGENET_NOTE = "publisher asks for a login; ten train_data_batch_*.npz and val_data.npz"

IMAGE_SETS: dict[str, Published] = {
    "digits": Published(
        (1, 8, 8), (1797, 0), "UCI optical recognition of handwritten digits",
        "CC BY 4.0 (UCI), copy shipped with scikit-learn", _digits, {}, "17 levels of grey; always there",
    ),
    "mnist": Published(
        (1, 28, 28), (60_000, 10_000), "LeCun, Cortes, Burges",
        "CC BY-SA 3.0", lambda name, _: _idx_set(name, "MNIST", tuple("0123456789")),
        _idx_files(
            "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist",
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
             "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "fashion-mnist": Published(
        (1, 28, 28), (60_000, 10_000), "zalandoresearch/fashion-mnist",
        "MIT", lambda name, _: _idx_set(name, "FashionMNIST", _FASHION_CLASSES),
        _idx_files(
            "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
             "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "cifar10": Published(
        (3, 32, 32), (50_000, 10_000), "https://www.cs.toronto.edu/~kriz/cifar.html",
        "none stated; for research, cite Krizhevsky 2009", _cifar,
        {
            "cifar-10-binary.tar.gz": (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
            )
        },
        "the binary version: the one for Python is a pickle",
    ),
    "cifar10-first4000": Published(
        (3, 32, 32), (4000, 0), "karpathy/convnetjs", "as CIFAR-10", _cifar_head,
        {"cifar10_lossless_first4000.npz": (None, None)}, "too few for the published protocol",
    ),
    "omniglot-small": Published(
        (1, 28, 28), (4840, 0), "brendenlake/omniglot", "MIT", _omniglot,
        {"omniglot_small.npz": (None, None)}, "small background sets; labels are alphabets",
    ),
    "celeba": Published(
        (3, 64, 64), (182_637, 19_962), "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "non-commercial research", _celeba,
        {"celeba/img_align_celeba": (None, None), "celeba/list_eval_partition.txt": (None, None)},
        "148 x 148 from the middle, resized to 64 x 64 (--set size=...)",
    ),
    "imagenet32": Published(
        (3, 32, 32), (1_281_167, 50_000), "https://image-net.org/download-images.php",
        "non-commercial research, ImageNet's terms", _imagenet(32),
        {"imagenet32/train_data_batch_1.npz": (None, None)}, _IMAGENET_NOTE,
    ),
    "imagenet64": Published(
        (3, 64, 64), (1_281_167, 50_000), "https://image-net.org/download-images.php",
        "non-commercial research, ImageNet's terms", _imagenet(64),
        {"imagenet64/train_data_batch_1.npz": (None, None)}, _IMAGENET_NOTE,
    ),
}  # fmt: skip
#: Where a set may lie in another form than the published one.
_OTHER_FORM = {"mnist": "mnist.npz", "fashion-mnist": "fashion_mnist.npz"}


# -- by name or path -----------------------------------------------------------------------------


def _is_here(name: str) -> tuple[bool, str | None]:
    known = IMAGE_SETS[name]
    if not known.files:
        return True, None
    wanted = list(known.files)
    if name == "cifar10":
        wanted = ["cifar-10-batches-bin/test_batch.bin"]
    forms = [[_OTHER_FORM[name]]] if name in _OTHER_FORM else []
    for form in (*forms, wanted, [w.removesuffix(".gz") for w in wanted]):
        for root in data_roots():
            if all((root / "images" / file).exists() for file in form):
                return True, str(root / "images" / form[0])
    return False, None


def list_image_sets() -> list[DatasetInfo]:
    """The image sets by name, and whether they are here. Opens no file."""
    infos = []
    for name, known in IMAGE_SETS.items():
        here, path = _is_here(name)
        channels, height, width = known.shape
        size = f"{channels} x {height} x {width}"
        infos.append(
            DatasetInfo(
                _PREFIX + name,
                "images",
                sum(known.sizes),
                channels * height * width,
                here,
                path,
                known.source,
                known.licence,
                note=f"{size}; {known.note}" if known.note else size,
            )
        )
    return infos


def download_images(name: str, *, progress: bool = True) -> list[Path]:
    """Fetch an image set into the data folder and check its checksums.

    Raises:
        DataError: unknown, not freely available, unreachable, or another checksum.
    """
    known = _known(name)
    if not known.files:
        raise DataError(f"'{name}' comes with the package: there is nothing to download")
    root = cache_root() / "images"
    paths = []
    for file, (url, md5) in known.files.items():
        if url is None:
            raise DataError(f"'{name}' cannot be fetched: get it from {known.source}, put it into {root}")
        paths.append(download(url, root / file, md5, progress=progress))
    if name.removeprefix(_PREFIX) == "cifar10":
        members = {f"cifar-10-batches-bin/{f}": f"cifar-10-batches-bin/{f}" for f in _CIFAR_FILES}
        paths = extract(paths[0], members, root)
    return paths


def _known(name: str) -> Published:
    short = name.removeprefix(_PREFIX)
    if short not in IMAGE_SETS:
        raise DataError(
            f"no image set is called '{name}'{nearest(short, IMAGE_SETS)} "
            f"({', '.join(_PREFIX + n for n in IMAGE_SETS)})"
        )
    return IMAGE_SETS[short]


def is_image_source(data: str | os.PathLike[str] | None) -> bool:
    """Whether DATA names images: ``images/...``, a folder of images, or an array of three or more axes."""
    if data is None:
        return False
    text = os.fspath(data)
    path = Path(text).expanduser()
    if path.is_dir():
        return any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.rglob("*"))
    if path.is_file() and path.suffix.lower() == ".npy":
        return _axes(path) in (3, 4)
    return text.startswith(_PREFIX)


def _axes(path: Path) -> int:
    try:
        return int(np.load(path, mmap_mode="r", allow_pickle=False).ndim)
    except Exception:  # numpy reads a header as Python text, and says what Python says of it
        return 0


def load_images(
    data: str | os.PathLike[str],
    *,
    n: int | None = None,
    seed: int = 0,
    size: int | None = None,
    bits: int | None = None,
) -> ImageSet:
    """Images by name, from a folder, or from a .npy array ``(N, H, W)`` or ``(N, H, W, C)``.

    Arguments:
        data: ``images/mnist`` and the like (`list_image_sets`), a folder, or a .npy file.
        n: a random subset of the (training) images. seed: of it.
        size: for folders and CelebA: height and width to resize to.
        bits: keep so many of the eight bits of a pixel; None for all.

    Raises:
        DataError: not there (the message says where to get it), damaged, or no images.
        ConfigError: `size` or `bits` that is not allowed.
    """
    text = os.fspath(data)
    path = Path(text).expanduser()
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"size must be a whole number of 1 or more, received {size!r}")
    if path.is_dir() and text.removeprefix(_PREFIX) not in IMAGE_SETS:
        loaded = read_image_folder(path, size)
    elif path.is_file():
        if path.suffix.lower() != ".npy":
            raise DataError(f"'{text}': images are read from a folder, or from a .npy array")
        try:
            loaded = ImageSet(text, np.load(path, allow_pickle=False))
        except Exception as error:
            raise DataError(f"'{text}' cannot be read: {error}") from error
    else:
        known = _known(text)
        loaded = known.load(text.removeprefix(_PREFIX), size)
    if size is not None and loaded.shape[1:] != (size, size):
        raise ConfigError(
            f"size={size}: '{text}' has images of {loaded.shape[1]} x {loaded.shape[2]}, as they are"
        )
    loaded = loaded if bits is None else loaded.with_bits(bits)
    return loaded.subset(n, seed)
