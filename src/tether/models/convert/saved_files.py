"""A saved model's files: ``model.json`` says what it is, ``model.safetensors`` holds its weights.

A model whose tokenizer has files of its own has them beside, in ``tokenizer/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tether.core.atomic_io import atomic_path
from tether.core.errors import WriteError
from tether.core.geometry import geometry_of
from tether.core.tensor_file import sort_metadata

FORMAT, WRAPPED_FORMAT, COMPOSED_FORMAT = "tether-clip", "tether-wrapped", "tether-composed"
VERSION = 1
CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_FILE = "head.safetensors"
"""What ``adaptation.heads`` writes, beside a model or without one."""
HEAD_FORMAT = "tether.head/1"


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
