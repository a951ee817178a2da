"""Images made and steered: canvases painted towards goals, makers from texts, what leads them, edits, and noise."""

from __future__ import annotations

from tether.core.callable_module import make_callable
from tether.core.torch_slerp import slerp
from tether.generate.autoregress.generator import VarGenerator
from tether.generate.diffuse.attention_store import AttentionStore
from tether.generate.diffuse.ddim import ddim_step
from tether.generate.diffuse.nag import CFG, NAG, nag
from tether.generate.diffuse.nag_guidance import NAGGuidance
from tether.generate.diffuse.pipeline_diffusion import PipelineDiffusion
from tether.generate.diffuse.pipelines import guided_pipeline, negative_states
from tether.generate.diffuse.text_diffusion import TextDiffusion
from tether.generate.draw import CANVASES, Canvas
from tether.generate.draw.implicit import FinerField, layer_schedule
from tether.generate.edit.attention_maps import blend, fuse_frames, inject, token_mask
from tether.generate.edit.frames import read_frames, write_frames
from tether.generate.edit.guided_inversion import FICE_WEIGHTS, GuidedEdit, GuidedInversion
from tether.generate.edit.kept_parts import PartMaps
from tether.generate.edit.morph import DirectionalLoss, Morpher, StabilityLoss
from tether.generate.edit.reference import ReferencePrompt, train_referenced
from tether.generate.edit.segmenter_parser import SegmenterParser
from tether.generate.edit.style import SemanticStyler, StyleResult, StyleWeights
from tether.generate.edit.video import EditResult, VideoEditor
from tether.generate.goals import Aim, ClipGoal, DirectionAim, Goal, Moment, PlainView, RandomViews, TextAim, ViewMaker
from tether.generate.invert.bank import ImageBank, local_procrustes
from tether.generate.invert.directional import DirectionalToken, denoising_loss, learn_word_, token_norm_stats
from tether.generate.invert.field_fit import fit_field
from tether.generate.invert.implicit import ColorViews, Inversion, InversionAim
from tether.generate.likeness import LikenessGoal, text_attention
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
from tether.optim.spherical import SphericalSGD

make_callable(__name__, "tether.workflows.generate:generate")

__all__ = [
    "CANVASES",
    "CFG",
    "FICE_WEIGHTS",
    "GENERATORS",
    "NAG",
    "Aim",
    "AttentionStore",
    "Canvas",
    "ClipGoal",
    "CodeMapper",
    "Codes",
    "ColorViews",
    "ConditionalField",
    "DirectionAim",
    "DirectionalLoss",
    "DirectionalToken",
    "EditResult",
    "FieldEditor",
    "FieldScenes",
    "FinerField",
    "Frame",
    "Goal",
    "GuidedEdit",
    "GuidedInversion",
    "ImageBank",
    "Inversion",
    "InversionAim",
    "LikenessGoal",
    "Moment",
    "Morpher",
    "NAGGuidance",
    "NoiseResult",
    "NoiseStep",
    "NormRegularizer",
    "Painting",
    "PaintingProgress",
    "PartMaps",
    "PipelineDiffusion",
    "PlainView",
    "PromptReward",
    "RandomViews",
    "ReferencePrompt",
    "Reward",
    "SegmenterParser",
    "SemanticStyler",
    "SphericalSGD",
    "StabilityLoss",
    "StyleResult",
    "StyleWeights",
    "TextAim",
    "TextDiffusion",
    "TextGenerator",
    "VarGenerator",
    "VideoEditor",
    "ViewMaker",
    "blend",
    "ddim_step",
    "denoising_loss",
    "fit_field",
    "fuse_frames",
    "guided_pipeline",
    "inject",
    "invert_view",
    "layer_schedule",
    "learn_scenes",
    "learn_word_",
    "local_procrustes",
    "nag",
    "negative_states",
    "optimize_noise",
    "paint",
    "read_frames",
    "recolour",
    "slerp",
    "text_attention",
    "token_mask",
    "token_norm_stats",
    "train_generator",
    "train_referenced",
    "volume_render",
    "write_frames",
]
