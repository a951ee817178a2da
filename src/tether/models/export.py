"""A model as a folder that open_clip or transformers opens, with the same embeddings and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from tether.core.atomic_io import local, read_json, write_json
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.models.composed.encoder import ComposedEncoder
from tether.models.convert import hugging_face, open_clip
from tether.models.convert.exported import Exported, refused
from tether.models.convert.image_processor import PREPROCESS_FILE
from tether.models.convert.rules import give
from tether.models.convert.saved_files import COMPOSED_FORMAT, CONFIG_FILE, write_weights
from tether.models.convert.tokenizer_files import export_tokenizer
from tether.models.encoders.onnx.encoder import ExportedEncoder
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.export_wrapped import exported_wrapped
from tether.models.model_uri import STARTER
from tether.models.save import save
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.clip import Clip
from tether.models.towers.config import CLIP_VOCABULARY
from tether.models.towers.vision.alpha_stem import stem_of
from tether.models.towers.vision.mask_prompt_stem import prompts_of

Format = Literal["open_clip", "transformers", "tether"]


@checked
def export(model: nn.Module, folder: str | Path, *, format: Format = "open_clip") -> Path:
    """Write a model for use elsewhere: weights, configuration, image processor and tokenizer.

    ``open_clip`` folders open with ``open_clip.create_model_from_pretrained("local-dir:FOLDER")`` and
    ``open_clip.get_tokenizer`` of the same name, ``transformers`` ones with ``AutoModel``, ``AutoProcessor`` or
    ``pipeline("zero-shot-image-classification", model=FOLDER)``, without a network; both also with
    ``tether.load(FOLDER)``. A pruned vocabulary is whole again in every format. A wrapped model goes to its own
    library or to ``tether``.

    Args:
        model: what ``tether.load`` or ``create`` gave.
        folder: where to; made if absent.
        format: ``open_clip``, ``transformers`` or ``tether``.

    Returns:
        The folder.

    Raises:
        InputError: the other library cannot hold this model; nothing is written.
    """
    folder = local(folder)
    if not isinstance(model, (Clip, WrappedEncoder)):
        raise InputError(f"export: expected a model of tether.load or create, got {type(model).__name__}")
    if isinstance(model, ExportedEncoder):
        raise InputError("export: the model is an exported folder already; copy it, or export what it came from")
    if format == "tether":
        return save(model, folder)
    if isinstance(model, ComposedEncoder):
        raise _composed(format)
    if stem_of(model) is not None:
        raise refused(f"{format} has no image tower that takes alpha")
    if prompts_of(model) is not None:
        raise refused(f"{format} has no image tower with mask prompts")
    found = exported_wrapped(model, folder, format=format) if isinstance(model, WrappedEncoder) else _own(model, format)
    write_weights(folder / found.weights_file, found.state, metadata={"format": "pt"})
    export_tokenizer(model.tokenizer, folder, format=format)
    for name, values in found.described.items():
        write_json(folder / name, values)
    return folder


def check_format(name: str, *, format: Format) -> None:
    """Refuse a model by name, before its weights are read, that only ``tether`` can hold.

    Args:
        name: as ``tether.load`` takes it.
        format: as in ``export``.
    """
    path = local(name) / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    composed = isinstance(values, dict) and values.get("format") == COMPOSED_FORMAT
    if format != "tether" and (composed or (name == STARTER and not local(name).exists())):
        raise _composed(format)


def _composed(format: Format) -> InputError:
    return refused(f"{format} has no model of two composed towers joined by maps")


def _own(model: Clip, format: Literal["open_clip", "transformers"]) -> Exported:
    state, ids = model.state_dict(), model.config.text.vocabulary
    own_words = not isinstance(model.tokenizer, ClipTokenizer)
    if ids != CLIP_VOCABULARY and not own_words:
        raise refused(
            f"{format} needs a tokenizer of {ids} ids like this model, whose own is CLIP's of {CLIP_VOCABULARY}"
        )
    if format == "open_clip":
        config = open_clip.open_clip_config(model.config, own_words=own_words)
        state = give(state, open_clip.rules(model.config))
        return Exported(open_clip.WEIGHTS_FILES[0], state, {open_clip.CONFIG_FILE: config})
    config, preprocess = hugging_face.hugging_face_config(model.config)
    state = give(state, hugging_face.rules(model.config))
    described = {PREPROCESS_FILE: preprocess, hugging_face.CONFIG_FILE: config}
    return Exported(hugging_face.WEIGHTS_FILES[0], state, described)
