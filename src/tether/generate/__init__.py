"""Images made and steered: the noise that a frozen generator starts from, moved toward a reward."""

from __future__ import annotations

from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.prompt_reward import PromptReward

__all__ = ["NoiseResult", "NoiseStep", "NormRegularizer", "PromptReward", "Reward", "optimize_noise"]
