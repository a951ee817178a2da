"""Latents of a run's images, made once: kept in the feature cache and read there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tether.core.errors import WriteError
from tether.core.model_digest import model_digest
from tether.data.features.cache import FeatureCache, feature_key
from tether.models.composed.cached import pixel_keys
from tether.models.latent.codec import ScaledCodec
from tether.models.latent.tower import LatentTower
from tether.models.towers.clip import Clip

_log = logging.getLogger("tether.training")


def keep_latents_(model: object, *, against: str | None) -> None:
    """Let a tower on latents read those of pixels from the cache, where its images are the same each time they come.

    Args:
        model: of a run.
        against: why they are not the same; None where they are.
    """
    if not isinstance(model, Clip) or not isinstance(tower := model.visual, LatentTower) or tower.codec is None:
        return
    if against is None:
        kept = KeptLatents(tower.codec, size=tower.config.latent_size)
        try:
            kept.cache.check()
            tower.kept = kept
            return
        except WriteError as error:
            against = f"the cache cannot be written to: {error} (TETHER_CACHE names its folder)"
    _log.warning("the latents of each batch are made anew: %s", against)


class KeptLatents:
    """Latents by the codec that makes them and the pixels that they are of, for runs and processes alike.

    Attributes:
        cache: where they lie, float32.
        computed: how many had to be made.
    """

    def __init__(self, codec: ScaledCodec, *, size: tuple[int, int]) -> None:
        """Args: codec: makes them. size: rows and columns of a latent."""
        self.shape = (codec.latent.channels, *size)
        digest = feature_key("latents", repr(codec.settings), model_digest(codec)).hex()
        self.cache = FeatureCache.of(digest, width=self.shape[0] * size[0] * size[1])
        self.computed = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptLatents:
        """Copies of a model read the same cache."""
        return self

    def __call__(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents of (b, 3, h, w) uint8 pixels; those that are not kept are made by ``encode``."""
        keys = pixel_keys(pixels)
        rows, there = self.cache.get(keys)
        missing = [number for number, found in enumerate(there) if not found]
        if missing:
            with torch.no_grad():
                made = encode(pixels[missing]).float().flatten(1).cpu().numpy()
            self.computed += len(missing)
            self.cache.put([keys[number] for number in missing], made)
            rows[missing] = made
        return torch.from_numpy(rows).view(len(pixels), *self.shape).to(pixels.device)
