"""A model written as files, which ``tether.load`` reads."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.nn.utils import parametrize

from tether.core.atomic_io import local, write_json
from tether.core.errors import InputError
from tether.models.composed.describe import describe
from tether.models.convert.saved_files import CONFIG_FILE, WEIGHTS_FILE, describe_weights, write_weights
from tether.models.convert.tokenizer_files import tokenizer_kind, write_tokenizer
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip


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
        InputError: no such model, or weights are exchanged in it (``models.features.parametrization``).
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
