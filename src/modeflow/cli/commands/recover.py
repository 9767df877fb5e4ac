"""`modeflow recover`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands import fit, impute
from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._filling import write_filled
from modeflow.cli.commands._output import say_notes, say_wrote
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Fit rows or images with holes by a latent-space flow, and fill these same."""
    from modeflow.cli.parser import usual
    from modeflow.runs import RunConfig

    if args.data == "-":
        raise ConfigError("rows are fitted and then filled: DATA must be a file, not -")
    # Options of `fit` and `impute` that are not offered here.
    others = {
        **usual("impute", args.out, args.data),
        **usual("fit", args.data, "-o", args.out),
        "model": "latent-flow",
    }
    whole = argparse.Namespace(**{**others, **vars(args)})
    given = fit.settings(whole)
    config = RunConfig.build(given)
    if config.domain.of_tables:
        return _table(whole, given)
    return _images(whole, given)


def _table(args: argparse.Namespace, given: dict[str, Any]) -> int:
    if args.hide or args.mask:
        raise ConfigError("--hide and --mask are of images: the holes of a table are its missing cells")
    folder = Path(args.out)
    target = folder / "recovered.csv"

    def filled(_: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        own = argparse.Namespace(
            **{**vars(args), "run_folder": args.out, "out": str(target), "mean": not args.draw}
        )
        outcome = impute.handle(own, open_run(own))
        return {"recovered": dict(outcome.result)}, list(outcome.lines)

    return fit.fit_into(args, folder, given, lambda note: say_notes(args, [note]), more=filled)


def _images(args: argparse.Namespace, given: dict[str, Any]) -> int:
    given = {**given, **{name: value for name in ("hide", "mask") if (value := getattr(args, name))}}
    if given.get("hide") is None and given.get("mask") is None:
        raise ConfigError("say which pixels are hidden: --hide left (or random:0.5), or --mask FILE.npy")
    folder = Path(args.out).expanduser()
    if folder.suffix:
        raise ConfigError(f"-o names a folder, received '{args.out}'")
    target, how = folder / "recovered.png", "draw" if args.draw else "mean"

    def filled(_: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        fitted = open_run(argparse.Namespace(**{**vars(args), "run_folder": args.out}))
        settings, domain = fitted.config.settings, fitted.estimator.domain_
        data = domain.load(settings)
        hidden = domain.hidden(data, settings).images != 0
        holed = np.where(hidden, np.float32(np.nan), data.images.astype(np.float32))
        images = fitted.estimator.inpaint(holed, how=how, random_state=settings["seed"])
        result, lines = write_filled(target, data.images, hidden, images, data.levels)
        say_wrote(args, f"{len(images)} images as a picture and as {result['array']}")
        return {"recovered": {"how": how, **result}}, lines

    return fit.fit_into(args, folder, given, lambda note: say_notes(args, [note]), more=filled)
