"""Columns of a kind that was said or guessed: what the user did not say is read from the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from modeflow.data.columns.aside import EXACT, Constant, Drop, Identifier, absent_in
from modeflow.data.columns.atoms import bounds, find_atoms
from modeflow.data.columns.base import Column, kind_named, shown
from modeflow.data.columns.cells import Cells
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.few import MAX_LEVELS, MAX_LEVELS_NUMERIC, few_valued, level_values
from modeflow.data.columns.levels import Boolean, Categorical, Ordinal
from modeflow.data.columns.numeric import Bounded, Circular, Numeric, Positive, Real, numbers_of
from modeflow.data.columns.steps import Integer, Steps, as_written
from modeflow.data.columns.times import Datetime, check_form, time_step
from modeflow.data.lattice import Lattice, find_lattice, lattice_of_step, short_decimals
from modeflow.data.spread import are_single
from modeflow.errors import ConfigError, DataError

__all__ = ["known_values", "learn", "number_type", "taken", "trusted_lattice"]


def learn(kind: str, cells: Cells, name: str, said: Mapping[str, Any]) -> Column:
    """The column of a kind with the options said, the others as the data have them.

    Arguments:
        kind: a name of `KINDS`. cells: of the column. said: options of the kind.

    Raises:
        ConfigError: an unknown kind or option, or one that is needed.
        DataError: the data contradict what was said; names column, row and value.
    """
    chosen = kind_named(kind, name)
    if chosen is not Drop:
        cells.check(name)
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in said.items()}
    as_levels = options.pop("as_levels", None)
    chosen.check_options(name, options)
    if as_levels is not None and not issubclass(chosen, Steps):
        raise ConfigError(f"column '{name}': as_levels is an option of integer, lattice and datetime")
    common = {"dtype": options.pop("dtype", number_type(cells)), "missing": options.pop("missing", None)}
    found = _LEARN[kind](cells, name, options, as_levels)
    if issubclass(chosen, Numeric) and "single" not in options:
        double = portable(common["dtype"]) == "float64"
        found["single"] = double and _is_single(known_values(cells, name))
    column = chosen.of(name, {**found, **common, "missing": False})
    if chosen in (Drop, Identifier):
        return column
    absent = np.isnan(column.encode(cells))  # refuses data that contradict
    missing = bool(absent.any()) if common["missing"] is None else bool(common["missing"])
    return chosen.of(name, {**column.options(), "missing": missing and chosen is not Constant})


def taken(column: Column, cells: Cells, name: str) -> Column:
    """A column as it stands, of the data's type.

    Raises:
        DataError: the data contradict it; names column, row and value.
    """
    column = replace(column, name=name, dtype=number_type(cells))
    if isinstance(column, (Drop, Identifier)):
        return column
    absent = bool(np.isnan(column.encode(cells)).any())
    return replace(column, missing=(column.missing or absent) and not isinstance(column, Constant))


def number_type(cells: Cells) -> str:
    """The frame's type; of numbers that text spells (a file), a plain one."""
    if cells.text is None or not cells.spells_numbers:
        return cells.dtype
    whole = cells.text.drop_nulls().str.contains(r"^\s*[+-]?\d+\s*$|^[^0-9]*$").all()
    return "int64" if whole else "float64"


def known_values(cells: Cells, name: str) -> np.ndarray:
    """Its numbers without the missing ones.

    Raises:
        DataError: text or infinite numbers, or none at all.
    """
    values = numbers_of(cells, name)
    values = values[~np.isnan(values)]
    if not len(values):
        raise DataError(f"column '{name}' is missing in every row; say 'constant' or 'drop'")
    return values


def _is_single(values: np.ndarray) -> bool:
    """Whether numbers have the digits of single precision alone, and some are no short decimals for that."""
    if not are_single(values):
        return False
    digits = short_decimals(values)
    return digits is None or not np.array_equal(np.round(values, digits), values)


# -- kind by kind -----------------------------------------------------------------------------------

Options = dict[str, Any]


def _atoms_and_rest(
    values: np.ndarray, said: Options, lattice: Lattice | None = None
) -> tuple[tuple[float, ...], np.ndarray]:
    atoms = said.get("atoms")
    if atoms is None:
        atoms = find_atoms(*np.unique(values, return_counts=True), lattice)
    atoms = tuple(atoms) if isinstance(atoms, (tuple, list)) else (atoms,)
    rest = values[~np.isin(values, np.array(atoms, dtype=np.float64))]
    return atoms, rest if len(rest) else values


