"""What the parts of this room ask of embedded pairs before they trust them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError


def units(rows: Float[np.ndarray, "n d"], *, name: str) -> Float[np.ndarray, "n d"]:
    """Rows of length 1, float64.

    Raises:
        InputError: not (n, d) with n >= 1, NaN or infinity, or a row of zeros (it names the first).
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or not all(table.shape):
        raise InputError(f"{name}: expected embeddings (n, d), got shape {table.shape}")
    for wrong, what in ((~np.isfinite(table).all(axis=1), "hold NaN or infinity"), (~table.any(axis=1), "are zero")):
        if wrong.any():
            first = int(wrong.argmax())
            raise InputError(f"{name}: {int(wrong.sum())} of {len(table)} rows {what}, the first is row {first}")
    scaled = table / np.abs(table).max(axis=1, keepdims=True)  # so that no square under- or overflows
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def paired_units(
    images: Float[np.ndarray, "n d"], *, texts: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Both sides of n pairs with rows of length 1.

    Raises:
        InputError: as ``units``, or shapes that differ.
    """
    picture, title = units(images, name="images"), units(texts, name="texts")
    if picture.shape != title.shape:
        raise InputError(f"expected as many images as texts, of one width, got {picture.shape} and {title.shape}")
    return picture, title
