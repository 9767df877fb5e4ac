"""`modeflow fit`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeflow.cli.commands._files import kept_input
from modeflow.cli.commands._many import EXIT_SOME
from modeflow.cli.commands._output import emit, listed, say, say_notes, warn
from modeflow.errors import ConfigError

EXIT_INTERRUPTED = 130


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings in rising priority: --config, --set, the options of their own."""
    from modeflow.runs.config import parse_assignment, read_config

    given: dict[str, Any] = read_config(args.config) if args.config else {}
    for text in args.assignments:
        key, value = parse_assignment(text)
        given[key] = value
    own = {
        "data": args.data,
        "model": args.model,
        "columns": args.columns and listed(args.columns),
        "schema": args.schema,
        "rows": args.rows,
        "stream": args.stream,
        "array": args.array,
        "header": args.header,
        "drop_missing": args.drop_missing or None,
        "skip_text": args.skip_text or None,
        "detector": False if args.no_detector else None,
        "test": _share(args.test),
        "validation": _share(args.validation),
        "seed": args.seed,
        "device": args.device,
        "training.devices": args.devices,
    }
    return {**given, **{k: v for k, v in own.items() if v is not None}}


def _share(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def run(args: argparse.Namespace) -> int:
    """Fit, write the run folder, print what was measured on the test rows."""
    import contextlib
    import io
    import shutil
    import tempfile

    from modeflow.training.joined import group

    member = group()
    if member is None or member.rank == 0:
        return _run(args)
    # One of torchrun's others: it does the same, and nobody sees it.
    with (
        tempfile.TemporaryDirectory(prefix="modeflow-") as scratch,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        folder = Path(scratch) / "run"
        if args.resume and Path(args.out).is_dir():
            shutil.copytree(args.out, folder)
        args.out, args.quiet = str(folder), True
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from modeflow.data import read_once

    def announce(note: str) -> None:
        say_notes(args, [note])

    folder = Path(args.out)
    with read_once(), kept_input(settings(args), folder, announce) as given:
        return fit_into(args, folder, given, announce)


def fit_into(
    args: argparse.Namespace,
    folder: Path,
    given: dict[str, Any],
    announce: Callable[[str], None],
    begun: Callable[[], None] | None = None,
    more: Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]] | None = None,
) -> int:
    """Fit, or go on where ``args.resume``, and print what was measured; the exit status.

    Arguments:
        folder: of the run. given: its settings; of one that goes on those that may not differ.
        announce: called with each guess about files. begun: called when the settings are known to be right.
        more: from the result to more of it, and lines.
    """
    from modeflow.runs import RunConfig, fit_run
    from modeflow.runs.folder import config_of
    from modeflow.training import signals_held

    stored = folder / "config.yaml"
    if args.resume and not stored.exists() and "data" not in given:
        raise ConfigError(f"there is no run at '{folder}' to go on with: give DATA to begin one")
    if args.resume and stored.exists():
        config = config_of(folder)
        changed = [k for k, v in given.items() if k not in ("device",) and _differs(config.settings, k, v)]
        if changed:
            raise ConfigError(
                f"--resume repeats the settings of '{folder}'; '{changed[0]}' differs: leave it out, or "
                "start a new run folder"
            )
    else:
        config = RunConfig.build(given)
    if begun is not None:
        folder.mkdir(parents=True, exist_ok=True)
        begun()
    with signals_held(deliver=False) as held:  # told below, in words and by the exit status
        fitted = fit_run(config, folder, resume=args.resume, quiet=args.quiet or args.json, announce=announce)
    result = {"run": str(folder), **fitted.result}
    added, lines = ({}, []) if more is None else more(fitted.result)
    emit(args, {**result, **added}, [*summary(fitted.result), *lines])
    if held.signum is not None:
        say(
            args,
            f"interrupted: the best model so far is in {folder}; "
            f"go on with `modeflow fit -o {folder} --resume`",
        )
        return EXIT_INTERRUPTED
    failed = fitted.result.get("files_failed") or {}
    for file, why in failed.items():
        warn(f"skipped '{file}': {why}")
    say(args, f"wrote {folder}; next: modeflow report {folder}")
    return EXIT_SOME if failed else 0


