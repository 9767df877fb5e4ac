"""What `serve` needs: the extra, the run, the address."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from typing import Any

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._output import say
from modeflow.errors import ConfigError

__all__ = ["listen", "served_run"]


def served_run(args: argparse.Namespace, extra: str) -> Any:
    """The run, loaded for serving within the limits asked for (`Served`).

    Raises:
        ConfigError: without the extra that the command needs.
    """
    lacking = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(f"this command needs {' and '.join(lacking)}: pip install 'modeflow[{extra}]'")
    from modeflow.serving.model import Limits, Served

    limits = Limits(rows=args.max_rows, megabytes=args.max_megabytes)
    return Served(open_run(args), limits)


def listen(
    args: argparse.Namespace,
    served: Any,
    host: str,
    token_file: str | None = None,
    more: Callable[..., None] | None = None,
) -> int:
    """Answer requests until Ctrl-C, having said where."""
    from modeflow.serving.launch import Address, token_for, wait_on

    token, made = token_for(host, token_file)
    address = Address(host, args.port)
    if args.json:
        told = {"run": args.run_folder, "url": address.url, "token": token if made else None}
        print(json.dumps(told), flush=True)
    else:
        print(address.url, flush=True)
        if made:
            print(f"token: {token}", flush=True)
    say(args, f"{served.run.path} is served; Ctrl-C ends it")
    try:
        wait_on(address, served, token, more)
    except KeyboardInterrupt:
        say(args, "ended")
    return 0
