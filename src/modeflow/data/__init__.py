"""Data: tables from files and back, toy shapes with known densities, benchmark sets."""

from modeflow.data._reading import read_once
from modeflow.data._source import read_source
from modeflow.data.benchmarks import BENCHMARKS, download_benchmark, load_benchmark
from modeflow.data.catalogue import list_datasets, load_dataset, resolve
from modeflow.data.checks import check_fit_table
from modeflow.data.dataset import Dataset, DatasetInfo, DatasetKind
from modeflow.data.download import download
from modeflow.data.holes import HIDDEN, hidden_pixels, pixels_without, read_mask
from modeflow.data.image_sets import IMAGE_SETS, download_images, is_image_source, load_images
from modeflow.data.images import ImageSet, ImageSplit, as_images, image_grid, save_png, split_images
from modeflow.data.lattice import Lattice
from modeflow.data.local import cache_root, data_roots
from modeflow.data.schema import Kind, Schema
from modeflow.data.splits import Split, split_table
from modeflow.data.table import SUFFIXES, Table, check_writable, read_rows, read_table, write_table
from modeflow.data.toys import TOYS, GaussianModes, Toy, toy, toy_names

__all__ = [
    "BENCHMARKS",
    "HIDDEN",
    "IMAGE_SETS",
    "SUFFIXES",
    "TOYS",
    "Dataset",
    "DatasetInfo",
    "DatasetKind",
    "GaussianModes",
    "ImageSet",
    "ImageSplit",
    "Kind",
    "Lattice",
    "Schema",
    "Split",
    "Table",
    "Toy",
    "as_images",
    "cache_root",
    "check_fit_table",
    "check_writable",
    "data_roots",
    "download",
    "download_benchmark",
    "download_images",
    "hidden_pixels",
    "image_grid",
    "is_image_source",
    "list_datasets",
    "load_benchmark",
    "load_dataset",
    "load_images",
    "pixels_without",
    "read_mask",
    "read_once",
    "read_rows",
    "read_source",
    "read_table",
    "resolve",
    "save_png",
    "split_images",
    "split_table",
    "toy",
    "toy_names",
    "write_table",
]
