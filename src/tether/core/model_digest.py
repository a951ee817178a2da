"""Digests: of models, weights and behaviour, so that vectors of two are never compared; of files; of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tether.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

BYTES = 16


def model_digest(model: nn.Module, *, parts: Sequence[str] | None = None) -> str:
    """32 hex digits of BLAKE2b over every weight's name, type, shape and bytes, and what decides its outputs besides.

    That is how images are prepared, and what ``behaviour()`` says in plain values for each module inside that has it
    (encoders of other libraries and composed ones do). Equal for every copy of the same weights on any device; about
    one second for a gigabyte of weights.

    Args:
        model: any module.
        parts: dotted names of its modules and parameters whose weights count; None for all.
    """
    import torch

    while getattr(model, "same_rows", False):  # around a model whose rows it gives as they are
        model = model.get_submodule("model")
    found = hashlib.blake2b(digest_size=BYTES)
    found.update(repr(getattr(model, "image_spec", None)).encode())
    for name, part in model.named_modules():
        behaviour = cast("Callable[[], dict[str, Any]] | None", getattr(part, "behaviour", None))
        if behaviour is not None:
            found.update(f"\x00{name}\x00{json.dumps(behaviour(), sort_keys=True, default=str)}".encode())
    for name, value in sorted(model.state_dict().items()):
        if parts is not None and not any(name == part or name.startswith(f"{part}.") for part in parts):
            continue
        plain = value.detach().cpu().contiguous()
        found.update(f"\x00{name}\x00{plain.dtype}\x00{tuple(plain.shape)}\x00".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        InputError: no such file, or a device or a pipe, which may never end.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, or not a regular one")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts in order, each with its length before it."""
    found = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()


def encoder_digest(model: object) -> str:
    """``model_digest`` of a module; of an encoder that shows no weights, the digest of what it is."""
    from torch import nn

    if isinstance(model, nn.Module):
        return model_digest(model)
    named = (type(model).__qualname__, getattr(model, "dim", None))
    return hashlib.blake2b(repr(named).encode(), digest_size=BYTES).hexdigest()
