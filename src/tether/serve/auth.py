"""Who may ask: a bearer token compared in constant time, and on a loopback address only its own names."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_text
from tether.core.errors import InputError
from tether.serve.refused import RefusedError, refusal

VARIABLE = "TETHER_TOKEN"
"""Environment variable of the token."""
OPEN = frozenset({"/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health"})
"""Paths that need no token: of all that is served they show the model's name alone."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::\d*)?")
_LEAST, _MOST = 16, 4096


def read_token(path: Path | None, *, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token of a file or else of ``TETHER_TOKEN``; None where there is neither.

    Raises:
        InputError: no such file, or a token that is too short or not printable ASCII; it is never quoted.
    """
    where = VARIABLE if path is None else str(path)
    given = environment.get(VARIABLE) if path is None else read_text(path, limit=1 << 16)
    if given is None:
        return None
    token = given.strip()
    if not _LEAST <= len(token) <= _MOST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{where}: expected a token of {_LEAST} to {_MOST} printable ASCII letters without spaces, got {len(token)}"
            " letters; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class TokenGuard:
    """ASGI: refuses requests without the token, and on a loopback address those that name another host.

    A page of somebody else can lead its name to 127.0.0.1; the name in the request gives it away.
    """

    def __init__(self, app: Any, *, token: str | None, host: str) -> None:
        """Stand before an app."""
        self.app, self._local = app, is_loopback(host)
        self._digest = None if token is None else _digest(token.encode())

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on what may be asked."""
        if scope["type"] == "http" and (error := self._error(scope)) is not None:
            await refusal(error, path=scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _error(self, scope: dict[str, Any]) -> RefusedError | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._local and not ((named := _HOST.fullmatch(host)) and is_loopback(named[1])):
            return RefusedError(403, "this server answers to localhost alone; start it with --host for other names")
        if scope["path"] in OPEN:
            return None
        if not _own_site(headers, host):
            return RefusedError(403, "pages of other sites may not ask this server")
        if self._digest is None:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(_digest(given.strip()), self._digest):
            return None
        said = "the token is wrong" if given else "a token is needed: Authorization: Bearer TOKEN"
        return RefusedError(401, said, code="invalid_api_key")


def _own_site(headers: Mapping[bytes, bytes], host: str) -> bool:
    """Whether no browser says that a page of another site asks; a form of one needs nobody's leave to be sent."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is None or origin.decode("latin-1").lower().rpartition("://")[2] == host


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
