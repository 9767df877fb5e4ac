"""Arguments of the command line, and what is wrong with them in one line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, NoReturn

from modeflow.errors import nearest

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Errors in the form of all others: one line that names what is wrong and suggests what was meant."""

    #: What is added to the help, if it is asked for.
    more_help: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (f"\n{self.more_help()}" if self.more_help else "")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, more = self.parse_known_args(args, namespace)
        if more and all(os.path.exists(each) for each in more):
            self.error("several files are one DATA: their folder, or a pattern in quotes ('folder/*.csv')")
        if more:
            self.error(f"unrecognized arguments: {' '.join(more)}")
        return found

    def error(self, message: str) -> NoReturn:
        message = message.splitlines()[0]
        if "invalid choice" in message and "'" in message:
            wrong = message.split("'")[1]
            commands = [c for a in self._actions if isinstance(a.choices, dict) for c in a.choices]
            if commands:
                message = f"there is no command '{wrong}'{nearest(wrong, commands)} ({', '.join(commands)})"
        self.exit(2, f"modeflow: error: {message} (see `{self.prog} --help`)\n")
