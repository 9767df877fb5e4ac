"""What every request passes before it is answered: who asks, under which name, and how much is sent.

A page of another site can make a browser ask a server on loopback. It cannot read the answer (no CORS
header is sent) nor send JSON or Arrow without being allowed to; and where it has its own name point to
127.0.0.1, the name in the header Host is not one of ours.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from modeflow.serving.model import Limits

__all__ = ["LOOPBACK", "OPEN", "Guard", "Refused", "read_body"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: Names under which this machine knows itself.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: What is answered without a token, for whoever watches over the server.
OPEN = ("/health",)
#: A page would load nothing.
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Refused(Exception):
    """A request that is not answered: its status, and one line that says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Guard:
    """ASGI middleware: checks name, token and announced size, counts who waits, and sets headers.

    Arguments:
        app: what is guarded. limits: of a request. token: that has to be sent as a bearer; none if None.
        hosts: names that are answered to; any if None. policy: what a page may load
            (Content-Security-Policy); nothing if None.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        token: str | None = None,
        hosts: Collection[str] | None = LOOPBACK,
        policy: str | None = None,
    ) -> None:
        self.app, self.limits, self.token, self.hosts = app, limits, token, hosts
        self.headers = ((b"content-security-policy", (policy or _POLICY).encode()), *_HEADERS)
        self.inside = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        watched = scope["path"] in OPEN
        try:
            self._check(scope, {k: v.decode("latin-1") for k, v in scope["headers"]}, watched)
        except Refused as refused:
            await _refuse(with_headers, refused)
            return
        if watched:
            await self.app(scope, receive, with_headers)
            return
        self.inside += 1
        try:
            await self.app(scope, receive, with_headers)
        finally:
            self.inside -= 1

    def _check(self, scope: Message, headers: dict[bytes, str], watched: bool) -> None:
        if self.hosts is not None:
            name = headers.get(b"host", "")
            name = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name
            if name.lower() not in self.hosts:
                raise Refused(421, f"this server answers to {', '.join(self.hosts)} alone")
        if watched:
            return
        if self.token is not None:
            scheme, _, given = headers.get(b"authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not same:
                raise Refused(401, "send the server's token: Authorization: Bearer TOKEN")
        size = headers.get(b"content-length", "0")
        if not (size.isascii() and size.isdigit()):
            raise Refused(400, "Content-Length is no number")
        if len(size) > 18 or int(size) > self.limits.bytes:
            raise Refused(413, too_large(self.limits))
        if self.inside >= self.limits.waiting:
            raise Refused(503, f"{self.inside} requests are waiting already: try again")


def too_large(limits: Limits) -> str:
    """What is said of a body that is too large."""
    return f"the body is larger than {limits.megabytes:g} MB: send fewer rows at once"


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        Refused: one that is larger than allowed, or does not arrive.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the body ended before it was whole")
                part = message.get("body", b"")
                size += len(part)
                if size > limits.bytes:
                    raise Refused(413, too_large(limits))
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {limits.seconds:g} seconds") from error


async def _refuse(send: Send, refused: Refused) -> None:
    body = json.dumps({"detail": refused.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
