"""What requests look like; the API's description is made of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tether.core.printable import quoted

_MOST = 1 << 31
_LETTERS = 2000  # of one value of a filter


def _one_message(message: str) -> WrapValidator:
    """One error for a union, which else has one for each of its kinds."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("value", message) from None  # pyrefly: ignore - a literal, but for the type

    return WrapValidator(check)


Image = Annotated[
    str, Field(description="A data URI (data:image/jpeg;base64,...), or a URL where the server allows it")
]
Plain = StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=_LETTERS)]


class _Strict(BaseModel):
    """An unknown field is an error, so that a slip is not taken for silence; the first of them alone is told."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        if isinstance(given, dict) and (odd := next((name for name in given if name not in cls.model_fields), None)):
            fields = ", ".join(cls.model_fields)
            raise PydanticCustomError(
                "field", "unknown field {odd}; expected {fields}", {"odd": quoted(odd), "fields": fields}
            )
        return given


class ImageInput(_Strict):
    """An image among the inputs of ``/v1/embeddings``."""

    image: Image


class TextInput(_Strict):
    """A text among the inputs of ``/v1/embeddings``; the same as a plain string."""

    text: StrictStr


Item = Annotated[
    StrictStr | ImageInput | TextInput,
    _one_message('expected a text, {"text": ...} or {"image": "data:..."}; token ids are not read'),
]


class EmbeddingsRequest(BaseModel):
    """OpenAI's request; fields of other services are read over, as there."""

    model: StrictStr
    input: Annotated[
        list[Item],
        Field(fail_fast=True),
        BeforeValidator(
            lambda given: given if isinstance(given, list) else [given], json_schema_input_type=Item | list[Item]
        ),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1, le=_MOST)] | None = None


class ColumnFilter(_Strict):
    """One condition on a column; several must all hold."""

    column: Annotated[StrictStr, Field(max_length=_LETTERS)]
    op: Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains"] = "="
    value: Annotated[
        Plain | Annotated[list[Plain], Field(fail_fast=True, min_length=1, max_length=100)],
        _one_message(
            f"expected a text of at most {_LETTERS:,} letters, a number, true or false, or a list of 1 to 100 such"
        ),
    ]


class SearchRequest(_Strict):
    """Words, an image, or the key of a row to find others like it."""

    text: StrictStr | None = None
    image: Image | None = None
    key: Annotated[StrictStr, Field(max_length=4096)] | None = None
    filters: Annotated[list[ColumnFilter], Field(fail_fast=True, max_length=20)] = []
    k: Annotated[int, Field(ge=1, le=_MOST)] = 24
    cutoff: Annotated[FiniteFloat | Literal["auto"] | None, _one_message("expected a number or auto")] = None


class ClassifyRequest(_Strict):
    """Images and the classes they may be of."""

    images: Annotated[list[Image], Field(fail_fast=True)] = []
    classes: Annotated[list[StrictStr], Field(fail_fast=True)]
    templates: Annotated[list[StrictStr], Field(fail_fast=True, min_length=1, max_length=100)] | None = None
    top: Annotated[int, Field(ge=1, le=_MOST)] = 3


class SegmentRequest(_Strict):
    """An image and the classes its pixels may be of."""

    image: Image | None = None
    classes: Annotated[list[StrictStr], Field(fail_fast=True)]


class DetectRequest(_Strict):
    """An image, and what it shows where nothing is wrong."""

    image: Image | None = None
    name: Annotated[StrictStr, Field(max_length=200)] = "object"


def body_of(model: type[BaseModel], *, files: str | None = None) -> dict[str, Any]:
    """The part of OpenAPI that says which bodies a route takes.

    Args:
        model: of the JSON.
        files: field of a form that holds images as files, where forms are taken.
    """
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if files is not None:
        form = {
            "type": "object",
            "properties": {
                files: {"type": "array", "items": {"type": "string", "format": "binary"}},
                "json": {"type": "string", "description": "The other fields, as JSON"},
            },
        }
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def definitions() -> dict[str, Any]:
    """The models that the bodies refer to."""
    found: dict[str, Any] = {}
    for model in (EmbeddingsRequest, SearchRequest, ClassifyRequest, SegmentRequest, DetectRequest):
        found |= model.model_json_schema(ref_template="#/components/schemas/{model}").get("$defs", {})
    return found
