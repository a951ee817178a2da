"""A model as two files: ``model.json`` says what it is, ``model.safetensors`` holds its weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.files import atomic_path, write_json
from tether.models.dual import Clip

FORMAT = "tether-clip"
VERSION = 1
CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write a model of our own towers; ``tether.load(folder)`` gives it back.

    Weights are written first and the description last, each under a temporary name that is then renamed, so a folder
    with a ``model.json`` is whole.

    Args:
        model: a ``Clip``.
        folder: where to; made if absent. Files of an earlier save are replaced.

    Returns:
        The folder.

    Raises:
        InputError: a wrapped model of another library, which that library saves.
        OSError: the disk is full or the folder cannot be written; nothing half-written stays.
    """
    folder = Path(folder)
    if not isinstance(model, Clip):
        raise InputError(f"save: expected a model of tether's own towers, got {type(model).__name__}")
    write_weights(folder / WEIGHTS_FILE, model.state_dict(), metadata={"format": "pt", "model": FORMAT})
    write_config(model, folder)
    return folder


def write_config(model: Clip, folder: Path) -> None:
    """Write only what the model is; a run that does so at its start can be loaded from its checkpoints."""
    write_json(folder / CONFIG_FILE, {"format": FORMAT, "version": VERSION, "model": model.config.to_dict()})


def write_weights(path: Path, state: dict[str, Tensor], *, metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
