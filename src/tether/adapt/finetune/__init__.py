"""Trained weights moved a little further, without losing what they knew."""

from __future__ import annotations

from collections.abc import Mapping

from tether.adapt.finetune.classifier import ClipClassifier
from tether.adapt.finetune.clip_refine import ClipRefineLoss
from tether.adapt.finetune.clipood import Tuned, class_texts, tune_images_
from tether.adapt.finetune.denoise import check_gain, train_denoiser
from tether.adapt.finetune.image_search import ArcMarginStep, RealignStep
from tether.adapt.finetune.kept_positions import KeptPositions
from tether.adapt.finetune.label_loss import LabelLoss
from tether.adapt.finetune.lora import Lora
from tether.adapt.finetune.map_fit import FittedMaps, MapFit
from tether.adapt.finetune.margin_metric_softmax import MarginMetricSoftmax
from tether.adapt.finetune.masked_patches import MaskedPatches
from tether.adapt.finetune.paraclip import ParaclipStep, TextTuned, paraphrase_batches, tune_texts_
from tether.adapt.finetune.refine import Refined, RefineStep, refine_
from tether.adapt.finetune.towers import freeze_image_tower, image_parameters, tower_parameters
from tether.adapt.finetune.unclip import Inverted, InvertUnclip, UnclipLoss, image_choice
from tether.core.protocols import ModelEdit

ADAPTERS: Mapping[str, type[ModelEdit]] = {
    "kept_positions": KeptPositions,
    "lora": Lora,
    "masked_patches": MaskedPatches,
}
"""Every edit that trains a model further by the name a recipe uses."""

__all__ = [
    "ADAPTERS",
    "ArcMarginStep",
    "ClipClassifier",
    "ClipRefineLoss",
    "FittedMaps",
    "InvertUnclip",
    "Inverted",
    "KeptPositions",
    "LabelLoss",
    "Lora",
    "MapFit",
    "MarginMetricSoftmax",
    "MaskedPatches",
    "ParaclipStep",
    "RealignStep",
    "RefineStep",
    "Refined",
    "TextTuned",
    "Tuned",
    "UnclipLoss",
    "check_gain",
    "class_texts",
    "freeze_image_tower",
    "image_choice",
    "image_parameters",
    "paraphrase_batches",
    "refine_",
    "tower_parameters",
    "train_denoiser",
    "tune_images_",
    "tune_texts_",
]
