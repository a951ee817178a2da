"""Images made and steered: makers of images from texts, what leads them, edits, new words, and noise moved."""

from __future__ import annotations

from tether.generate.autoregress.generator import VarGenerator
from tether.generate.diffuse.nag import CFG, NAG, nag
from tether.generate.diffuse.nag_guidance import NAGGuidance
from tether.generate.diffuse.pipelines import guided_pipeline, negative_states
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.edit.video import EditResult, VideoEditor
from tether.generate.invert.directional import DirectionalToken
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.prompt_reward import PromptReward
from tether.generate.registry import GENERATORS
from tether.generate.text_generator import TextGenerator
from tether.generate.training import train_generator

__all__ = [
    "CFG",
    "GENERATORS",
    "NAG",
    "DirectionalToken",
    "EditResult",
    "NAGGuidance",
    "NoiseResult",
    "NoiseStep",
    "NormRegularizer",
    "PromptReward",
    "Reward",
    "TextDiffusion",
    "TextGenerator",
    "VarGenerator",
    "VideoEditor",
    "guided_pipeline",
    "nag",
    "negative_states",
    "optimize_noise",
    "train_generator",
]
