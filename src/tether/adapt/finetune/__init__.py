"""Trained weights moved a little further, without losing what they knew."""

from __future__ import annotations

from tether.adapt.finetune.clip_refine import ClipRefineLoss
from tether.adapt.finetune.refine import Refined, RefineStep, refine_

__all__ = ["ClipRefineLoss", "RefineStep", "Refined", "refine_"]
