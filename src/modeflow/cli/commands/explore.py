"""`modeflow explore`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._serving import listen, served_run

#: Rows drawn for what surprises are expected: a first row is then explained in seconds under every flow.
_USUAL = 50


def run(args: argparse.Namespace) -> int:
    """Show a page on which the model of a run is played with, to this machine alone."""
    served = served_run(args, "explore", ("dash", "fastapi", "uvicorn"), usual=_USUAL)
    from modeflow.exploring.page import page_of
    from modeflow.exploring.views import Explored

    return listen(args, served, "127.0.0.1", more=page_of(Explored(served)))
