"""What the parts of this package ask of embedded pairs before they trust them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.space.validation import checked_unit_rows


def paired_units(
    images: Float[np.ndarray, "n d"], *, texts: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Both sides of n pairs with rows of length 1."""
    image, title = checked_unit_rows(images, name="images"), checked_unit_rows(texts, name="texts")
    if image.shape != title.shape:
        raise InputError(f"expected as many images as texts, of one width, got {image.shape} and {title.shape}")
    return image, title
