"""Images made and steered: makers of images from texts, and noise of a frozen generator moved toward a reward."""

from __future__ import annotations

from tether.generate.autoregress.generator import VarGenerator
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.prompt_reward import PromptReward
from tether.generate.registry import GENERATORS
from tether.generate.text_generator import TextGenerator
from tether.generate.training import train_generator

__all__ = [
    "GENERATORS",
    "NoiseResult",
    "NoiseStep",
    "NormRegularizer",
    "PromptReward",
    "Reward",
    "TextGenerator",
    "VarGenerator",
    "optimize_noise",
    "train_generator",
]
