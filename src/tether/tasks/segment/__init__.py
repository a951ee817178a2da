"""Where in the image is it: masks from words.

``SEGMENTERS`` give every pixel of images of any size a class. ``HEADS`` has ``parts``, which takes images of the
model's size: it finds the foreground, the patches that speak for the image's class.
"""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import TaskHead
from tether.tasks.segment.dinoiser import DinoiserSegmenter
from tether.tasks.segment.excel import ExcelSegmenter
from tether.tasks.segment.mask_heads import MaftSegmenter, MtaSegmenter
from tether.tasks.segment.maskclip import TokenSegmenter, ValueSegmenter
from tether.tasks.segment.ovseg import OvsegSegmenter
from tether.tasks.segment.parts import PartsSegmenter
from tether.tasks.segment.segmenter import DenseSegmenter, Segmenter
from tether.tasks.segment.sharp import SharpSegmenter

HEADS: Mapping[str, type[TaskHead]] = {"parts": PartsSegmenter}
"""Foreground of each image's own class."""

SEGMENTERS: Mapping[str, type[Segmenter]] = {
    "tokens": TokenSegmenter,
    "values": ValueSegmenter,
    "dinoiser": DinoiserSegmenter,
    "excel": ExcelSegmenter,
    "ovseg": OvsegSegmenter,
    "mta": MtaSegmenter,
    "maft": MaftSegmenter,
}
"""Every segmenter by name. ``SharpSegmenter``, which needs a file, is ``tether segment --sharpen``."""

__all__ = [
    "HEADS",
    "SEGMENTERS",
    "DenseSegmenter",
    "DinoiserSegmenter",
    "ExcelSegmenter",
    "MaftSegmenter",
    "MtaSegmenter",
    "OvsegSegmenter",
    "PartsSegmenter",
    "Segmenter",
    "SharpSegmenter",
    "TokenSegmenter",
    "ValueSegmenter",
]
