"""Reading safetensors files, and refusing what is not one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.files import read_json

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
SHOWN = 5


def refuse_pickle(path: Path) -> None:
    """An InputError if a file is a pickle by its name or its first bytes."""
    with path.open("rb") as file:
        start = file.read(9)
    tensors = start[8:] == b"{"  # safetensors: eight bytes of length, then JSON
    pickled = start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"
    if path.suffix in _PICKLES or (pickled and not tensors):
        raise InputError(
            f"{path}: a pickle, which runs code when opened, so it is never read here; "
            "convert it to safetensors where you trust it (safetensors.torch.save_file)"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of the files that a ``*.safetensors.index.json`` lists.

    Raises:
        InputError: the file is missing, truncated, a pickle or not safetensors; it names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the model's weights as safetensors")
    if path.name.endswith(".index.json"):
        listed = read_json(path)
        names = listed.get("weight_map") if isinstance(listed, dict) else None
        if not isinstance(names, dict):
            raise InputError(f"{path}: expected 'weight_map' with a file for each tensor")
        state: dict[str, Tensor] = {}
        for name in sorted(set(names.values())):
            state.update(read_weights(path.with_name(Path(name).name)))
        return state
    refuse_pickle(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file ({error})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file, one that ``read_weights`` accepts, says of itself."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def fill(model: nn.Module, state: dict[str, Tensor], *, where: Path | str) -> None:
    """Put weights into a model; every key and every shape must fit.

    Raises:
        InputError: the weights are of another architecture; it names the file and the first keys that differ.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError(f"{where}: weights of another architecture: {'; '.join(problems[:SHOWN])}{more}")
    model.load_state_dict(state)
