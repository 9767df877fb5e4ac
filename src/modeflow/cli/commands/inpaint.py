"""`modeflow inpaint`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._filling import check_picture, write_filled
from modeflow.cli.commands._output import emit, say_notes, say_wrote
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Hide pixels of images, and fill them by a run that leaves hidden pixels out."""
    from modeflow.data import pixels_without

    target = check_picture(args.out, args.data)
    fitted = open_run(args)
    estimator, domain = fitted.estimator, fitted.estimator.domain_
    if domain.of_tables:
        raise ConfigError(
            f"'{args.run_folder}' is a run of a table: `modeflow impute` fills missing cells of rows"
        )
    if args.rows is not None and args.rows < 1:
        raise ConfigError(f"--rows must be 1 or more, received {args.rows}")
    loaded = domain.read(args.data, fitted.config.settings)
    say_notes(args, loaded.notes)
    images = domain.validate(estimator, loaded.values)[: args.rows]
    seed = fitted.config["seed"] if args.seed is None else args.seed
    hidden = pixels_without(images.shape, args.hide, args.mask, seed)
    how = "draw" if args.draw else "mean"
    filled = estimator.inpaint(images, hidden, how=how, random_state=seed)
    result, lines = write_filled(target, images, hidden, filled, domain.levels)
    say_wrote(args, f"{len(images)} images, as a picture and as {result['array']}")
    emit(args, {"run": args.run_folder, "data": args.data, "seed": seed, "how": how, **result}, lines)
    return 0
