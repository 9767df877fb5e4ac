"""Kinds of columns of mixed tables, found in data or said by a person; both ways between frames and numbers.

`TableSchema.infer` reads a data frame of any library and finds the kind of every column; `TableSchema.encode`
makes a float64 array of the columns that are modelled, `TableSchema.decode` a frame of any such array, all of
whose cells are ones that the columns could have.
"""

from modeflow.data.columns.aside import Constant, Drop, Identifier
from modeflow.data.columns.atoms import find_atoms
from modeflow.data.columns.base import IMPOSSIBLE, KINDS, Column, Feature, Unseen
from modeflow.data.columns.files import read_mixed
from modeflow.data.columns.levels import Boolean, Categorical, Ordinal
from modeflow.data.columns.numeric import Bounded, Circular, Positive, Real
from modeflow.data.columns.schema import TableSchema
from modeflow.data.columns.specs import parse_spec
from modeflow.data.columns.steps import Integer, Steps
from modeflow.data.columns.times import Datetime

__all__ = [
    "IMPOSSIBLE",
    "KINDS",
    "Boolean",
    "Bounded",
    "Categorical",
    "Circular",
    "Column",
    "Constant",
    "Datetime",
    "Drop",
    "Feature",
    "Identifier",
    "Integer",
    "Ordinal",
    "Positive",
    "Real",
    "Steps",
    "TableSchema",
    "Unseen",
    "find_atoms",
    "parse_spec",
    "read_mixed",
]
