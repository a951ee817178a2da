"""Trained weights moved a little further, without losing what they knew."""

from __future__ import annotations

from tether.adapt.finetune.clip_refine import ClipRefineLoss
from tether.adapt.finetune.clipood import Tuned, class_texts, tune_images_
from tether.adapt.finetune.image_tower import image_parameters
from tether.adapt.finetune.margin_metric_softmax import MarginMetricSoftmax
from tether.adapt.finetune.refine import Refined, RefineStep, refine_

__all__ = [
    "ClipRefineLoss",
    "MarginMetricSoftmax",
    "RefineStep",
    "Refined",
    "Tuned",
    "class_texts",
    "image_parameters",
    "refine_",
    "tune_images_",
]
