"""Images made and steered: canvases painted towards goals, makers from texts, what leads them, edits, and noise."""

from __future__ import annotations

from tether.generate.autoregress.generator import VarGenerator
from tether.generate.diffuse.nag import CFG, NAG, nag
from tether.generate.diffuse.nag_guidance import NAGGuidance
from tether.generate.diffuse.pipelines import guided_pipeline, negative_states
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.draw.implicit import FinerField, layer_schedule
from tether.generate.edit.guided_inversion import FICE_WEIGHTS, GuidedEdit, GuidedInversion
from tether.generate.edit.kept_parts import PartMaps
from tether.generate.edit.morph import DirectionalLoss, Morpher, StabilityLoss
from tether.generate.edit.segmenter_parser import SegmenterParser
from tether.generate.edit.style import SemanticStyler, StyleResult, StyleWeights
from tether.generate.edit.video import EditResult, VideoEditor
from tether.generate.goals import Aim, ClipGoal, DirectionAim, Goal, Moment, PlainView, RandomViews, TextAim, ViewMaker
from tether.generate.invert.bank import ImageBank, local_procrustes
from tether.generate.invert.directional import DirectionalToken
from tether.generate.invert.field_fit import fit_field
from tether.generate.invert.implicit import ColorViews, Inversion, InversionAim
from tether.generate.noise import NoiseResult, NoiseStep, NormRegularizer, Reward, optimize_noise
from tether.generate.painting import Frame, Painting, PaintingProgress, paint
from tether.generate.prompt_reward import PromptReward
from tether.generate.registry import GENERATORS
from tether.generate.text_generator import TextGenerator
from tether.generate.training import train_generator

__all__ = [
    "CFG",
    "FICE_WEIGHTS",
    "GENERATORS",
    "NAG",
    "Aim",
    "ClipGoal",
    "ColorViews",
    "DirectionAim",
    "DirectionalLoss",
    "DirectionalToken",
    "EditResult",
    "FinerField",
    "Frame",
    "Goal",
    "GuidedEdit",
    "GuidedInversion",
    "ImageBank",
    "Inversion",
    "InversionAim",
    "Moment",
    "Morpher",
    "NAGGuidance",
    "NoiseResult",
    "NoiseStep",
    "NormRegularizer",
    "Painting",
    "PaintingProgress",
    "PartMaps",
    "PlainView",
    "PromptReward",
    "RandomViews",
    "Reward",
    "SegmenterParser",
    "SemanticStyler",
    "StabilityLoss",
    "StyleResult",
    "StyleWeights",
    "TextAim",
    "TextDiffusion",
    "TextGenerator",
    "VarGenerator",
    "VideoEditor",
    "ViewMaker",
    "fit_field",
    "guided_pipeline",
    "layer_schedule",
    "local_procrustes",
    "nag",
    "negative_states",
    "optimize_noise",
    "paint",
    "train_generator",
]
