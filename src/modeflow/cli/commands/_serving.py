"""What `serve` needs: the extra, the run, the address."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._output import say
from modeflow.errors import ConfigError

__all__ = ["listen", "served_run"]


def served_run(args: argparse.Namespace, extra: str, needs: Sequence[str], **options: Any) -> Any:
    """The run, loaded for serving within the limits asked for (`Served`).

    Arguments:
        extra: that the command needs. needs: what is in it. options: of `Served`.

    Raises:
        ConfigError: without the extra.
    """
    lacking = [name for name in needs if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(f"this command needs {' and '.join(lacking)}: pip install 'modeflow[{extra}]'")
    from modeflow.serving.model import Limits, Served

    limits = Limits(rows=args.max_rows, megabytes=args.max_megabytes)
    return Served(open_run(args), limits, **options)


def listen(
    args: argparse.Namespace,
    served: Any,
    host: str,
    token: str | None = None,
    made: bool = False,
    more: Callable[..., str | None] | None = None,
) -> int:
    """Answer requests until Ctrl-C, having said where; and the token, where it was made now."""
    from modeflow.serving.launch import Address, wait_on

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
