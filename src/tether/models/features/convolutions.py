"""open_clip's own residual network, whose map an attention pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tether.models.features.pooling import OtherPooling
from tether.models.features.sealed import AttendedMap


def modified_resnet(tower: Any, *, pixels: Callable[[Tensor], Tensor]) -> AttendedMap:
    """A ``ModifiedResNet``.

    Args:
        tower: the network.
        pixels: normalises images.
    """
    pool = tower.attnpool

    def states(image: Tensor) -> Tensor:
        x = tower.stem(pixels(image))
        for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            x = layer(x)
        return x

    def place_values(x: Tensor) -> Tensor:
        return pool.c_proj(pool.v_proj(x + pool.positional_embedding[1:].to(x.dtype)))

    return AttendedMap(
        prefix=0,
        width=pool.v_proj.in_features,
        pooling=OtherPooling(pool, "attention over a map"),
        projections=(),
        sealed="map",
        what=type(tower).__name__,
        states=states,
        place_values=place_values,
    )