def _real(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    atoms, rest = _atoms_and_rest(known_values(cells, name), said)
    return {"atoms": atoms, "decimals": short_decimals(rest), **said}


def _positive(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    atoms, rest = _atoms_and_rest(known_values(cells, name), said)
    low = said.get("low", 0.0)
    return {"atoms": atoms, "decimals": short_decimals(rest), "closed": bool((rest == low).any()), **said}


def _bounded(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    values = known_values(cells, name)
    atoms, rest = _atoms_and_rest(values, said)
    found: Options = {"atoms": atoms, "decimals": short_decimals(rest)}
    if "low" not in said and "high" not in said:
        ends = bounds(rest)
        found["low"], found["high"] = (None if math.isinf(end) else end for end in ends)
        if found["low"] is found["high"] is None:
            found["low"], found["high"] = float(rest.min()), float(rest.max())
    return {**found, **said}


def _circular(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    if "period" not in said:
        raise ConfigError(f"column '{name}': a circular column needs its period: circular(360)")
    values = known_values(cells, name)
    period = Circular(name=name, period=float(said["period"])).period  # says what is wrong with it
    span = float(values.max() - values.min())
    if span > 2 * period:
        row = int(np.nanargmax(np.abs(cells.numbers)))
        raise DataError(
            f"column '{name}' spans {span:g}, from {values.min():g} to {values.max():g} (row {row + 1}), "
            f"more than two turns of circular({period:g}); give its period"
        )
    step = said.get("step")
    if step is None:
        lattice = trusted_lattice(values)
        step = 0.0 if lattice is None else lattice.step
        turns = period / step if step else 2.5
        step = step if abs(turns - round(turns)) < 1e-6 and round(turns) >= 2 else 0.0
    found: Options = {"step": step, "decimals": short_decimals(values)}
    if step and found["decimals"] is None and float(step).is_integer():
        found["decimals"] = 0
    origin = said.get("origin")
    if origin is None:
        origin, atoms = _origin(values, period, step)
        found["atoms"] = atoms
    return {**found, "origin": origin, **said}


def _origin(values: np.ndarray, period: float, step: float) -> tuple[float, tuple[float, ...]]:
    """Where a turn starts, so that all values lie in one; 0 beside a full turn is a value of its own."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high < period:
        return (step, ()) if step and low >= step and high == period else (0.0, ())
    if step and low >= 0 and high == period:
        return step, (0.0,) if low == 0 else ()
    if low >= -period / 2 and high <= period / 2:
        return (-period / 2 + step if high == period / 2 else -period / 2), ()
    if step and low < high < low + period:
        return low, ()
    return 0.0, ()


def _steps(cells: Cells, name: str, said: Options, as_levels: bool | None, whole: bool) -> Options:
    values = known_values(cells, name)
    step = said.get("step")
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float)) or not step > 0):
        raise ConfigError(f"column '{name}': step must be a number above 0, received {step!r}")
    if whole and (values != np.round(values)).any():
        row = int(np.argmax(cells.numbers != np.round(cells.numbers)))
        raise DataError(
            f"column '{name}', data row {row + 1} holds {shown(cells.value(row))}, no whole number; say "
            "'real', or 'lattice' with a step"
        )
    atoms = said.get("atoms")
    lattice = _lattice_of(values, step, whole)
    if lattice is None:
        raise DataError(f"column '{name}' lies on no lattice: say its step, lattice(0.01), or 'real'")
    levels, counts = np.unique(values, return_counts=True)
    if as_levels is None:
        as_levels = (
            not atoms and not {"low", "high"} & said.keys() and few_valued(levels, counts, lattice.step)
        )
    if said.get("levels") or as_levels:
        chosen = said.get("levels") or _with_gaps(levels, lattice)
        found = {
            "step": lattice.step,
            "offset": lattice.offset,
            "decimals": lattice.decimals,
            "levels": chosen,
        }
        return {**found, **said}
    if atoms is None:
        atoms = find_atoms(levels, counts, lattice)
    rest = values[~np.isin(values, np.array(atoms, dtype=np.float64))]
    if len(atoms) and len(np.unique(rest)) > 1:
        lattice = _lattice_of(rest, step, whole) or lattice
    form = "" if lattice.decimals is not None else _written(rest, lattice) or ""
    low, high = (
        None if n is None else float(lattice.value(np.array([n]))[0]) for n in (lattice.low, lattice.high)
    )
    if form:
        low, high = (
            None if end is None else float(as_written(np.array([end]), form)[0]) for end in (low, high)
        )
    piled = list(lattice.piled)
    # Beside an atom at an end the others may come as near to it as they can.
    if atoms and atoms[0] == values.min() and low != (near := _beside(lattice, atoms[0], 1)):
        low, piled[0] = near, False
    if atoms and atoms[-1] == values.max() and high != (near := _beside(lattice, atoms[-1], -1)):
        high, piled[1] = near, False
    for side, key in enumerate(("low", "high")):
        if key in said:
            piled[side] = said[key] is not None
    found = {
        "atoms": tuple(atoms), "step": lattice.step, "offset": lattice.offset, "decimals": lattice.decimals,
        "written": form,
        "low": low, "high": high, "piled": tuple(piled),
    }  # fmt: skip
    return {**found, **said}


def _with_gaps(levels: np.ndarray, lattice: Lattice) -> tuple[float, ...]:
    """The values, and those of the lattice between them where all together are few: they may come yet."""
    first, last = lattice.number(levels[[0, -1]])
    if last - first < MAX_LEVELS_NUMERIC:
        levels = lattice.value(np.arange(first, last + 1))
    return tuple(levels.tolist())


def trusted_lattice(values: np.ndarray, evidence: bool = True) -> Lattice | None:
    """The lattice of values (see `find_lattice`), if it gives these values back as they are written."""
    found = find_lattice(values, evidence)
    if found is None or found.decimals is not None or _written(values, found) is not None:
        return found
    digits = short_decimals(values)
    return None if digits is None else lattice_of_step(values, 10.0**-digits)


def _written(values: np.ndarray, lattice: Lattice) -> str | None:
    """How values are written that are multiples of no decimal (thirds): to so many decimals or digits; "" for
    all digits, None where the lattice does not give them back."""
    levels = np.unique(values)
    exact = lattice.value(lattice.number(levels))
    forms = [f".{d}f" for d in range(1, 13)] + [f".{d}g" for d in range(3, 16)]
    for form in forms:
        if np.array_equal(as_written(exact, form), levels):
            return form
    # Up to rounding in the precision that the values have.
    eps = np.finfo(np.float32 if are_single(levels) else np.float64).eps
    return "" if np.abs(exact - levels).max() <= 8 * eps * np.abs(levels).max() else None


def _beside(lattice: Lattice, value: float, side: int) -> float:
    """The value of a lattice next to one that need not lie on it, above (1) or below (-1)."""
    steps = (value - lattice.offset) / lattice.step
    away = math.floor(side * steps + 1e-6) + 1
    return float(lattice.value(np.array([side * away]))[0])


def _lattice_of(values: np.ndarray, step: float | None, whole: bool) -> Lattice | None:
    if step is not None:
        return lattice_of_step(values, float(step))
    found = trusted_lattice(values, evidence=False)
    if found is None and whole:  # one value, or beyond the digits of a double
        return lattice_of_step(values, 1.0) if len(np.unique(values)) > 1 else Lattice()
    return found


def _integer(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    return _steps(cells, name, said, as_levels, whole=True)


def _lattice(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    return _steps(cells, name, said, as_levels, whole=False)


def _datetime(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    wanted = said.get("form")
    if wanted is not None:
        check_form(wanted, name)
    found = cells.times(wanted)
    if found is None:
        Datetime(name=name, step=1.0, form=wanted).encode(cells)  # says what is wrong
        raise DataError(f"column '{name}' is missing in every row; say 'constant' or 'drop'")
    form, seconds = found
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        raise DataError(f"column '{name}' is missing in every row; say 'constant' or 'drop'")
    levels, counts = np.unique(known, return_counts=True)
    found_step = time_step(levels, said.get("step"), name)
    monthly = found_step.get("months", False)
    if as_levels is None:
        as_levels = len(levels) > 1 and few_valued(levels, counts) and not (monthly and "step" in said)
    if as_levels and monthly:
        found_step = time_step(levels, None, name, calendar=False)
    options: Options = {**found_step, **({"form": form} if form else {})}
    if as_levels:
        options["levels"] = tuple(levels.tolist())
    return {**options, **{key: v for key, v in said.items() if key != "step"}}


def _categorical(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    levels = said.get("levels", level_values(cells))
    if len(levels) > MAX_LEVELS:
        raise DataError(
            f"column '{name}' has {len(levels)} levels, more than {MAX_LEVELS}: too many to learn a "
            "probability of each; say 'drop', or merge rare ones before"
        )
    if not len(levels):
        raise DataError(f"column '{name}' is missing in every row; say 'constant' or 'drop'")
    return {"levels": levels, **said}


def _ordinal(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    levels = level_values(cells)
    sorts = all(isinstance(v, (int, float)) for v in levels) or (cells.ordered and cells.levels is not None)
    if "levels" not in said and not sorts:
        few = ", ".join(map(str, levels[:4]))
        raise ConfigError(
            f"column '{name}': an ordinal column needs its levels in order: ordinal(low < mid < high); it "
            f"has {few}"
        )
    return _categorical(cells, name, said, as_levels)


def _boolean(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    return dict(said)


def _constant(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    known = np.flatnonzero(~absent_in(cells))
    value = cells.value(int(known[0])) if len(known) else None
    if cells.text is not None and cells.spells_numbers and len(known):
        number = float(cells.numbers[known[0]])
        if abs(number) >= EXACT:
            return {"value": value, **said}
        value = int(number) if number.is_integer() else number
    return {"value": value, **said}


def _aside(cells: Cells, name: str, said: Options, as_levels: bool | None) -> Options:
    return dict(said)


_LEARN: dict[str, Callable[[Cells, str, Options, bool | None], Options]] = {
    Real.kind: _real,
    Positive.kind: _positive,
    Bounded.kind: _bounded,
    Circular.kind: _circular,
    Integer.kind: _integer,
    Steps.kind: _lattice,
    Datetime.kind: _datetime,
    Categorical.kind: _categorical,
    Ordinal.kind: _ordinal,
    Boolean.kind: _boolean,
    Constant.kind: _constant,
    Identifier.kind: _aside,
    Drop.kind: _aside,
}
