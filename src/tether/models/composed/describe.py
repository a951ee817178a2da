"""What a model is, in the plain values of its ``model.json``."""

from __future__ import annotations

import dataclasses
from typing import Any

from tether.models.composed.encoder import ComposedEncoder
from tether.models.convert.saved_files import COMPOSED_FORMAT, FORMAT, VERSION, WRAPPED_FORMAT
from tether.models.convert.tokenizer_files import tokenizer_kind
from tether.models.encoders.wrapped import OpenClipEncoder, WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.vision.stems import described_stems


def describe(model: Clip | WrappedEncoder) -> dict[str, Any]:
    """A model in plain values from which ``tether.load`` builds the same architecture."""
    kind, stems = tokenizer_kind(model.tokenizer), described_stems(model)
    if isinstance(model, ComposedEncoder):
        return {"format": COMPOSED_FORMAT, "version": VERSION, **model.describe(), "tokenizer": kind, **stems}
    if isinstance(model, WrappedEncoder):
        return _described(model) | {"tokenizer": kind, **stems}
    values = {"format": FORMAT, "version": VERSION, "model": model.config.to_dict(), **stems}
    return values | ({} if kind == "built_in" else {"tokenizer": kind})


def _described(encoder: WrappedEncoder) -> dict[str, Any]:
    """A wrapped model in words from which its library builds it again without a network."""
    return {
        "format": WRAPPED_FORMAT,
        "version": VERSION,
        "library": "open_clip" if isinstance(encoder, OpenClipEncoder) else "transformers",
        "class": type(encoder.model).__name__,
        "config": encoder.config,
        "text_config": encoder.hub_text_config() if isinstance(encoder, OpenClipEncoder) else None,
        "image": dataclasses.asdict(encoder.image_spec),
        "pad": encoder.pad,
    }
