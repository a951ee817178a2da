"""One side of an encoder that ``tether.load`` gives, as a tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import DualImages, DualTexts, ImageSide, Side, TextSide
from tether.models.config import CLIP_VOCABULARY, read_config
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.dual import Clip
from tether.models.save import FORMAT, describe
from tether.models.tokenizer_files import TOKENIZER_FOLDER, no_tokenizer
from tether.models.wrapped_encoders import WrappedEncoder

_SCALES = ("log", "temperature")


def dual_tower(model: Clip | WrappedEncoder, side: Side) -> ImageSide | TextSide:
    """The tower of one side; of a composed encoder the tower that it is made of, without its map."""
    if isinstance(model, ComposedEncoder):
        return model.parts.image if side == "image" else model.parts.text
    return _around(model, side, {"library": "dual", "model": describe(model)})


def build_dual(settings: Mapping[str, Any], side: Side, *, path: Path, tokenizer: str) -> ImageSide | TextSide:
    """The tower that ``settings`` describe, with unset weights.

    Args:
        settings: of a tower of ``dual_tower``.
        side: that it is of.
        path: the ``model.json``; the tokenizer's files lie beside it.
        tokenizer: the kind of the composed model's tokenizer.
    """
    values: dict[str, Any] = {**settings["model"], "tokenizer": tokenizer if side == "text" else "none"}
    if values.get("format") == FORMAT:
        config = read_config(values["model"], where="model")
        context, vocabulary = config.text.context, config.text.vocabulary
        if values["tokenizer"] == "files":
            words = transformers_tokenizer(path.parent / TOKENIZER_FOLDER, context=context, vocabulary=vocabulary)
        else:
            own = values["tokenizer"] == "built_in" and vocabulary == CLIP_VOCABULARY
            words = None if own else no_tokenizer(path, context=context, vocabulary=vocabulary)
        return _around(Clip(config, tokenizer=words), side, settings)
    from tether.models.load_wrapped import _LIBRARIES

    if values.get("library") not in _LIBRARIES:
        raise InputError(
            f"library: unknown {values.get('library')!r}; {closest(str(values.get('library')), _LIBRARIES)}"
        )
    return _around(_LIBRARIES[values["library"]](values, path)(), side, settings)


def _around(model: Clip | WrappedEncoder, side: Side, settings: Mapping[str, Any]) -> ImageSide | TextSide:
    """Drop what the other side alone needs, so that it is neither saved nor trained."""
    if isinstance(model, Clip) and model.config.towers == "shared":
        raise InputError("its two towers share their blocks; expected a model with a tower for each side")
    holder = model if isinstance(model, Clip) else model.model
    for name in [*dict(holder.named_children()), *dict(holder.named_parameters(recurse=False))]:
        if not name.startswith(_SCALES) and name.startswith("vis") != (side == "image"):
            setattr(holder, name, None)
    for name, parameter in holder.named_parameters(recurse=False):
        parameter.requires_grad_(not name.startswith(_SCALES) and parameter.requires_grad)
    if side == "image":
        return DualImages(model, width=model.dim, image_spec=model.image_spec, settings=settings)
    return DualTexts(model, width=model.dim, tokenizer=model.tokenizer, settings=settings)
