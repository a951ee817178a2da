"""What the functions of this package ask of a table of embeddings before they trust it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError


def checked_rows(
    rows: Float[np.ndarray, "n d"], *, name: str, least: int = 2, width: int | None = None, zeros: bool = False
) -> Float[np.ndarray, "n d"]:
    """The same rows in float64, each finite and, unless zeros are allowed, of length above zero.

    Args:
        rows: raw embeddings, one a row.
        name: what they are called in an error message.
        least: smallest allowed n.
        width: the d that is expected; None takes any.
        zeros: allow rows of length zero.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise InputError(f"{name}: expected embeddings (n, d), got shape {table.shape}")
    if len(table) < least:
        raise InputError(f"{name}: expected at least {least} rows, got {len(table)}")
    if width is not None and table.shape[1] != width:
        raise InputError(f"{name}: expected rows of {width} coordinates, got shape {table.shape}")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise InputError(f"{name}: {len(bad)} of {len(table)} rows hold NaN or infinity, the first is row {bad[0]}")
    empty = np.flatnonzero(~table.any(axis=1))
    if len(empty) and not zeros:
        raise InputError(f"{name}: {len(empty)} of {len(table)} rows are zero, the first is row {empty[0]}")
    return table


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows scaled to length 1; none may be zero."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def checked_unit_rows(rows: Float[np.ndarray, "n d"], *, name: str) -> Float[np.ndarray, "n d"]:
    """The same rows, at least one, checked and scaled to length 1."""
    table = checked_rows(rows, name=name, least=1)
    scaled = table / np.abs(table).max(axis=1, keepdims=True)  # so that no square under- or overflows
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
