"""What a model can do, over HTTP: search, classes, masks, defects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tether.serve.bodies import read
from tether.serve.collection import Collection
from tether.serve.images_in import Given
from tether.serve.refused import RefusedError
from tether.serve.schemas import ClassifyRequest, DetectRequest, SearchRequest, SegmentRequest, body_of
from tether.serve.service import Service

_LETTERS = 1000  # of a class or a template: their embeddings are kept
_NO_IMAGE = "expected an image, as a data URI or as a file of a form"


def routes(service: Service) -> APIRouter:
    """Everything but OpenAI's part."""
    router = APIRouter()

    def store() -> Collection:
        if service.collection is None:
            raise RefusedError(404, "this server has no store to search; start it with --store photos.db")
        return service.collection

    @router.get("/health", summary="Whether the server takes requests")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/metrics", summary="Counts and times, as Prometheus reads them")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/about", summary="The model, what it takes, and the columns of the store")
    async def about() -> dict[str, Any]:
        limits = service.limits
        return {
            "model": service.name,
            "dim": service.model.dim,
            "store": None if service.collection is None else await service.collection.described(),
            "limits": {
                "request_bytes": limits.request_bytes,
                "pixels": limits.pixels,
                "texts": limits.texts,
                "letters": limits.letters,
                "images": limits.images,
                "k": limits.hits,
            },
        }

    @router.post(
        "/search",
        summary="Images by words, by an image or like one of the store",
        openapi_extra=body_of(SearchRequest, files="image"),
    )
    async def search(request: Request) -> dict[str, Any]:
        collection = store()
        asked, files = await read(request, SearchRequest, most_files=1)
        given = [name for name in ("text", "image", "key") if getattr(asked, name) is not None] + ["file"] * len(files)
        if len(given) != 1:
            raise RefusedError(400, f"expected one of text, image and key, got {', '.join(given) or 'none'}")
        if asked.k > service.limits.hits:
            raise RefusedError(413, f"k: at most {service.limits.hits}, got {asked.k}", param="k")
        cutoff = _cutoff(asked, collection)
        if asked.text is not None:
            service.check_texts([asked.text], where="text")
            pooled = (await service.texts(request, [asked.text])).pooled
        elif asked.key is not None:
            pooled = (await collection.vector(asked.key))[None]
        else:
            pixels = await service.images.fitted(_image(asked.image, files), service.model.image_spec)
            pooled = (await service.pixels(request, pixels)).pooled
        vector = pooled[0, : collection.searcher.store.dim]
        return await collection.search(vector, filters=asked.filters, k=asked.k, cutoff=cutoff, text=asked.text)

    @router.get("/thumbnail/{key:path}", summary="The image of a row of the store, small")
    async def thumbnail(key: str) -> Response:
        data = await store().thumbnail(key)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/image/{key:path}", summary="The image of a row of the store, large where --images has it")
    async def image(key: str) -> Response:
        data = await store().large(key)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.post(
        "/classify",
        summary="Images named from a list of classes",
        openapi_extra=body_of(ClassifyRequest, files="images"),
    )
    async def classify(request: Request) -> dict[str, Any]:
        asked, files = await read(request, ClassifyRequest, most_files=service.limits.images)
        _check_classes(asked.classes, service, least=1)
        if asked.templates is not None:
            service.check_texts(asked.templates, where="templates", letters=_LETTERS)
            if (count := len(asked.templates) * len(asked.classes)) > service.limits.texts:
                said = f"{count:,} texts of classes and templates; at most {service.limits.texts:,}"
                raise RefusedError(413, said, param="templates")
        images: list[tuple[str, Given]] = [
            (f"images[{place}]", given) for place, given in enumerate([*asked.images, *files])
        ]
        if not images:
            raise RefusedError(400, f"images: {_NO_IMAGE}, got none", param="images")
        pixels = await service.images.fitted(images, service.model.image_spec)
        found = await service.classify(request, pixels, classes=asked.classes, templates=asked.templates, top=asked.top)
        return {"images": found}

    @router.post(
        "/segment", summary="The class of each pixel of an image", openapi_extra=body_of(SegmentRequest, files="image")
    )
    async def segment(request: Request) -> dict[str, Any]:
        asked, files = await read(request, SegmentRequest, most_files=1)
        _check_classes(asked.classes, service, least=2)
        most = service.map_pixels(len(asked.classes))
        pixels = await service.images.whole(_image(asked.image, files), pixels=most)
        return await service.segment(request, pixels[0], classes=asked.classes)

    @router.post(
        "/detect", summary="How unusual an image is, and where", openapi_extra=body_of(DetectRequest, files="image")
    )
    async def detect(request: Request) -> dict[str, Any]:
        asked, files = await read(request, DetectRequest, most_files=1)
        service.check_texts([asked.name], where="name")
        pixels = await service.images.whole(_image(asked.image, files), pixels=service.map_pixels())
        return await service.detect(request, pixels[0], name=asked.name)

    return router


def _cutoff(asked: SearchRequest, collection: Collection) -> float | None:
    if asked.cutoff != "auto":
        return asked.cutoff
    if collection.cutoff is None:
        raise RefusedError(400, "cutoff: auto is not known for this model; give a number, such as 0.25", param="cutoff")
    if asked.text is None:
        raise RefusedError(400, "cutoff: auto is for queries in words; images have none", param="cutoff")
    return collection.cutoff.threshold


def _check_classes(classes: Sequence[str], service: Service, *, least: int) -> None:
    if len(classes) < least:
        raise RefusedError(400, f"classes: expected at least {least}, got {len(classes)}", param="classes")
    service.check_texts(classes, where="classes", most=service.limits.classes, letters=_LETTERS)


def _image(named: str | None, files: Sequence[bytes]) -> list[tuple[str, Given]]:
    given: list[Given] = [*([] if named is None else [named]), *files]
    if len(given) != 1:
        raise RefusedError(400, f"image: {_NO_IMAGE}, got {len(given) or 'none'}", param="image")
    return [("image", given[0])]
