"""Reading safetensors files, refusing what is not one, and building only a model that fits its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tether.core.atomic_io import read_json, regular
from tether.core.errors import InputError, NotFiniteError, reason_of
from tether.core.tensor_shards import TensorShards, shards_beside
from tether.models.config_check import MAX_BYTES, blamed_on, other_architecture

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
MAX_HEADER = 16 * 2**20
"""Longest header that is read; a model of 10,000 tensors has 1 MB."""
SHARDED_MODEL = "model/"
"""How the names of a model's tensors begin in a sharded checkpoint."""
_Module = TypeVar("_Module", bound=nn.Module)


def refuse_pickle(path: Path) -> None:
    """An InputError if a file is a pickle by its name or its first bytes."""
    start = _start(path)
    tensors = start[8:] == b"{"  # safetensors: eight bytes of length, then JSON
    pickled = start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"
    if path.suffix in _PICKLES or (pickled and not tensors):
        raise InputError(
            f"{path}: a pickle, which runs code when opened, so it is never read here; "
            "convert it to safetensors where you trust it (safetensors.torch.save_file)"
        )


def _start(path: Path) -> bytes:
    """The first nine bytes."""
    try:
        with regular(path).open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise InputError(f"{path}: {reason_of(error)}") from error


def read_weights(path: Path, *, meta: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of the files that a ``*.safetensors.index.json`` lists.

    Of a sharded checkpoint, the model's tensors, put together from the files of all processes.

    Args:
        path: the file; of a sharded checkpoint any one.
        meta: only names, shapes and types, from the header, as tensors of the meta device.

    Raises:
        InputError: the file is missing, truncated, a pickle or not safetensors; it names the file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the model's weights as safetensors")
    if path.name.endswith(".index.json"):
        state: dict[str, Tensor] = {}
        for part in shards(path):
            state.update(read_weights(part, meta=meta))
        return state
    if parts := shards_beside(path):
        sharded = TensorShards(parts)
        if not meta:
            return sharded.group(SHARDED_MODEL)
        found = {name: one for name, one in sharded.tensors.items() if name.startswith(SHARDED_MODEL)}
        return {name.removeprefix(SHARDED_MODEL): one for name, one in found.items()}
    refuse_pickle(path)
    length = int.from_bytes(_start(path)[:8], "little")
    if length > min(MAX_HEADER, path.stat().st_size):
        raise InputError(f"{path}: truncated or not a safetensors file (a header of {length:,} bytes)")
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        if not meta:
            return load_file(path)
        with safe_open(regular(path), framework="pt") as file:
            return {name: _outline(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # SafetensorError, or the KeyError of a type that torch has not
        raise InputError(f"{path}: truncated or not a safetensors file ({error!s:.300})") from None


def _outline(part: Any) -> Tensor:
    """A tensor's shape and kind of number, without the numbers."""
    dtype = torch.float32 if part.get_dtype().startswith(("F", "BF")) else torch.int64
    return torch.empty(part.get_shape(), dtype=dtype, device="meta")


def shards(path: Path) -> list[Path]:
    """The files that an index lists, all beside it."""
    listed = read_json(path)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict):
        raise InputError(f"{path}: expected 'weight_map' with a file for each tensor")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{path}: weight_map: expected a .safetensors file beside it, got {name!r:.100}")
    return [path.with_name(name) for name in sorted(set(names.values()))]


def find_weights(folder: Path, names: Sequence[str], *, pickles: str, random_weights: bool) -> Path | None:
    """The first of the named files that a folder has; None where there is none and random weights were asked for."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        for pickle in sorted(folder.glob(pickles)):
            refuse_pickle(pickle)
        if not random_weights:
            raise InputError(f"{folder}: holds no {' or '.join(names)}; random weights must be asked for")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file, one that ``read_weights`` accepts, says of itself."""
    from safetensors import safe_open

    with safe_open(regular(path), framework="pt") as file:
        return dict(file.metadata() or {})


def assemble(
    build: Callable[[], _Module],
    weights: Path | None,
    *,
    described: Path,
    convert: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
    check: Callable[[_Module], object] = lambda outline: None,
) -> _Module:
    """A model with the weights of a file, built for real only when all names and shapes fit the file's header.

    Args:
        build: makes the module; it is called on the meta device first, where nothing is allocated.
        weights: the file; None leaves the module as built, and bounds its size.
        described: where the configuration was read, for the error message.
        convert: the file's names to the module's.
        check: looks at the module on the meta device, for instance runs it.

    Raises:
        InputError: the configuration builds no module, does not fit the file, or asks for too much without one.
    """
    with blamed_on(described), torch.device("meta"):
        outline = build()
    if weights is not None:
        check_fit(outline, convert(read_weights(weights, meta=True)), where=weights)
    everything = [*outline.parameters(), *outline.buffers()]
    if weights is not None:
        saved = {id(value) for value in outline.state_dict(keep_vars=True).values()}
        everything = [value for value in everything if id(value) not in saved]
    size = sum(value.numel() * value.element_size() for value in everything)
    if size > MAX_BYTES:
        raise InputError(
            f"{described}: asks for {size:,} bytes that no file of weights bears out; at most {MAX_BYTES:,} are made"
        )
    with blamed_on(described):
        check(outline)
    model = build()
    if weights is not None:
        fill(model, convert(read_weights(weights)), where=weights)
    return model


def fill(model: nn.Module, state: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Put weights into a model; see ``check_fit``."""
    check_fit(model, state, where=where)
    model.load_state_dict(state)


def filled(make: Callable[[], _Module], arrays: Mapping[str, np.ndarray], *, where: Path | str) -> _Module:
    """What ``make`` builds, with the weights of a file; nothing is allocated for what a file merely says.

    Raises:
        InputError: the weights are of another architecture.
        NotFiniteError: they are not finite.
    """
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    with torch.device("meta"):
        check_fit(make(), state, where=where)
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NotFiniteError(f"{where}: {name}: expected finite numbers; the weights are damaged")
    made = make()
    made.load_state_dict(state)
    return made


def check_fit(model: nn.Module, state: Mapping[str, Tensor], *, where: Path | str) -> None:
    """See that weights fit a model, which may be on the meta device: every key, every shape and the kind of number.

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
    problems += [
        f"{key} is {state[key].dtype}, expected {own[key].dtype}"
        for key in own
        if key in state and state[key].is_floating_point() != own[key].is_floating_point()
    ]
    if problems:
        raise other_architecture(problems, where=where)
