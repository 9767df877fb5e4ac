"""`modeflow explore`."""

from __future__ import annotations

import argparse
import os
import sys

from modeflow.cli.commands._serving import listen, served_run

#: Rows drawn for what surprises are expected: a first row is then explained in seconds under every flow.
_USUAL = 50


def run(args: argparse.Namespace) -> int:
    """Show a page on which the model of a run is played with, to this machine alone."""
    _one_thread_of_polars()
    served = served_run(args, "explore", ("dash", "fastapi", "uvicorn"), usual=_USUAL)
    from modeflow.exploring.page import page_of
    from modeflow.exploring.views import Explored

    return listen(args, served, "127.0.0.1", more=page_of(Explored(served)))


def _one_thread_of_polars() -> None:
    """Begin polars with one thread, unless it is in use already or was told how many it may take.

    Frames of a page are small: handing their columns to other threads takes longer than what is done there,
    most of all beside other work.
    """
    name = "POLARS_MAX_THREADS"
    if "polars" in sys.modules or name in os.environ:
        return
    os.environ[name] = "1"
    try:
        import polars

        polars.thread_pool_size()  # begins them
    finally:
        del os.environ[name]
