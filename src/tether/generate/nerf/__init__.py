"""Scenes in space as fields with codes for shape and appearance: learnt from views, found in one, edited by words."""

from __future__ import annotations

from tether.generate.nerf.editor import FieldEditor
from tether.generate.nerf.field import CodeMapper, Codes, ConditionalField
from tether.generate.nerf.invert import InvertedView, invert_view
from tether.generate.nerf.rays import March, RaysSeen, march_rays, patch_grid
from tether.generate.nerf.recolour import recolour
from tether.generate.nerf.scenes import FieldScenes, SceneView, learn_scenes
from tether.generate.nerf.volume import Rendered, positional_encoding, sample_pdf, volume_render

__all__ = [
    "CodeMapper",
    "Codes",
    "ConditionalField",
    "FieldEditor",
    "FieldScenes",
    "InvertedView",
    "March",
    "RaysSeen",
    "Rendered",
    "SceneView",
    "invert_view",
    "learn_scenes",
    "march_rays",
    "patch_grid",
    "positional_encoding",
    "recolour",
    "sample_pdf",
    "volume_render",
]
