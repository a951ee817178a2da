"""The kinds of model that ``tether.load`` returns, by name."""

from __future__ import annotations

from torch import nn

from tether.core.registry import Registry

MODELS: Registry[nn.Module] = Registry(
    "models",
    {
        "clip": "tether.models.towers.clip:Clip",
        "open_clip": "tether.models.encoders.wrapped:OpenClipEncoder",
        "transformers": "tether.models.encoders.wrapped:TransformersEncoder",
        "composed": "tether.models.composed.encoder:ComposedEncoder",
    },
)
"""Each is a ``core.protocols.DualEncoder``: our own towers, and what wraps the others."""
