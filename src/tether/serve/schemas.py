"""What requests look like; the API's description is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictFloat, StrictInt, StrictStr

Image = Annotated[
    str, Field(description="A data URI (data:image/jpeg;base64,...), or a URL where the server allows it")
]
Plain = StrictBool | StrictInt | StrictFloat | StrictStr


class _Strict(BaseModel):
    """An unknown field is an error, so that a slip is not taken for silence."""

    model_config = ConfigDict(extra="forbid")


class ImageInput(_Strict):
    """An image among the inputs of ``/v1/embeddings``."""

    image: Image


class TextInput(_Strict):
    """A text among the inputs of ``/v1/embeddings``; the same as a plain string."""

    text: StrictStr


Item = StrictStr | ImageInput | TextInput


class EmbeddingsRequest(BaseModel):
    """OpenAI's request; fields of other services are read over, as there."""

    model: StrictStr
    input: Item | list[Item]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None


class ColumnFilter(_Strict):
    """One condition on a column; several must all hold."""

    column: StrictStr
    op: Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains"] = "="
    value: Plain | Annotated[list[Plain], Field(min_length=1, max_length=100)]


class SearchRequest(_Strict):
    """Words, an image, or the key of a row to find others like it."""

    text: StrictStr | None = None
    image: Image | None = None
    key: StrictStr | None = None
    filters: Annotated[list[ColumnFilter], Field(max_length=20)] = []
    k: Annotated[int, Field(ge=1)] = 24
    cutoff: FiniteFloat | Literal["auto"] | None = None


class ClassifyRequest(_Strict):
    """Images and the classes they may be of."""

    images: list[Image] = []
    classes: list[StrictStr]
    templates: Annotated[list[StrictStr], Field(min_length=1, max_length=100)] | None = None
    top: Annotated[int, Field(ge=1)] = 3


class SegmentRequest(_Strict):
    """An image and the classes its pixels may be of."""

    image: Image | None = None
    classes: list[StrictStr]


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
