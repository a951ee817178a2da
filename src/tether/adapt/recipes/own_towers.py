"""Whether one side of a model can move while the other rests, asked before data are read."""

from __future__ import annotations

from typing import cast

from tether.adapt.finetune.towers import tower_parameters
from tether.adapt.recipes.refusals import refused
from tether.core.protocols import DualEncoder
from tether.models.dual import Clip
from tether.models.wrapped_encoders import WrappedEncoder


def check_own_towers(model: DualEncoder) -> None:
    """Refuse a model whose sides share parameters, as ``move_`` does for one side; the model is left as it is."""
    image, text = (tower_parameters(cast("Clip | WrappedEncoder", model), side=side) for side in ("image", "text"))
    if shared := [name for name in image if name in text]:
        raise refused("shared towers", found=shared[0])
