"""How much one request, and all of them together, may cost the server."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, fields
from typing import Any

from tether.core.errors import InputError
from tether.serve.refused import RefusedError, refusal

_DRAIN_SECONDS = 5.0
"""How long the rest of a body that is refused is read and dropped, so that its sender reads the answer."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What is taken.

    Attributes:
        rows: texts or images of one forward, at most.
        wait_ms: how long a first row waits for others.
        queue: rows that may wait for the model; more are answered 429.
        request_bytes: of one request's body.
        held_bytes: of all bodies that are held at a time; more are answered 429.
        pixels: of one image, and for masks and maps of defects an eighth of it.
        texts: of one request.
        letters: of one text.
        images: of one request.
        classes: of one request.
        hits: of one search.
        seconds: that a body may take to come, and an answer to be found.

    Raises:
        InputError: a limit below 1 (``wait_ms``: 0), or a queue that does not hold one request.

    Example:
        >>> from tether.serve.limits import ServerLimits
        >>> ServerLimits(rows=8).rows
        8
    """

    rows: int = 64
    wait_ms: float = 4.0
    queue: int = 4096
    request_bytes: int = 32 << 20
    held_bytes: int = 256 << 20
    pixels: int = 1 << 25
    texts: int = 2048
    letters: int = 1 << 15
    images: int = 64
    classes: int = 200
    hits: int = 200
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing passes."""
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name == "wait_ms" else 1
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"limits: {one.name}: expected at least {least}, got {value}")
        if self.queue < max(self.texts, self.images):
            raise InputError(
                f"limits: queue: expected at least the {max(self.texts, self.images)} rows of one request, got "
                f"{self.queue}"
            )
        if self.held_bytes < self.request_bytes:
            raise InputError(
                f"limits: held_bytes: expected at least the {self.request_bytes} bytes of one request, got "
                f"{self.held_bytes}"
            )


class BodyLimit:
    """ASGI: bodies are counted while they come; one that is too long is refused and never held."""

    def __init__(self, app: Any, *, limits: ServerLimits) -> None:
        """Stand before an app."""
        self.app, self.limits, self.held = app, limits, 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or len(stated) > 18 or int(stated) > self.limits.request_bytes:
            if b"expect" not in headers:
                await _drain(receive)
            await refusal(self._too_long(), path=scope["path"])(scope, receive, send)
            return
        mine = 0
        until = asyncio.get_running_loop().time() + self.limits.seconds
        ended = False

        async def counted() -> dict[str, Any]:
            nonlocal mine, ended
            try:
                async with asyncio.timeout_at(None if ended else until):
                    message = await receive()
            except TimeoutError:
                raise RefusedError(408, f"the body took more than {self.limits.seconds:g} s") from None
            size = len(message.get("body", b""))
            ended = ended or not message.get("more_body", False)
            mine, self.held = mine + size, self.held + size
            if mine > self.limits.request_bytes:
                await _drain(receive)
                raise self._too_long()
            if self.held > self.limits.held_bytes:
                raise RefusedError(429, "too many large requests at a time; try again", retry_after=1)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.held -= mine

    def _too_long(self) -> RefusedError:
        return RefusedError(413, f"the request is too long: at most {self.limits.request_bytes:,} bytes are read")


async def _drain(receive: Any) -> None:
    """Read and drop what still comes, for a while."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        pass
