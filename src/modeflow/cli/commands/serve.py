"""`modeflow serve`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._serving import listen, served_run


def run(args: argparse.Namespace) -> int:
    """Answer requests about rows by the model of a run."""
    served = served_run(args, "serve", ("fastapi", "uvicorn"))
    from modeflow.serving.launch import token_for

    return listen(args, served, args.host, *token_for(args.host, args.token_file))
