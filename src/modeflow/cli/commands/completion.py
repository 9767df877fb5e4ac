"""`modeflow completion`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._output import emit
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Print what a shell has to read so that the tab key completes commands, options and files."""
    try:
        import argcomplete
    except ImportError as error:
        raise ConfigError("completion needs argcomplete: pip install 'modeflow[completion]'") from error
    code = argcomplete.shellcode(["modeflow"], shell=args.shell)
    emit(args, {"shell": args.shell, "code": code}, [code])
    return 0
