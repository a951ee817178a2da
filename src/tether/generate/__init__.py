"""Pictures made and steered: the noise that a frozen generator starts from, moved toward a reward."""

from __future__ import annotations

from tether.generate.clip_reward import ClipReward
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise

__all__ = ["ClipReward", "NoiseResult", "NoiseStep", "NormRegularizer", "Reward", "optimize_noise"]
