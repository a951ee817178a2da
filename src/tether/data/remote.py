"""Images behind URLs that come from outside: only public hosts, a size limit, a time limit, few redirects."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import quote, urljoin, urlsplit

from tether.core.errors import InputError
from tether.data.paths import open_binary

MAX_BYTES = 64 * 2**20
"""Largest image that is fetched."""
SECONDS = 30.0
"""Longest that one image may take, with its redirects."""
_CONNECT_SECONDS = 5.0
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 4
_MOST_ADDRESSES = 4
_CHUNK = 1 << 18
_KEPT = "%/:=&?~#+!$,;'@()*[]"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is reached over the internet: not private, loopback, link-local, multicast or reserved."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found.teredo or found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def fetch(
    url: str,
    *,
    allowed: Callable[[str], bool] = is_public,
    trusted: str = "",
    limit: int = MAX_BYTES,
    seconds: float = SECONDS,
) -> bytes:
    """What an http or https URL answers.

    Args:
        url: where; its host's addresses and those of each redirect are checked, and the checked one is connected to.
        allowed: whether an address may be connected to.
        trusted: ``host:port`` that the user named, whose addresses are not checked.
        limit: most bytes.
        seconds: most time, all redirects together.

    Raises:
        InputError: a host that is not public, another answer than 200, too many bytes, redirects or seconds.
    """
    deadline = time.monotonic() + seconds
    place = url
    for _ in range(_MOST_REDIRECTS + 1):
        try:
            parts = urlsplit(place)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise InputError("leads to what is no http or https URL")
            check = _anywhere if parts.netloc == trusted else allowed
            connection = _Connection(parts.hostname, parts.port, secure=parts.scheme == "https", allowed=check)
            target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_KEPT)
            found = connection.get(target, limit=limit, seconds=max(0.0, deadline - time.monotonic()))
        except (http.client.HTTPException, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise InputError(f"{url}: {error}") from None
            reason = getattr(error, "strerror", None) or type(error).__name__  # never what the host wrote
            raise InputError(f"{url}: cannot read it: {reason}") from None
        if isinstance(found, bytes):
            return found
        place = urljoin(place, found)
    raise InputError(f"{url}: more than {_MOST_REDIRECTS} redirects")


def _anywhere(address: str) -> bool:
    return bool(address)


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, closed when its time is over."""

    def __init__(self, host: str, port: int | None, *, secure: bool, allowed: Callable[[str], bool]) -> None:
        self.default_port = 443 if secure else 80
        self._secure, self._allowed, self._late = secure, allowed, False
        self._open: socket.socket | None = None  # http.client forgets the socket when the answer's headers are read
        super().__init__(host, port or self.default_port, timeout=_CONNECT_SECONDS)

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if not all(map(self._allowed, addresses)):
            raise InputError(f"{self.host} is not a public host")
        for place, address in enumerate(addresses[:_MOST_ADDRESSES], start=1):
            try:
                self.sock = socket.create_connection((address, self.port), _CONNECT_SECONDS)
                break
            except OSError:
                if self._late or place == len(addresses[:_MOST_ADDRESSES]):
                    raise
        if self._secure:
            secure = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._open = self.sock = secure
            if not self._late:
                secure.do_handshake()
        self._open = self.sock
        if self._late:
            raise TimeoutError

    def get(self, target: str, *, limit: int, seconds: float) -> bytes | str:
        """The body, or where a redirect leads."""
        timer = threading.Timer(seconds, self._stop)  # a host may send a byte a second, in headers too
        timer.daemon = True
        timer.start()
        try:
            self.request("GET", target, headers={"User-Agent": "tether", "Connection": "close"})
            answer = self.getresponse()
            if answer.status in _REDIRECTS:
                return answer.getheader("Location", "")
            if answer.status != 200:
                raise InputError(f"the answer is {answer.status}")
            body = bytearray()
            while len(body) <= limit and (chunk := answer.read(_CHUNK)):
                body += chunk
            if len(body) > limit:
                raise InputError(f"more than {limit:,} bytes")
            if self._late or answer.length:
                raise InputError(f"the answer breaks off after {len(body):,} bytes")
            return bytes(body)
        except (OSError, http.client.HTTPException):
            if self._late:
                raise InputError("takes too long") from None
            raise
        finally:
            timer.cancel()
            self.close()

    def _stop(self) -> None:
        self._late = True
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.shutdown(socket.SHUT_RDWR)


def read_url(url: str) -> bytes:
    """What a URL of another protocol holds, through fsspec.

    Raises:
        InputError: it cannot be read, or takes too many bytes or seconds.
    """
    deadline, body = time.monotonic() + SECONDS, bytearray()
    try:
        with open_binary(url) as file:
            while chunk := file.read(_CHUNK):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise InputError(f"{url}: more than {MAX_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise InputError(f"{url}: takes too long")
    except InputError:
        raise
    except Exception as error:  # the protocols' libraries raise many kinds
        raise InputError(f"{url}: cannot read it: {type(error).__name__}") from None
    return bytes(body)
