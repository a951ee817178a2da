"""What a part has learnt as one safetensors file: arrays and plain settings, nothing pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tether.core.atomic_io import atomic_path, parse_json
from tether.core.errors import InputError, WriteError
from tether.core.model_digest import model_digest
from tether.core.printable import quoted
from tether.core.tensor_file import sort_metadata

SHOWN = 12
"""Digits of a digest that an error names."""


def wide_array(value: Tensor) -> np.ndarray:
    """A tensor on the CPU as an array, at least float32: NumPy has no bfloat16."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32)).cpu().numpy()


def write_state(path: Path | str, *, format: str, settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write arrays and JSON-able settings atomically.

    Args:
        path: the file.
        format: what it is, with a version; ``read_state`` asks for the same.
        settings: plain values; arrays and their numbers are written as lists and numbers.
        arrays: arrays or numbers by name.

    Raises:
        InputError: a setting that is no plain value.
        WriteError: the file cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # ascontiguousarray makes a number a vector of one, so 0-d arrays are copied instead.
    plain = {name: np.array(value, order="C") for name, value in arrays.items()}
    try:
        written = json.dumps(dict(settings), default=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: expected plain values: {error}") from error
    with atomic_path(Path(path)) as temporary:
        try:
            digest = _digest(written, plain)
            save_file(plain, temporary, metadata={"format": format, "settings": written, "digest": digest})
            sort_metadata(temporary)
        except SafetensorError as error:
            raise WriteError(Path(path), error) from error


def _digest(settings: str, arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, value in sorted(arrays.items()):
        total.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode() + value.tobytes())
    return total.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    raise TypeError(f"got {value!r:.100}")


def read_state(
    path: Path | str, *, what: str, format: str, arrays: frozenset[str] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what ``write_state`` wrote.

    Args:
        path: the file.
        what: whose state it is, for the error.
        format: what it must be.
        arrays: the names it must hold; None takes any.

    Returns:
        Settings and arrays.

    Raises:
        InputError: no such file, not a safetensors file, another format, settings that cannot be read, or arrays or
            settings that are not those that were written.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # SafetensorError, or a type of number that NumPy has not
        raise InputError(f"{path}: not a safetensors file: {error!s:.300}") from error
    if metadata.get("format") != format or arrays not in (None, set(found)):
        got = f"{quoted(metadata.get('format'))} with {quoted(sorted(found), most=200)}"
        raise InputError(f"{path}: expected the state of a {what} ({format}), got {got}")
    written = metadata.get("settings", "")
    settings = parse_json(written, where=f"{path}: settings")
    if not isinstance(settings, dict):
        raise InputError(f"{path}: settings: expected values by name, got {settings!r:.100}")
    if metadata.get("digest", digest := _digest(written, found)) != digest:
        raise InputError(f"{path}: damaged: it does not hold what was written; fit and save it again")
    return settings, found


def encoder_digest(encoder: Any, digest: str | None) -> str | None:
    """The digest of an encoder's weights, or the one given where the encoder is not at hand."""
    return digest if encoder is None else model_digest(encoder)


def known_digest(digest: str | None) -> str:
    """The digest that ``save`` writes; without it a classifier of embeddings would mean nothing."""
    if digest is None:
        raise InputError("save: expected the encoder or its digest, for the state fits the embeddings of one encoder")
    return digest


def check_encoder(
    path: Path | str, *, recorded: str, encoder: Any, digest: str | None, name: str = "an encoder"
) -> None:
    """See that a saved classifier meets the encoder it was fitted on, given itself or by its digest."""
    if (encoder is None) == (digest is None):
        raise InputError("load: expected either the encoder or its digest, for the state fits one encoder only")
    given = encoder_digest(encoder, digest)
    if given != recorded:
        raise InputError(
            f"{path}: was fitted on {name} with digest {recorded[:SHOWN]}, not on this one of digest "
            f"{str(given)[:SHOWN]}; give the one that it was fitted on, or fit it again"
        )
