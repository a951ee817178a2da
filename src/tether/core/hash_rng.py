"""Random draws that depend on a row's key alone, so any engine, order or shard makes the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the step of splitmix64
_SCALE = 2.0**-53


def hash_int(key: str, *, seed: int = 0, salt: str = "") -> int:
    """A 64-bit integer drawn from BLAKE2b of seed, salt and key; stable across versions and machines."""
    digest = hashlib.blake2b(f"{seed}\x00{salt}\x00{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hash_uniform(keys: Iterable[str], *, seed: int = 0, salt: str = "") -> np.ndarray:
    """One float64 in [0, 1) for each key."""
    return np.array([(hash_int(key, seed=seed, salt=salt) >> 11) * _SCALE for key in keys], dtype=np.float64)


def mixed(words: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Every word's bits stirred as splitmix64 does (Steele, Lea, Flood 2014): a bijection of 64 bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # wraps around
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
