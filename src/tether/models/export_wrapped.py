"""A wrapped model as a folder of its own library: its names and its configuration as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tether.core.atomic_io import write_json
from tether.core.errors import InputError, WriteError
from tether.core.types import ImageSpec
from tether.models.convert import hugging_face, open_clip
from tether.models.save import write_weights
from tether.models.tokenizer import FunctionTokenizer
from tether.models.wrapped_encoders import OpenClipEncoder, WrappedEncoder


def export_wrapped(encoder: WrappedEncoder, folder: Path, *, format: Literal["open_clip", "transformers"]) -> Path:
    """Write weights, configuration, preprocessing and the tokenizer's files as the model's own library does.

    Raises:
        InputError: the model is of the other library.
    """
    own = "open_clip" if isinstance(encoder, OpenClipEncoder) else "transformers"
    if format != own:
        raise InputError(
            f"export: a wrapped {type(encoder.model).__name__} goes to {own!r} or 'tether' alone, not to {format!r}"
        )
    weights = open_clip.WEIGHTS_FILES[0] if own == "open_clip" else "model.safetensors"
    write_weights(folder / weights, encoder.model.state_dict(), metadata={"format": "pt"})
    if isinstance(encoder.tokenizer, FunctionTokenizer) and encoder.tokenizer.write is not None:
        try:
            encoder.tokenizer.write(folder)
        except Exception as error:  # the libraries that write these files raise of many kinds
            raise WriteError(folder, error) from error
    if own == "open_clip":
        config = {"model_cfg": encoder.config, "preprocess_cfg": open_clip.preprocess_config(encoder.image_spec)}
        write_json(folder / open_clip.CONFIG_FILE, config)
    else:
        write_json(folder / hugging_face.PREPROCESS_FILE, _siglip_preprocess(encoder.image_spec))
        write_json(folder / hugging_face.CONFIG_FILE, encoder.config)
    return folder


def _siglip_preprocess(image: ImageSpec) -> dict[str, Any]:
    if image.resize != "squash":
        raise InputError(f"export: SiglipImageProcessor squashes pictures, this model wants {image.resize!r}")
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": image.size[0], "width": image.size[1]},
        "resample": 2 if image.interpolation == "bilinear" else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "do_convert_rgb": True,
    }
