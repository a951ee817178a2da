"""A Ray cluster to work on: one that is there, or one that is started on this machine and ended with the block."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tether.core.errors import InputError, MissingExtraError, reason_of
from tether.core.telemetry import telemetry_off

_STARTS = 5
"""Times that a cluster is started on a machine so busy that it takes longer than Ray waits, which is 30 seconds."""

_REACHED_WITHIN = 10.0  # seconds


def import_ray() -> Any:
    """The module ``ray``, without its messages.

    Raises:
        MissingExtraError: it is not installed.
    """
    telemetry_off()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it a warning about a later version
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")  # a busy machine imports torch slowly
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", extra="ray") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


def connect(*, address: str | None = None, cpus: int | None = None) -> Any:
    """The module ``ray``, connected: as it was already, to an address, or to a new cluster of this machine alone.

    A new one needs no network, has no dashboard, reports nothing to anybody and ends with this process, however that
    ends.

    Args:
        address: ``host:port`` of a cluster, or ``auto`` for the one that runs here; None takes ``$RAY_ADDRESS``, and
            where that is not set starts one.
        cpus: processors that a new one has to give; None takes those of the machine.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: no cluster at the address.
    """
    ray = import_ray()
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    _reach(place)
    if ray.is_initialized():
        return ray
    for tries_left in reversed(range(_STARTS if place == "local" else 1)):
        try:
            with _own_signals():
                ray.init(
                    address=place,
                    num_cpus=cpus if place == "local" else None,
                    include_dashboard=False if place == "local" else None,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            break
        except Exception as error:  # of many kinds; that the machine is too busy is the plain one
            ray.shutdown()
            if tries_left and type(error) is Exception:
                continue
            what = "a Ray cluster does not start here" if place == "local" else f"no Ray cluster at {place!r:.200}"
            raise InputError(f"{what}: {reason_of(error):.300}") from error
    return ray


@contextlib.contextmanager
def connected(*, address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """As ``connect``, while the block runs; a connection that was there before stays."""
    ray = import_ray()
    before = ray.is_initialized()
    try:
        yield connect(address=address, cpus=cpus)
    finally:
        if not before:
            with _own_signals():
                ray.shutdown()


def _reach(place: str) -> None:
    """See that something listens at ``host:port``: Ray itself asks for minutes."""
    host, _, port = place.rpartition(":")
    if "://" in place or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED_WITHIN).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"no Ray cluster at {place!r:.200}: {reason_of(error):.300}") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """SIGTERM goes on meaning what it did; Ray would take it over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
