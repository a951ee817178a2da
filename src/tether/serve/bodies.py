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
from tether.core.printable import quoted
from tether.serve.refused import RefusedError

M = TypeVar("M", bound=BaseModel)
_MOST_VALUES = 100_000
_SHORT = 1 << 17  # bytes that are read at once: it takes less than a thread does
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


async def read(
    request: Request, model: type[M], *, most: int = _MOST_VALUES, most_files: int = 0
) -> tuple[M, list[bytes]]:
    """The body of a request, and the files of a form.

    Args:
        request: whose body it is.
        model: what the JSON must be; in a form it is the field ``json``.
        most: values of one list, which are counted before any is looked at.
        most_files: files of a form; 0 where no forms are taken.

    Raises:
        RefusedError: another type, no JSON, or a field that is not what it must be.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await _checked(await request.body(), model, most), []
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
                        said = f"form: unknown field {name[:80]!r}; expected files, and the rest as json"
                        raise RefusedError(400, said)
                if not form:
                    raise RefusedError(400, "form: expected files, and the rest as json; no field is whole")
        except MultiPartException as error:
            raise RefusedError(400, f"form: {error.message}") from None
        return await _checked(text, model, most), files
    said = "application/json" + (" or multipart/form-data" if most_files else "")
    raise RefusedError(415, f"expected a body of type {said}, got {kind[:80] or 'none'}")


async def _checked(data: bytes, model: type[M], most: int) -> M:
    try:
        return _made(data, model, most) if len(data) <= _SHORT else await run_in_threadpool(_made, data, model, most)
    except InputError as error:
        raise RefusedError(400, str(error)) from None


def _made(data: bytes, model: type[M], most: int) -> M:
    value = _parsed(data)
    for name, given in value.items() if isinstance(value, dict) else ():
        if isinstance(given, list) and len(given) > most:
            said = f"{quoted(name)}: a list of {len(given):,}; at most {most:,} in one request"
            raise RefusedError(413, said, param=str(name)[:200])
    try:
        return model.model_validate(value)
    except ValidationError as error:  # one or two for each field, however long its list is
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in found["loc"])[1:200]
        raise RefusedError(400, f"{place or 'body'}: {found['msg']}", param=place or None) from None


def _parsed(data: bytes) -> object:
    """JSON that does not take a hundred times the memory that its bytes do."""
    if (data.count(b",") + data.count(b"[") + data.count(b"{")) > _MOST_VALUES:
        bare = _STRING.sub(b"", data)
        if (count := bare.count(b",") + bare.count(b"[") + bare.count(b"{")) > _MOST_VALUES:
            raise InputError(f"body: JSON of {count:,} values; at most {_MOST_VALUES:,} are read")
    return parse_json(data, where="body")
