"""`modeflow sample`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.cli.commands._files import open_run, part_seed
from modeflow.cli.commands._output import check_output, emit, listed, say, say_wrote
from modeflow.errors import ConfigError

if TYPE_CHECKING:
    from modeflow.estimators.conditionals import Conditionals

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
    conditional = _Conditional.of(args, estimator)
    if conditional is not None:
        result |= {"given": args.given, "kind": conditional.kind}
    listing = args.out is None and args.json
    in_parts = domain.of_tables and n > _AT_ONCE and not listing
    tells = conditional is None and estimator.latent_.describe().kind in ("discrete", "none")
    counts = np.zeros(estimator.n_states_ if tells else 0, dtype=np.int64)

    def draw(count: int, own: int) -> tuple[Any, Any]:
        if conditional is not None:
            return conditional.draw(count, own), None
        drawn, z = estimator.sample(count, state=args.state, random_state=own, **temperatures)
        if tells:
            counts[:] += np.bincount(z, minlength=len(counts))
        return drawn, z if args.with_state else None

    def parts() -> Iterator[tuple[Any, Any]]:
        from modeflow.progress import track

        for start in track(range(0, n, _AT_ONCE), "sample"):
            yield draw(min(_AT_ONCE, n - start), part_seed(args, seed, _Drawn(start)))

    if in_parts:
        words, where = domain.write_parts(args.out or "-", parts())
    else:
        samples, states = draw(n, seed)
        if listing:
            words, where = "", domain.listed(samples, states)
        else:
            words, where = domain.write(args.out or "-", samples, states)
    if tells:
        result["states"] = counts.tolist()
    if listing:
        emit(args, {**result, **where}, [])
        return 0
    remark = "drawn from an estimate of the conditional"
    estimated = conditional is not None and conditional.kind != "exact"
    if args.out and args.out != "-":
        say_wrote(args, words)
        emit(args, {**result, **where}, [remark] if estimated else [])
    elif estimated:
        say(args, remark)
    return 0


@dataclass(frozen=True)
class _Drawn:
    """A part of what is drawn: rows before it."""

    first: int
    whole: bool = False


@dataclass(frozen=True)
class _Conditional:
    """Rows that have the cells given on the command line.

    Attributes:
        drawing: what draws them. cells: by column.
        kind: of what they are drawn from: the conditional, or an estimate of it.
    """

    drawing: Conditionals
    cells: dict[str, Any]
    kind: str

    @classmethod
    def of(cls, args: argparse.Namespace, estimator: Any) -> _Conditional | None:
        """What ``--given`` asks for; None without it.

        Raises:
            ConfigError: for cells that cannot be, and for what a conditional does not take.
        """
        from modeflow.estimators import conditionals_of

        if not args.given:
            return None
        drawing = conditionals_of(estimator)
        if args.state is not None or args.with_state or args.temperature != 1 or args.prior_temperature != 1:
            raise ConfigError("--given draws from a conditional: it takes no state and no temperature")
        cells = _cells(args, estimator.domain_.names)
        kind = str(drawing.conditional_kind_of(estimator.domain_.given(cells)))
        return cls(drawing, cells, kind)

    def draw(self, n: int, seed: int) -> Any:
        """So many rows."""
        return self.drawing.sample_given(self.cells, n, random_state=seed)


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
