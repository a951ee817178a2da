"""The kinds of model that ``tether.load`` returns, by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tether.models.dual import Clip
from tether.models.wrapped_encoders import OpenClipEncoder, TransformersEncoder

MODELS: Mapping[str, type[nn.Module]] = {
    "clip": Clip,
    "open_clip": OpenClipEncoder,
    "transformers": TransformersEncoder,
}
"""Each is a ``core.protocols.DualEncoder``: our own towers, and what wraps the others."""
