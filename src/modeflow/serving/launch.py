"""A server on an address: loopback, or another one with a token."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from modeflow.errors import ConfigError
from modeflow.serving.app import build_app
from modeflow.serving.guard import LOOPBACK
from modeflow.serving.model import Served

__all__ = ["TOKEN", "Address", "token_for", "wait_on"]

#: Environment variable that holds a token: a command line is seen by all users of a machine.
TOKEN = "MODEFLOW_TOKEN"
#: Fewest characters of a token.
_SHORTEST = 16


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def token_for(host: str, file: str | None) -> tuple[str | None, bool]:
    """The token that requests must send, and whether it was made now.

    Arguments:
        host: address to be bound; another one than loopback always has a token. file: that holds it, or
            else the environment's `TOKEN`.

    Raises:
        ConfigError: one that is too short.
    """
    token, where = os.environ.get(TOKEN), TOKEN
    if file is not None:
        token, where = Path(file).expanduser().read_text(encoding="utf-8").strip(), f"'{file}'"
    if token is None or (not token and file is None):
        return (None, False) if is_loopback(host) else (secrets.token_urlsafe(24), True)
    if len(token) < _SHORTEST or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(f"the token in {where} must be {_SHORTEST} or more characters without blanks")
    return token, False


class Address:
    """An address that is listened on.

    Arguments:
        host: a name or number of this machine. port: 0 for any that is free.

    Raises:
        ConfigError: one that is taken, not allowed, or not of this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"--port must lie between 0 and 65535, received {port}")
        self.host = host.strip("[]")
        try:
            family, kind, _, _, where = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, kind)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(where)
            self.socket.listen(128)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"cannot listen on {host}, port {port} ({reason}): give another --port (0: any free one)"
            ) from error

    @property
    def url(self) -> str:
        """Where the server is found."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.socket.getsockname()[1]}"


def wait_on(
    address: Address,
    served: Served,
    token: str | None = None,
    more: Callable[..., str | None] | None = None,
    log: str = "warning",
) -> None:
    """Answer requests until the process is interrupted.

    Arguments:
        address: see `Address`. served: the model. token: that requests must send. more: adds routes, see
            `build_app`. log: level of uvicorn's log.
    """
    hosts = dict.fromkeys((*LOOPBACK, address.host)) if is_loopback(address.host) else None
    app = build_app(served, token=token, hosts=hosts, more=more)
    config = uvicorn.Config(
        app, log_level=log, access_log=log == "info", ws="none", server_header=False, lifespan="on",
        timeout_keep_alive=10, timeout_graceful_shutdown=5,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[address.socket])
