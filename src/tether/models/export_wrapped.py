"""A wrapped model as a folder of its own library: its names and its configuration as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tether.models.convert import hugging_face, open_clip
from tether.models.convert.exported import Exported, refused
from tether.models.convert.image_processor import PREPROCESS_FILE, preprocess_config
from tether.models.convert.transformers_families import file_names
from tether.models.encoders.timm_sizes import RESIZED
from tether.models.encoders.wrapped import OpenClipEncoder, TransformersEncoder, WrappedEncoder

_TEXT_FOLDER = "text"
_ON_THE_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


def exported_wrapped(
    encoder: WrappedEncoder, folder: Path, *, format: Literal["open_clip", "transformers"]
) -> Exported:
    """Weights, configuration and preprocessing as the model's own library writes them into ``folder``."""
    own = "transformers" if isinstance(encoder, TransformersEncoder) else "open_clip"
    if format != own:
        raise refused(f"a wrapped {type(encoder.model).__name__} goes to {own!r} or 'tether' alone, not to {format!r}")
    state = encoder.model.state_dict()
    if isinstance(encoder, TransformersEncoder):
        if not encoder.knows_its_size:
            raise refused(f"transformers' folders know square images alone, this model takes {encoder.image_spec.size}")
        renamed = file_names(encoder.model)
        preprocess = preprocess_config(encoder.image_spec, kind=encoder.family.processor)
        described = {PREPROCESS_FILE: preprocess, hugging_face.CONFIG_FILE: encoder.config}
        state = {renamed.get(name, name): value for name, value in state.items()}
        return Exported(hugging_face.WEIGHTS_FILES[0], state, described)
    assert isinstance(encoder, OpenClipEncoder)
    described, config = {}, dict(encoder.config)
    if RESIZED in config["vision_cfg"]:
        network, size = config["vision_cfg"]["timm_model_name"], encoder.image_spec.size
        raise refused(f"open_clip builds timm's {network} at its own size alone, this model takes {size}")
    name = config["text_cfg"].get("hf_model_name")
    if name and not _ON_THE_HUB.fullmatch(name):  # open_clip builds the tower from what lies there, or not at all
        described[f"{_TEXT_FOLDER}/config.json"] = encoder.hub_text_config()
        config["text_cfg"] = config["text_cfg"] | {"hf_model_name": str(folder.resolve() / _TEXT_FOLDER)}
    preprocess = open_clip.preprocess_config(encoder.image_spec)
    described[open_clip.CONFIG_FILE] = {"model_cfg": config, "preprocess_cfg": preprocess}
    return Exported(open_clip.WEIGHTS_FILES[0], state, described)
