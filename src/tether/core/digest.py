"""A short name for a model's exact weights, so that vectors of one model are never compared with another's."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

BYTES = 16


def model_digest(model: nn.Module) -> str:
    """32 hex digits of BLAKE2b over every weight's name, type, shape and bytes, and how pictures are prepared.

    Equal for every copy of the same weights on any device; about one second for a gigabyte of weights.
    """
    found = hashlib.blake2b(digest_size=BYTES)
    found.update(repr(getattr(model, "image_spec", None)).encode())
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        found.update(f"\x00{name}\x00{plain.dtype}\x00{tuple(plain.shape)}\x00".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
