"""Data: tables from files and back, toy shapes with known densities, benchmark sets."""

from modeflow.data.benchmarks import BENCHMARKS, download_benchmark, load_benchmark
from modeflow.data.catalogue import list_datasets, load_dataset, resolve
from modeflow.data.dataset import Dataset, DatasetInfo, DatasetKind
from modeflow.data.download import download
from modeflow.data.local import cache_root, data_roots
from modeflow.data.schema import Kind, Schema, check_fit_table
from modeflow.data.splits import Split, split_table
from modeflow.data.table import SUFFIXES, Table, check_writable, read_table, write_table
from modeflow.data.toys import TOYS, GaussianModes, Toy, toy, toy_names

__all__ = [
    "BENCHMARKS",
    "SUFFIXES",
    "TOYS",
    "Dataset",
    "DatasetInfo",
    "DatasetKind",
    "GaussianModes",
    "Kind",
    "Schema",
    "Split",
    "Table",
    "Toy",
    "cache_root",
    "check_fit_table",
    "check_writable",
    "data_roots",
    "download",
    "download_benchmark",
    "list_datasets",
    "load_benchmark",
    "load_dataset",
    "read_table",
    "resolve",
    "split_table",
    "toy",
    "toy_names",
    "write_table",
]
