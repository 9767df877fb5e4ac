"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

from modeflow.cli.main import main

__all__ = ["main"]
