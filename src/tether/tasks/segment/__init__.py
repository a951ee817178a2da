"""Where in the image is it: masks from words."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import TaskHead
from tether.tasks.segment.parts import PartsSegmenter

HEADS: Mapping[str, type[TaskHead]] = {"parts": PartsSegmenter}
"""Every segmenter by name."""
