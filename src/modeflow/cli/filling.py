"""Options of the commands that fill what is missing: `impute`, `inpaint`, `recover`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["add_filling"]


def add_filling(
    add: Callable[[str, str, str], Any],
    files: Callable[[argparse.ArgumentParser], None],
    many: Callable[[argparse.ArgumentParser], None],
    seed_and_device: Callable[..., None],
) -> None:
    """Add them, with what they share with others."""
    impute = add("impute", "fill missing cells of a table", "modeflow impute run data.csv -o filled.csv -m 5")
    impute.add_argument("run_folder", metavar="RUN")
    impute.add_argument("data", metavar="DATA")
    impute.add_argument("-o", "--out", metavar="FILE", help="write the rows (.csv, .parquet; - for stdout)")
    impute.add_argument("-m", type=int, default=1, metavar="M", help="so many tables, numbered in a column")
    impute.add_argument(
        "--unseen", choices=("error", "missing"), default="error",
        help="a cell that its column cannot have is an error (default), or filled as if it were missing",
    )  # fmt: skip
    impute.add_argument("--mean", action="store_true", help="means and likeliest levels, in place of draws")
    files(impute)
    many(impute)
    impute.add_argument("--columns", metavar="A,B,...", help="read only these columns of DATA")
    seed_and_device(impute, "that of the fit")

    def hiding(sub: argparse.ArgumentParser) -> None:
        which = sub.add_mutually_exclusive_group()
        which.add_argument(
            "--hide", metavar="WHERE", help="left, right, top, bottom, centre, or random:0.5 (each by itself)"
        )
        which.add_argument(
            "--mask", metavar="FILE",
            help=".npy, not zero where pixels are hidden: (height, width), or of every image its own",
        )  # fmt: skip
        sub.add_argument("--draw", action="store_true", help="by one chain, in place of the mean of 16")

    inpaint = add(
        "inpaint",
        "fill hidden pixels of images, by a run of --model latent-flow",
        "modeflow fit images/digits -o run --model latent-flow\n"
        "  modeflow inpaint run images/digits --hide left -o filled.png\n\n"
        "Writes filled.npy, and filled.png: given, filled and true. Tables: modeflow impute.",
    )
    inpaint.add_argument("run_folder", metavar="RUN")
    inpaint.add_argument("data", metavar="DATA")
    inpaint.add_argument(
        "-o", "--out", metavar="FILE", required=True, help="the .png; the .npy lies beside it"
    )
    hiding(inpaint)
    inpaint.add_argument("--rows", type=int, metavar="N", help="only the first N images")
    seed_and_device(inpaint, "that of the fit")

    recover = add(
        "recover",
        "learn from rows or images with holes alone, and fill these",
        "modeflow recover table.csv -o run            a run, and run/recovered.csv\n"
        "  modeflow recover images/digits --hide random:0.5 -o run\n\n"
        "Of a table it is `modeflow fit --model latent-flow` and `modeflow impute` of the same rows;\n"
        "of images `modeflow fit --model latent-flow --set hide=random:0.5` and these filled:\n"
        "run/recovered.npy, and run/recovered.png: given, filled and true.",
    )
    recover.add_argument("data", metavar="DATA")
    recover.add_argument("-o", "--out", metavar="FOLDER", required=True, help="what is written")
    hiding(recover)
    recover.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="one setting of the fit, such as max_epochs=50; may be repeated",
    )  # fmt: skip
    recover.add_argument("--rows", type=int, metavar="N", help="use N random rows or images")
    recover.add_argument("--columns", metavar="A,B,...", help="use only these columns")
    recover.add_argument("--schema", metavar="FILE", help="what each column is, as of `modeflow fit`")
    files(recover)
    seed_and_device(recover)
