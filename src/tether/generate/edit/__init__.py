"""Images and clips changed by words: restyled, morphed, an object replaced."""

from __future__ import annotations

from tether.generate.edit.morph import DirectionalLoss, Morpher, StabilityLoss
from tether.generate.edit.style import SemanticStyler, StyleResult, StyleWeights
from tether.generate.edit.style_goals import FeatureContent, thresholded_patch_loss, tv4
from tether.generate.edit.style_net import StyleNetCanvas
from tether.losses.directional import directional_loss

__all__ = [
    "DirectionalLoss",
    "FeatureContent",
    "Morpher",
    "SemanticStyler",
    "StabilityLoss",
    "StyleNetCanvas",
    "StyleResult",
    "StyleWeights",
    "directional_loss",
    "thresholded_patch_loss",
    "tv4",
]
