"""A server that listens: the port is taken before the model is loaded, and SIGTERM lets what was taken finish."""

from __future__ import annotations

import errno
import socket
from typing import Any

import uvicorn

from tether.core.errors import InputError, reason_of

_MOST_CONNECTIONS = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

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
        found.listen(_MOST_CONNECTIONS)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port: {port} of {host} is in use; take another one, such as {port + 1}") from None
        raise InputError(f"--port: {port} of {host} cannot be listened on: {reason_of(error)}") from None
    return found


def run(app: Any, listening: socket.socket, *, stop_seconds: float) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was taken, for so many seconds at most."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses and queries of clients are nobody's business
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listening])
