"""Middleware in front of the routes: allowed hosts and origins, size limits, security headers.

Every page that the user's browser shows can reach a server on 127.0.0.1. So the Host header must be
one of the server's names (this stops DNS rebinding), and requests from pages must come from its own
origin.
"""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv6Address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Sent with every answer."""


class TooLarge(Exception):
    """A body has more bytes than are read."""


class Guard:
    """Refuses foreign hosts, foreign pages and large bodies, and adds the headers."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.hosts = frozenset(map(_canonical, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began, read = Headers(scope=scope), False, 0

        async def send_guarded(message: Message) -> None:
            nonlocal began
            if read > self.max_bytes and not began:
                return  # the application's answer to a truncated body
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if reason := self._refused(headers):
            await _answer(send_guarded, *reason)
            return

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise TooLarge
            return message

        with suppress(TooLarge):
            await self.app(scope, receive_counted, send_guarded)
        if read > self.max_bytes and not began:
            read = 0
            await _answer(send_guarded, 413, "the request is too large")

    def _refused(self, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if "*" not in self.hosts and _name(host) not in self.hosts:
            return 403, "this host name is not allowed; see --allow-host"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from other origins are not allowed"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "the request is malformed"
        if int(length) > self.max_bytes:
            return 413, "the request is too large"
        return None


def _name(host: str) -> str:
    """Return a Host header without its port."""
    name, _, port = host.rpartition(":")
    return _canonical(name if name and port.isdigit() else host)


def _canonical(name: str) -> str:
    """Return a host as browsers write it: in small letters, an IPv6 address short, in brackets."""
    with suppress(ValueError):
        return f"[{IPv6Address(name.strip('[]'))}]"
    return name.lower()


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
