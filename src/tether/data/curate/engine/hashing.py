"""64-bit names of keys and contents, equal on every machine: what duplicates are found by in bounded memory."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt64

from tether.core.hash_rng import GOLDEN, mixed

_NUMBER = "#[0-9]+$"


def hashed(column: pa.Array) -> UInt64[np.ndarray, " n"]:
    """BLAKE2b, 64 bits, of every string or every row of bytes; a null counts as empty.

    Two different values are taken for equal with a chance of 2^-64: among a billion there is one such couple in 37
    pools.
    """
    hasher = hashlib.blake2b
    values = column.cast(pa.large_binary()).fill_null(b"").to_pylist()
    return np.frombuffer(b"".join([hasher(value, digest_size=8).digest() for value in values]), np.uint64)


def combined(first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """One name for two, in this order."""
    return mixed(first * GOLDEN + second)


def numbered(keys: pa.StringArray) -> np.ndarray:
    """(n,) bool: whether a key ends in ``#`` and a number."""
    return np.asarray(pc.match_substring_regex(keys, _NUMBER))


def row_keys(keys: pa.StringArray) -> pa.StringArray:
    """The keys of the rows that pairs belong to: what stands before ``#`` and the caption's number (``pool.explode``).

    Exact for the keys of pairs: a row whose own key ends in ``#`` and a number has the caption's number behind it.
    """
    return pc.replace_substring_regex(keys, _NUMBER, "")
