"""A model as a person gives it: loaded, or by name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tether.core.geometry import check_finite
from tether.core.protocols import DualEncoder
from tether.models.load import load

Model = DualEncoder | str | Path


def opened(model: Model, *, device: str = "auto") -> tuple[DualEncoder, str]:
    """The model and what it is called; one that is given as a module stays on its device.

    Raises:
        InputError: no such model, or weights that are not finite.
    """
    if isinstance(model, (str, Path)):
        loaded = cast(DualEncoder, load(model, device=device))
        check_finite(loaded, where=str(model))
        return loaded, str(model)
    return model, type(model).__name__