def _differs(settings: Any, key: str, value: Any) -> bool:
    base, _, option = key.partition(".")
    have = settings.get(base)
    if option:
        have = (have or {}).get(option)
    return bool(have != value)


def summary(result: dict[str, Any]) -> list[str]:
    """What a person wants to know of a fit."""
    from modeflow.domains import DOMAINS
    from modeflow.estimators.stacking import Stacked
    from modeflow.runs import solver_note

    domain = DOMAINS[result["domain"]]
    parts, latent = result[domain.measure], result["latent"]
    lines = [f"data          {result['data']}: {domain.size_text(result)}"]
    if flows := _tried(result, "flow"):
        chosen = [c["flow"] for c in result["selection"] if c["chosen"]]
        lines.append(f"flow          {', '.join(chosen)}{flows}")
    lines.append(f"latent        {latent['words']}{_tried(result, 'n_states')}{_used(result)}")
    if stacked := result.get("stacking"):
        lines.append(f"beside it     {Stacked(**stacked).words}")
    if (second := result["training"].get("second")) and not second["kept"]:
        lines.append(
            f"second fit    {second['words']}: left out, as validation rows are not clearly likelier for it"
        )
    lines += [f"{name:13} {domain.likelihood(parts[name])}" for name in ("test", "validation")]
    bounds = result.get("bounds")
    if bounds:
        elbo = domain.likelihood(bounds["elbo"])
        lines.append(f"test, ELBO    {elbo}; IWAE above: {bounds['draws']} draws")
    if result.get("solver"):
        lines.append(f"estimate      {solver_note(result['solver'])}")
    lines += [f"{row['name']}: {row['value']:.3f}" for row in result.get("measures", [])]
    return [*lines, *domain.measure_lines(result), time_line(result)]


def _used(result: dict[str, Any]) -> str:
    """How many codes, or dimensions of z, are in use."""
    codes, z = result.get("codes"), result.get("continuous")
    if z:
        active = f"{z['active']} of {z['dimensions']} in use, " if "active" in z else ""
        gaps = z.get("gaps")
        lost = ""
        if gaps:
            lost = f", gaps {gaps['approximation']['value']:.2f} (family) and "
            lost += f"{gaps['amortisation']['value']:.2f} (encoder)"
        known = "mutual_information" in z
        information = f", mutual information {z['mutual_information']:.2f} nats" if known else ""
        return f": {active}KL {z['kl']:.2f} nats{information}{lost}"
    return f": {codes['used']} in use (perplexity {codes['perplexity']:.1f})" if codes else ""


def time_line(result: dict[str, Any]) -> str:
    """How long the fit took, and the training in it."""
    training = result["training"].get("seconds")
    share = "" if training is None else f", of which training {training:.1f} s"
    if training is not None and training > result["seconds"]:  # a resumed fit counts its earlier parts
        share = f"; training {training:.1f} s in all, with what came before it was resumed"
    return f"time          {result['seconds']:.1f} s{share}"


def _tried(result: dict[str, Any], what: str) -> str:
    """What the choice was compared with, and by how much that was worse; empty where there was nothing.

    Flows each with the number of states it began with, and numbers of states of the flow chosen. Only
    trainings of one length compare: of flows the longest, of states the one that all had.
    """
    trials = result["selection"]
    best = next((c for c in trials if c["chosen"]), None)
    groups: dict[int, dict[Any, dict[str, Any]]] = {}
    for c in trials:
        if what == "flow" or (best is not None and c["flow"] == best["flow"]):
            groups.setdefault(c.get("length", 1), {}).setdefault(c[what], c)
    chosen = None if best is None else best[what]
    compared = [group for _, group in sorted(groups.items()) if len(group) > 1 and chosen in group]
    if not compared:
        return ""
    shown = compared[0] if what == "n_states" else compared[-1]
    tried = ", ".join(
        f"{name}: {c['difference']:+.3f} ± {c['difference_error']:.3f}"
        for name, c in shown.items()
        if name != chosen
    )
    return f" (chosen; nats a row of others beside it: {tried})".replace(": -", ": −")
