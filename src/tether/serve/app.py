"""The whole application: routes, page, description, errors and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from tether import __version__
from tether.core.errors import InputError, TetherError
from tether.serve import schemas
from tether.serve.auth import TokenGuard
from tether.serve.batching import FullError, StoppingError
from tether.serve.limits import BodyLimit
from tether.serve.metrics import RequestCounts
from tether.serve.refused import RefusedError, refusal
from tether.serve.routes import routes
from tether.serve.routes_v1 import routes_v1
from tether.serve.service import GoneError, Service, refused_of

_GONE = 499
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_TYPES = {"js": "text/javascript", "css": "text/css"}


def make_app(
    service: Service, *, token: str | None = None, host: str = "127.0.0.1", stop_seconds: float = 5.0
) -> FastAPI:
    """The application of a service.

    Args:
        service: the model and the store; it is closed when the application ends.
        token: that requests must bring; None for none.
        host: address that is listened on; a loopback one answers to its own names alone.
        stop_seconds: how long what the model still does may take, when all have their answers.

    Example:
        >>> import tether
        >>> from starlette.testclient import TestClient
        >>> from tether.serve.app import make_app
        >>> from tether.serve.service import Service
        >>> app = make_app(Service(tether.load("tiny", random_weights=True), "tiny"))
        >>> with TestClient(app, base_url="http://localhost") as client:
        ...     answer = client.post("/v1/embeddings", json={"model": "tiny", "input": "a cat"})
        >>> len(answer.json()["data"][0]["embedding"])
        64
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close(stop_seconds)  # nobody waits any more

    app = FastAPI(
        title="Tether",
        version=__version__,
        summary=f"The model {service.name}",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes_v1(service))
    app.include_router(routes(service))
    _add_pages(app, service)
    _add_errors(app)
    # the last one stands first
    app.add_middleware(BodyLimit, limits=service.limits)
    app.add_middleware(TokenGuard, token=token, host=host)
    app.add_middleware(_Headers)
    app.add_middleware(RequestCounts, metrics=service.metrics)
    return app


class _Headers:
    """ASGI: what tells a browser to load nothing from elsewhere and to guess no types."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def headed(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        await self.app(scope, receive, headed if scope["type"] == "http" else send)


def _add_pages(app: FastAPI, service: Service) -> None:
    pages = Environment(loader=PackageLoader("tether.serve", "page"), autoescape=True)
    plain = app.openapi

    def described() -> dict[str, Any]:
        found = plain()
        found.setdefault("components", {}).setdefault("schemas", {}).update(schemas.definitions())
        return found

    app.openapi = described

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(pages.get_template("page.html.j2").render(name=service.name))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(pages.get_template("docs.html.j2").render(api=app.openapi()))

    for ending, kind in _TYPES.items():
        _add_file(app, f"page.{ending}", kind, pages)


def _add_file(app: FastAPI, name: str, kind: str, pages: Environment) -> None:
    assert pages.loader is not None
    text = pages.loader.get_source(pages, name)[0]

    @app.get(f"/{name}", include_in_schema=False)
    async def file() -> Response:
        return Response(text, media_type=kind, headers={"Cache-Control": "no-cache"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return refusal(error, path=request.url.path)

    @app.exception_handler(FullError)
    @app.exception_handler(StoppingError)
    @app.exception_handler(InputError)
    async def of_a_part(request: Request, error: TetherError) -> Response:
        return refusal(refused_of(error), path=request.url.path)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        found = refusal(RefusedError(error.status_code, str(error.detail)), path=request.url.path)
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(GoneError)
    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_GONE)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return refusal(RefusedError(500, "an error in the server; its log says more"), path=request.url.path)
