"""`modeflow recover`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands import fit, impute
from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._filling import check_picture, hidden_of, write_filled
from modeflow.cli.commands._output import emit, say_notes, say_wrote
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
    return _images(whole, config)


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


def _images(args: argparse.Namespace, config: Any) -> int:
    folder = Path(args.out).expanduser()
    if folder.suffix or folder.is_file():
        raise ConfigError(f"-o names a folder, received '{args.out}'")
    if (folder / "model.safetensors").exists():
        raise ConfigError(f"'{folder}' already holds a model: give another folder")
    data = config.domain.load(config.settings)
    say_notes(args, data.notes)
    hidden = hidden_of(args, data.images, config["seed"])
    folder.mkdir(parents=True, exist_ok=True)
    target = check_picture(str(folder / "recovered.png"))
    estimator = config.estimator(verbose=not (args.quiet or args.json))
    config.domain.prepare(estimator, data)
    holed = np.where(hidden, np.float32(np.nan), data.images.astype(np.float32))
    estimator.fit(holed)  # of the pixels that are hidden it knows nothing, in stopping either
    estimator.save(folder / "model.safetensors")
    how = "draw" if args.draw else "mean"
    filled = estimator.inpaint(holed, how=how, random_state=config["seed"])
    result, lines = write_filled(target, data.images, hidden, filled, data.levels)
    say_wrote(args, f"the model, and {len(filled)} images as a picture and as {result['array']}")
    emit(
        args, {"folder": str(folder), "data": args.data, "seed": config["seed"], "how": how, **result}, lines
    )
    return 0
