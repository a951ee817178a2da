"""A model as two files: ``model.json`` says what it is, ``model.safetensors`` holds its weights.

A model whose tokenizer has files of its own gets them beside, in ``tokenizer/``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tether.core.atomic_io import atomic_path, local, write_json
from tether.core.errors import InputError, WriteError
from tether.core.geometry import geometry_of
from tether.core.tensor_file import sort_metadata
from tether.models.composed.encoder import ComposedEncoder
from tether.models.dual import Clip
from tether.models.tokenizer_files import tokenizer_kind, write_tokenizer
from tether.models.vision.stems import described_stems
from tether.models.wrapped_encoders import OpenClipEncoder, WrappedEncoder

FORMAT, WRAPPED_FORMAT, COMPOSED_FORMAT = "tether-clip", "tether-wrapped", "tether-composed"
VERSION = 1
CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_FILE = "head.safetensors"
"""What ``adaptation.heads`` writes, beside a model or without one."""
HEAD_FORMAT = "tether.head/1"


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write a model that ``tether.load`` or ``create`` gave; ``tether.load(folder)`` gives it back, without a network.

    Weights are written first and the description last, each under a temporary name that is then renamed, so a folder
    with a ``model.json`` is whole.

    Args:
        model: a ``Clip``, a composed encoder, or a wrapped model of open_clip or transformers.
        folder: where to; made if absent. Files of an earlier save are replaced.

    Returns:
        The folder.

    Raises:
        InputError: no such model, or weights are exchanged in it (``models.exchange``).
        WriteError: the disk is full or the folder cannot be written; nothing half-written stays.
    """
    folder = local(folder)
    if not isinstance(model, (Clip, WrappedEncoder)):
        raise InputError(f"save: expected a model of tether.load or create, got {type(model).__name__}")
    if isinstance(model, WrappedEncoder) and model.unsaved is not None:
        raise InputError(f"save: {model.unsaved}")
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise InputError("save: weights of the model are exchanged; merge_ or take_back_ first")
    tokenizer_kind(model.tokenizer)  # refuses what cannot be loaded again before anything is written
    write_weights(folder / WEIGHTS_FILE, model.state_dict(), metadata=describe_weights(model))
    write_config(model, folder)
    return folder


def write_config(model: Clip | WrappedEncoder, folder: Path) -> None:
    """Write only what the model is; a run that does so at its start can be loaded from its checkpoints."""
    values = describe(model)
    write_tokenizer(model.tokenizer, folder)
    write_json(folder / CONFIG_FILE, values)


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


def describe_weights(model: nn.Module) -> dict[str, str]:
    """What a file of weights says of itself: its tensors' kind, and the geometry that they were trained for."""
    return {"format": "pt", "geometry": geometry_of(model).name}


def write_weights(path: Path, state: dict[str, Tensor], *, metadata: dict[str, str], private: bool = False) -> None:
    """Write tensors as safetensors, atomically; tensors that share memory are each written whole.

    Args:
        path: of the file.
        state: by name.
        metadata: texts beside them.
        private: see ``core.atomic_io.atomic_path``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path, private=private) as temporary:
        try:
            save_file(separate(state), temporary, metadata=metadata)
            sort_metadata(temporary)
        except SafetensorError as error:  # what it makes of a full disk
            raise WriteError(path, error) from error


def separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, no two in the same memory: safetensors refuses tied ones."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if value.numel() and place in seen else value
        seen.add(place)
    return tensors
