"""What a batch is told of its rows besides images and words: findings, study, patient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import Row

VECTORS = ("findings", "text_findings")
"""Columns of numbers, one for each finding: 0 absent, above 0 present, -1 or nothing uncertain."""
NAMES = ("study", "patient")
"""Columns of words or numbers that say which rows belong together."""


def facts_of(rows: Sequence[Row]) -> dict[str, Tensor]:
    """The columns above that every row has, as tensors: vectors (b, k) float32, names (b,) int64.

    Equal names give equal numbers in every batch and on every process; they are no identities to be read back from, but
    short ones can be guessed.

    Args:
        rows: of one batch.

    Raises:
        InputError: vectors of different lengths, or something that is no number; it names the row.
    """
    found: dict[str, Tensor] = {}
    for name in VECTORS:
        if all(row.meta.get(name) is not None for row in rows):
            vectors = [_vector(row, name) for row in rows]
            odd = next((place for place, vector in enumerate(vectors) if len(vector) != len(vectors[0])), None)
            if odd is not None:
                raise InputError(
                    f"{rows[odd].key}: {name}: expected {len(vectors[0])} numbers, as in {rows[0].key}, got "
                    f"{len(vectors[odd])}"
                )
            found[name] = torch.tensor(vectors, dtype=torch.float32)
    for name in NAMES:
        if all(row.meta.get(name) not in (None, "") for row in rows):
            numbers = [hash_int(str(row.meta[name]), salt=name) >> 1 for row in rows]
            found[name] = torch.tensor(numbers, dtype=torch.int64)
    return found


def _vector(row: Row, name: str) -> list[float]:
    value = row.meta[name]
    parts = value.split() if isinstance(value, str) else value
    if isinstance(parts, (int, float)) and not isinstance(parts, bool):
        parts = [parts]
    if not isinstance(parts, (list, tuple, np.ndarray)) or not len(parts):
        raise InputError(f"{row.key}: {name}: expected numbers, such as [1, 0, -1] or '1 0 -1', got {value!r}")
    try:
        return [math.nan if part is None else float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{row.key}: {name}: expected numbers, got {value!r}") from None
