"""Random draws that depend on a row's key alone, so any engine, order or shard makes the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_SCALE = 2.0**-53


def hash_int(key: str, *, seed: int = 0, salt: str = "") -> int:
    """A 64-bit integer drawn from BLAKE2b of seed, salt and key; stable across versions and machines."""
    digest = hashlib.blake2b(f"{seed}\x00{salt}\x00{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hash_uniform(keys: Iterable[str], *, seed: int = 0, salt: str = "") -> np.ndarray:
    """One float64 in [0, 1) for each key."""
    return np.array([(hash_int(key, seed=seed, salt=salt) >> 11) * _SCALE for key in keys], dtype=np.float64)
