"""A run of a model that reads latents, made of one that reads pixels: ``model: {load: NAME, codec: FILE}``."""

from __future__ import annotations

from tether.models.latent.clip import init_from_pixel_clip
from tether.models.latent.codecs import load_codec
from tether.training.steps.module import Encoder


class OnLatents:
    """A ``ModelChange``: a copy that reads the latents of a codec."""

    of_new = True

    def __call__(self, encoder: Encoder, settings: object, *, seed: int) -> Encoder:
        """See ``ModelChange``."""
        return init_from_pixel_clip(encoder, codec=load_codec(str(settings)), seed=seed)
