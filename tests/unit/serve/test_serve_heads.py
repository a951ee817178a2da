"""Connections whose requests do not get on: half a head, a long one, and one that is left open."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from tether.serve import run
from tether.serve.run import HeadLimit

WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def answers(*pieces):
    """What comes back, until the server closes, each piece being sent when the one before was answered."""

    async def ask():
        config = uvicorn.Config(app, http=HeadLimit, lifespan="off", timeout_keep_alive=1000, log_level="error")
        config.load()
        loop, state = asyncio.get_running_loop(), ServerState()
        server = await loop.create_server(
            lambda: HeadLimit(config=config, server_state=state, app_state={}, _loop=loop), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            found = b""
            with contextlib.suppress(ConnectionError):  # closed before all was sent
                for piece in pieces[:-1]:
                    writer.write(piece)
                    found += await reader.readuntil(b"ok")
                writer.write(pieces[-1])
                await writer.drain()
                found += await reader.read()
            writer.close()
            return found

    return asyncio.run(asyncio.wait_for(ask(), 60))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run, "_HEAD_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("given", [b"", b"GET / HTTP/1.1\r\nHost:", b"\r\n"])
def test_half_a_head_is_not_waited_for(given):
    assert answers(given) == b""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("given", [b"GET", b"\r\n"])
def test_nor_that_of_a_later_request(given):
    found = answers(WHOLE, WHOLE, given)
    assert found.count(b"200 OK") == 2


def test_a_long_head_is_refused():
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx: %s\r\n\r\n"
    assert b"200 OK" in answers(head % (b"a" * 10_000))
    assert b"200 OK" not in answers(head % (b"a" * 2_000_000))


def test_bodies_are_no_heads():
    close = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
    assert b"200 OK" in answers(close + b" " * 1_000_000)
