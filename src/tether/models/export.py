"""A model as a folder that open_clip or transformers opens, with the same embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from torch import nn

from tether.core.atomic_io import write_json
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.models.convert import hugging_face, open_clip
from tether.models.convert.image_processor import PREPROCESS_FILE
from tether.models.convert.rules import give
from tether.models.dual import Clip
from tether.models.export_wrapped import export_wrapped
from tether.models.save import save, write_weights
from tether.models.wrapped_encoders import WrappedEncoder

Format = Literal["open_clip", "transformers", "tether"]


@checked
def export(model: nn.Module, folder: str | Path, *, format: Format = "open_clip") -> Path:
    """Write a model for use elsewhere.

    ``open_clip`` folders open with ``open_clip.create_model("local-dir:FOLDER")``, ``transformers`` ones with
    ``CLIPModel.from_pretrained(FOLDER)``; both also with ``tether.load(FOLDER)``. A pruned vocabulary is whole again
    in every format. A wrapped model goes to its own library (SigLIP's opens with ``SiglipModel``) or to ``tether``.

    Args:
        model: what ``tether.load`` or ``create`` gave.
        folder: where to; made if absent.
        format: ``open_clip``, ``transformers`` or ``tether``.

    Returns:
        The folder.
    """
    if isinstance(model, Clip):
        return FORMATS[format](model, Path(folder))
    if not isinstance(model, WrappedEncoder):
        raise InputError(f"export: expected a model of tether.load or create, got {type(model).__name__}")
    if format == "tether":
        return save(model, folder)
    return export_wrapped(model, Path(folder), format=format)


def _open_clip(model: Clip, folder: Path) -> Path:
    config = open_clip.open_clip_config(model.config)
    state = give(model.state_dict(), open_clip.rules(model.config))
    write_weights(folder / open_clip.WEIGHTS_FILES[0], state, metadata={"format": "pt"})
    write_json(folder / open_clip.CONFIG_FILE, config)
    return folder


def _transformers(model: Clip, folder: Path) -> Path:
    config, preprocess = hugging_face.hugging_face_config(model.config)
    state = give(model.state_dict(), hugging_face.rules(model.config))
    write_weights(folder / "model.safetensors", state, metadata={"format": "pt"})
    write_json(folder / PREPROCESS_FILE, preprocess)
    write_json(folder / hugging_face.CONFIG_FILE, config)
    return folder


FORMATS: Mapping[str, Callable[[Clip, Path], Path]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
    "tether": save,
}
"""Export formats by name."""
