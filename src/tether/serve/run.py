"""A server that listens: the port is taken before the model is loaded, and SIGTERM lets what was taken finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tether.core.errors import InputError, reason_of

_MOST_CONNECTIONS = 1024
_HEAD_SECONDS = 10.0
_HEAD_BYTES = 1 << 16


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port and refuses connections until ``listen``.

    Raises:
        InputError: the port is in use or may not be taken, or there is no such address.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host: {host}: {reason_of(error)}") from None
    found = socket.socket(family, kind, proto)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _refused(error, host, port) from None
    return found


def listen(found: socket.socket) -> None:
    """Let connections come.

    Raises:
        InputError: somebody else has taken the port in between.
    """
    try:
        found.listen(_MOST_CONNECTIONS)
    except OSError as error:
        raise _refused(error, *found.getsockname()[:2]) from None


def _refused(error: OSError, host: str, port: int) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"--port: {port} of {host} is in use; take another one, such as {port + 1}")
    return InputError(f"--port: {port} of {host} cannot be listened on: {reason_of(error)}")


class HeadLimit(HttpToolsProtocol):
    """uvicorn's connection, closed when the head of a request is long in coming, or long."""

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes since a request began, until its head is whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyrefly: ignore - as in uvicorn
        """Start the clock."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                self.send_400_response(f"The head of a request is longer than {_HEAD_BYTES} bytes.")
        if self.cycle is None or self.cycle.response_complete:  # the first of the next request
            self._start()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._head = None
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def run(app: Any, listening: socket.socket, *, stop_seconds: float) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was taken, for so many seconds at most."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else broken forms fill the log
    config = uvicorn.Config(
        app,
        http=HeadLimit,
        log_level="error",  # what clients do wrong they are told
        access_log=False,  # addresses and queries of clients are nobody's business
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listening])
