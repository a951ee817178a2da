"""Images made and steered: canvases painted towards goals, makers from texts, what leads them, edits, and noise."""

from __future__ import annotations

from tether.generate.autoregress.generator import VarGenerator
from tether.generate.diffuse.nag import CFG, NAG, nag
from tether.generate.diffuse.nag_guidance import NAGGuidance
from tether.generate.diffuse.pipelines import guided_pipeline, negative_states
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.edit.video import EditResult, VideoEditor
from tether.generate.goals import Aim, ClipGoal, DirectionAim, Goal, Moment, PlainView, RandomViews, TextAim
from tether.generate.invert.directional import DirectionalToken
from tether.generate.nerf import (
    CodeMapper,
    Codes,
    ConditionalField,
    FieldEditor,
    FieldScenes,
    invert_view,
    learn_scenes,
    recolour,
    volume_render,
)
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.painting import Frame, Painting, PaintingProgress, paint
from tether.generate.prompt_reward import PromptReward
from tether.generate.registry import GENERATORS
from tether.generate.text_generator import TextGenerator
from tether.generate.training import train_generator

__all__ = [
    "CFG",
    "GENERATORS",
    "NAG",
    "Aim",
    "ClipGoal",
    "CodeMapper",
    "Codes",
    "ConditionalField",
    "DirectionAim",
    "DirectionalToken",
    "EditResult",
    "FieldEditor",
    "FieldScenes",
    "Frame",
    "Goal",
    "Moment",
    "NAGGuidance",
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
    "TextDiffusion",
    "TextGenerator",
    "VarGenerator",
    "VideoEditor",
    "guided_pipeline",
    "invert_view",
    "learn_scenes",
    "nag",
    "negative_states",
    "optimize_noise",
    "paint",
    "recolour",
    "train_generator",
    "volume_render",
]
