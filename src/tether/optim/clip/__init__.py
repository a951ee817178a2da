"""Clippers: what bounds the gradients between the backward pass and the optimiser's step.

Each works in anyone's loop::

    clipper = ZClip()
    loss.backward()
    report = clipper.clip_(model.named_parameters(), step=step)
    if not report.skip:
        optimizer.step()
"""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import GradClipper
from tether.optim.clip.adagc import AdaGC
from tether.optim.clip.agc import AGC, AGCReport, adaptive_clip_grad_
from tether.optim.clip.autoclip import AutoClip
from tether.optim.clip.base import Clipper, NonFiniteGradientError, TensorClipper, UniformClipper
from tether.optim.clip.global_norm import GlobalNorm, NoClip
from tether.optim.clip.zclip import ZClip

CLIPPERS: Mapping[str, type[GradClipper]] = {
    "none": NoClip,
    "global_norm": GlobalNorm,
    "zclip": ZClip,
    "autoclip": AutoClip,
    "adagc": AdaGC,
    "agc": AGC,
}
"""Every clipper by the name a recipe uses."""

__all__ = [
    "AGC",
    "CLIPPERS",
    "AGCReport",
    "AdaGC",
    "AutoClip",
    "Clipper",
    "GlobalNorm",
    "NoClip",
    "NonFiniteGradientError",
    "TensorClipper",
    "UniformClipper",
    "ZClip",
    "adaptive_clip_grad_",
]
