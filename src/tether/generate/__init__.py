"""Images made and steered: canvases painted towards goals, and the noise of a frozen generator moved to a reward."""

from __future__ import annotations

from tether.generate.goals import Aim, ClipGoal, DirectionAim, Goal, Moment, PlainView, RandomViews, TextAim
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.painting import Frame, Painting, PaintingProgress, paint
from tether.generate.prompt_reward import PromptReward

__all__ = [
    "Aim",
    "ClipGoal",
    "DirectionAim",
    "Frame",
    "Goal",
    "Moment",
    "NoiseResult",
    "NoiseStep",
    "NormRegularizer",
    "Painting",
    "PaintingProgress",
    "PlainView",
    "PromptReward",
    "RandomViews",
    "Reward",
    "TextAim",
    "optimize_noise",
    "paint",
]
