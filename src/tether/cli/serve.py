"""``tether serve``."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from tether.cli.options import Device, ModelName, RandomWeights
from tether.cli.say import say
from tether.cli.stopping import Terminated


def command(
    model: ModelName,
    store: Annotated[
        str | None, typer.Option(help="What tether index made of this model: /search and the page.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: its own name.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that requests must bring; else TETHER_TOKEN.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Answer other machines without a token.")] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images that requests name by URL, of public hosts alone.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(help="The embedded folder, for images without a thumbnail.", exists=True, file_okay=False),
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Texts or images of one forward.")] = 64,
    max_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a first row waits for others.")] = 4.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Rows that may wait; more are answered 429.")] = 4096,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of one request.")] = 32 << 20,
    max_held: Annotated[int, typer.Option(min=1, help="Bytes of all requests that are held at a time.")] = 256 << 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one image; an eighth for masks.")] = 1 << 25,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 2048,
    max_letters: Annotated[int, typer.Option(min=1, help="Letters of one text.")] = 1 << 15,
    max_images: Annotated[int, typer.Option(min=1, help="Images of one request.")] = 64,
    max_seconds: Annotated[float, typer.Option(min=1, help="Time of one answer.")] = 60.0,
    stop_seconds: Annotated[float, typer.Option(min=1, help="After SIGTERM, for what was taken already.")] = 30.0,
    device: Device = "auto",
    random_weights: RandomWeights = False,
) -> None:
    """Answer over HTTP: embeddings as OpenAI's API, search with a page, classes, masks, defects.

    Examples:
      tether serve starter --store photos.db
      tether serve runs/mine --store photos.db --allow-urls --port 8080
      tether serve starter --host 0.0.0.0 --token-file token.txt
    """
    from tether.core.errors import InputError, MissingExtraError
    from tether.serve.limits import ServerLimits

    try:
        from tether.serve.app import make_app
        from tether.serve.auth import VARIABLE, is_loopback, read_token
        from tether.serve.run import bound, listen, run
        from tether.serve.start import service_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {
            "fastapi",
            "uvicorn",
            "httptools",
            "starlette",
            "prometheus_client",
        }:
            raise
        raise MissingExtraError(error.name or "", extra="serve") from error

    token = read_token(token_file)
    if token is None and not is_loopback(host) and not no_token:
        raise InputError(f"--host: {host} can be reached by others; give --token-file or {VARIABLE}, or say --no-token")
    limits = ServerLimits(
        rows=max_rows,
        wait_ms=max_wait,
        queue=max_queue,
        request_bytes=max_bytes,
        held_bytes=max_held,
        pixels=max_pixels,
        texts=max_texts,
        letters=max_letters,
        images=max_images,
        seconds=max_seconds,
    )
    with bound(host, port) as listening:  # before the model: mistakes first
        service = service_of(
            model,
            store=store,
            name=name,
            limits=limits,
            allow_urls=allow_urls,
            images=images,
            device=device,
            random_weights=random_weights,
        )
        app = make_app(service, token=token, host=host, stop_seconds=0.2 * stop_seconds)
        shown = f"[{host}]" if ":" in host else host
        kept = "" if service.collection is None else f", {len(service.collection.searcher.store):,} images to search"
        listen(listening)  # a probe that connects before is refused, as one that waits for no answer
        say(f"{service.name} at http://{shown}:{listening.getsockname()[1]}/{kept}; the API: /docs", err=True)
        before = signal.signal(signal.SIGTERM, _terminated)  # raised when what was taken is finished
        try:
            run(app, listening, stop_seconds=0.8 * stop_seconds)
        finally:
            signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
