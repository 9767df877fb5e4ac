"""`modeflow sample`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, part_seed
from modeflow.cli.commands._output import check_output, emit, listed, say_wrote
from modeflow.errors import ConfigError

#: Rows drawn at once; what is drawn, for more, is another thing than of one draw.
_AT_ONCE = 65_536


def run(args: argparse.Namespace) -> int:
    """Draw rows; write them, or print them."""
    if args.n is not None and args.n < 1:
        raise ConfigError(f"-n must be 1 or more, received {args.n}")
    check_output(args)
    fitted = open_run(args)
    estimator, domain = fitted.estimator, fitted.estimator.domain_
    domain.check_target(args.out, args.with_state)
    n = domain.drawn if args.n is None else args.n
    seed = fitted.config["seed"] if args.seed is None else args.seed
    temperatures = {"temperature": args.temperature, "prior_temperature": args.prior_temperature}
    result = {"run": args.run_folder, "n": n, "seed": seed, **temperatures}
    if domain.of_tables and n > _AT_ONCE and not (args.out is None and args.json):
        return _in_parts(args, estimator, n, seed, result, temperatures)
    if args.given:
        drawn, z = _given(args, estimator, n, seed), np.zeros(0)
        result |= {"given": args.given, "kind": _kind(args, estimator)}
    else:
        drawn, z = estimator.sample(n, state=args.state, random_state=seed, **temperatures)
    states = z if args.with_state else None
    if not args.given and estimator.latent_.describe().kind in ("discrete", "none"):
        result["states"] = np.bincount(z, minlength=estimator.n_states_).tolist()
    if args.out is None and args.json:
        emit(args, {**result, **domain.listed(drawn, states)}, [])
        return 0
    words, where = domain.write(args.out or "-", drawn, states)
    if args.out and args.out != "-":
        say_wrote(args, words)
        estimated = result.get("kind", "exact") != "exact"
        emit(args, {**result, **where}, ["drawn from an estimate of the conditional"] if estimated else [])
    return 0


def _in_parts(
    args: argparse.Namespace,
    estimator: Any,
    n: int,
    seed: int,
    result: dict[str, Any],
    temperatures: dict[str, float],
) -> int:
    """Many rows, so many at a time, each part by a seed of its own."""
    from modeflow.progress import track

    counts = np.zeros(estimator.n_states_, dtype=np.int64)
    tells = not args.given and estimator.latent_.describe().kind in ("discrete", "none")
    if args.given:
        result |= {"given": args.given, "kind": _kind(args, estimator)}

    def parts() -> Iterator[tuple[Any, Any]]:
        for start in track(range(0, n, _AT_ONCE), "sample"):
            own, count = part_seed(args, seed, _Drawn(start)), min(_AT_ONCE, n - start)
            if args.given:
                yield _given(args, estimator, count, own), None
                continue
            drawn, z = estimator.sample(count, state=args.state, random_state=own, **temperatures)
            if tells:
                counts[:] += np.bincount(z, minlength=len(counts))
            yield drawn, z if args.with_state else None

    words, where = estimator.domain_.write_parts(args.out or "-", parts())
    if tells:
        result["states"] = counts.tolist()
    if args.out and args.out != "-":
        say_wrote(args, words)
        emit(args, {**result, **where}, [])
    return 0


@dataclass(frozen=True)
class _Drawn:
    """A part of what is drawn: rows before it."""

    first: int
    whole: bool = False


def _given(args: argparse.Namespace, estimator: Any, n: int, seed: int) -> Any:
    """Rows that have the cells given on the command line."""
    from modeflow.estimators import conditionals_of

    drawing = conditionals_of(estimator)
    if args.state is not None or args.with_state or args.temperature != 1 or args.prior_temperature != 1:
        raise ConfigError("--given draws from a conditional: it takes no state and no temperature")
    return drawing.sample_given(_cells(args, estimator.domain_.names), n, random_state=seed)


def _kind(args: argparse.Namespace, estimator: Any) -> str:
    """What rows that have these cells are drawn from: the conditional, or an estimate of it."""
    return str(estimator.conditional_kind_of(estimator.domain_.given(_cells(args, estimator.domain_.names))))


def _cells(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The cells given on the command line, by column: of text with commas in quotes, as in a csv."""
    cells: dict[str, Any] = {}
    for part in listed(args.given):
        known = [name for name in names if part.startswith(name) and part[len(name) :].lstrip()[:1] == "="]
        at = part.find("=", max(map(len, known), default=0))  # a name may hold the sign
        if at < 0:
            raise ConfigError(
                f"--given needs column=value, received '{part}' (with a comma in it: in quotes, \"a, b=1\")"
            )
        name, value = part[:at].strip(), part[at + 1 :].strip()
        if name in cells:
            raise ConfigError(f"--given names column '{name}' twice")
        cells[name] = value
    return cells
