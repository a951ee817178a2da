"""Bodies of requests to checked values: JSON, or a form with images as files."""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.serve.refused import RefusedError

M = TypeVar("M", bound=BaseModel)
_MOST_VALUES = 100_000
_SHORT = 1 << 17  # bytes that are read at once: it takes less than a thread does
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


async def read(request: Request, model: type[M], *, most_files: int = 0) -> tuple[M, list[bytes]]:
    """The body of a request, and the files of a form.

    Args:
        request: whose body it is.
        model: what the JSON must be; in a form it is the field ``json``.
        most_files: files of a form; 0 where no forms are taken.

    Raises:
        RefusedError: another type, no JSON, or a field that is not what it must be.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await _checked(await request.body(), model), []
    if kind == "multipart/form-data" and most_files:
        files, text = list[bytes](), b"{}"
        try:
            async with request.form(max_files=most_files, max_fields=8, max_part_size=1 << 20) as form:
                for name, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        files.append(await value.read())
                    elif name == "json":
                        text = value.encode(errors="surrogatepass")
                    else:
                        raise RefusedError(
                            400, f"form: unknown field {name[:80]!r}; expected files, and the rest as json"
                        )
        except MultiPartException as error:
            raise RefusedError(400, f"form: {error.message}") from None
        return await _checked(text, model), files
    said = "application/json" + (" or multipart/form-data" if most_files else "")
    raise RefusedError(415, f"expected a body of type {said}, got {kind[:80] or 'none'}")


async def _checked(data: bytes, model: type[M]) -> M:
    try:
        value = _parsed(data) if len(data) <= _SHORT else await run_in_threadpool(_parsed, data)
        return model.model_validate(value)
    except InputError as error:
        raise RefusedError(400, str(error)) from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(each) for each in found["loc"])[:200]
        raise RefusedError(400, f"{place or 'body'}: {found['msg']}", param=place or None) from None


def _parsed(data: bytes) -> object:
    """JSON that does not take a hundred times the memory that its bytes do."""
    if (data.count(b",") + data.count(b"[") + data.count(b"{")) > _MOST_VALUES:
        bare = _STRING.sub(b"", data)
        if (count := bare.count(b",") + bare.count(b"[") + bare.count(b"{")) > _MOST_VALUES:
            raise InputError(f"body: JSON of {count:,} values; at most {_MOST_VALUES:,} are read")
    return parse_json(data, where="body")
