"""Clipping norms under differential privacy: a rule that moves them, and its place in Opacus' optimiser."""

from __future__ import annotations

from tether.optim.private.counted_clip import CountedClip, attach_to_opacus, clip_factors, noisy_clipped_share
from tether.optim.private.moo import MooClipSchedule, gradient_noise

__all__ = [
    "CountedClip",
    "MooClipSchedule",
    "attach_to_opacus",
    "clip_factors",
    "gradient_noise",
    "noisy_clipped_share",
]
