"""`modeflow serve`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._serving import listen, served_run


def run(args: argparse.Namespace) -> int:
    """Answer requests about rows by the model of a run."""
    return listen(args, served_run(args, "serve"), args.host, args.token_file)
