"""Counts and times for Prometheus; no text of a request is among them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What ``/metrics`` shows of one server."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter("tether_requests", "Answered requests", ["route", "status"], registry=self.registry)
        self._seconds = Histogram("tether_request_seconds", "Time of an answer", ["route"], registry=self.registry)
        self._rows = Counter("tether_rows", "Texts and images that the model read", ["kind"], registry=self.registry)
        self._batch = Histogram(
            "tether_batch_rows", "Rows of one batch", registry=self.registry, buckets=[2**power for power in range(11)]
        )
        self._forward = Histogram("tether_batch_seconds", "Time of one batch", ["kind"], registry=self.registry)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Show how many rows wait."""
        Gauge("tether_queue_rows", "Rows that wait for the model", registry=self.registry).set_function(waiting)

    def batch(self, kind: str, rows: int, seconds: float) -> None:
        """Count one batch."""
        self._rows.labels(kind).inc(rows)
        self._batch.observe(rows)
        self._forward.labels(kind).observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class RequestCounts:
    """ASGI: counts answers by the route's pattern, never by what stands in the address."""

    def __init__(self, app: Any, *, metrics: Metrics) -> None:
        """Stand before an app."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.monotonic()

        async def noted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.monotonic() - start)
