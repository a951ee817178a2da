"""The part of OpenAI's API that is about embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from tether.core.printable import quoted
from tether.serve.batching import AnsweredRows
from tether.serve.bodies import read
from tether.serve.refused import RefusedError
from tether.serve.schemas import EmbeddingsRequest, ImageInput, TextInput, body_of
from tether.serve.service import Service

_FEW = 16  # embeddings that are written at once: it takes less than a thread does
_JSON = TypeAdapter(dict[str, Any])
_STARTED = 0  # of a model that was made once and does not change


def routes_v1(service: Service) -> APIRouter:
    """``/v1/embeddings`` and ``/v1/models``."""
    router = APIRouter(prefix="/v1")
    card = {"id": service.name, "object": "model", "created": _STARTED, "owned_by": "tether"}

    @router.get("/models", summary="The model that is served")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        _check_name(name, service)
        return card

    @router.post(
        "/embeddings",
        summary="Texts and images as vectors, as OpenAI's API gives them",
        response_model=dict[str, Any],
        openapi_extra=body_of(EmbeddingsRequest),
    )
    async def embeddings(request: Request) -> Response:
        asked, _ = await read(request, EmbeddingsRequest, most=service.limits.texts + service.limits.images)
        _check_name(asked.model, service)
        items = asked.input
        if not items:
            raise RefusedError(400, "input: expected at least one text or image", param="input")
        texts = [(place, _words(item)) for place, item in enumerate(items) if not isinstance(item, ImageInput)]
        images = [(place, item.image) for place, item in enumerate(items) if isinstance(item, ImageInput)]
        service.check_texts([text for _, text in texts])
        service.check_dimensions(asked.dimensions)  # refused before anything is computed
        pixels = await service.images.fitted(
            [(f"input[{place}]", given) for place, given in images], service.model.image_spec
        )
        read_texts = await service.texts(request, [text for _, text in texts]) if texts else None
        read_images = await service.pixels(request, pixels) if images else None
        vectors: list[Tensor] = [Tensor()] * len(items)
        for places, rows in ((texts, read_texts), (images, read_images)):
            if rows is not None:
                unit = service.unit(rows.pooled, asked.dimensions)
                for (place, _), row in zip(places, unit, strict=True):
                    vectors[place] = row
        shown = _base64 if asked.encoding_format == "base64" else Tensor.tolist

        def written() -> bytes:
            data = [
                {"object": "embedding", "index": place, "embedding": shown(row)} for place, row in enumerate(vectors)
            ]
            return _JSON.dump_json({"object": "list", "data": data, "model": service.name, "usage": _usage(read_texts)})

        body = written() if len(vectors) <= _FEW else await asyncio.to_thread(written)
        return Response(body, media_type="application/json")

    return router


def _check_name(name: str, service: Service) -> None:
    if name != service.name:
        raise RefusedError(
            404, f"no model {quoted(name)}; this server has {service.name!r}", param="model", code="model_not_found"
        )


def _words(item: str | TextInput | ImageInput) -> str:
    assert not isinstance(item, ImageInput)
    return item if isinstance(item, str) else item.text


def _base64(row: Tensor) -> str:
    return base64.b64encode(row.contiguous().numpy().astype("<f4").tobytes()).decode()


def _usage(read_texts: AnsweredRows | None) -> dict[str, int]:
    """Tokens that were read, and how many texts lost their ends, if any."""
    tokens = 0 if read_texts is None else read_texts.tokens
    cut = {} if read_texts is None or not read_texts.cut else {"texts_cut": read_texts.cut}
    return {"prompt_tokens": tokens, "total_tokens": tokens, **cut}
