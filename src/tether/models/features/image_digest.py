"""What a head is bound to: all that gives the embedding of an image."""

from __future__ import annotations

from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.data.features.cache import feature_key
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.composed.encoder import ComposedEncoder


def image_digest(model: DualEncoder) -> str:
    """32 hex digits for the image side of a model, with the map of a composed encoder; texts do not count.

    A head stays valid when the text side, or the logit scale, is trained further.
    """
    if isinstance(model, CachedEncoder):
        return image_digest(model.inside)
    own = side_digest(model, "image")  # pyrefly: ignore - every model of tether.load is a module
    if not isinstance(model, ComposedEncoder):
        return own
    return feature_key(own, model_digest(model.parts.image_map)).hex()
