"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Objective

OBJECTIVES: Registry[Objective] = Registry(
    "objectives",
    {
        "clip": "tether.losses.clip:ClipLoss",
        "siglip": "tether.losses.siglip:SigLipLoss",
        "geometry": "tether.losses.geometry:GeometryLoss",
        "logit_clip": "tether.losses.logit_clip_pairs:LogitClip",
        "neg_clip": "tether.losses.neg_clip:NegClipLoss",
        "info_nce": "tether.losses.text_pairs_info_nce:InfoNceLoss",
        "symmetric_negatives": "tether.losses.symmetric_negatives:SymmetricHardNegativeLoss",
        "triplet_clip": "tether.losses.triplet_clip:TripletClipLoss",
        "contrastive_gap": "tether.losses.contrastive_gap:ContrastiveGapLoss",
        "long_clip": "tether.losses.long_clip:LongClipLoss",
        "fix_clip": "tether.losses.fix_clip:FixClipLoss",
        "align_clip": "tether.losses.align_clip:AlignClipLoss",
        "m2_mix": "tether.losses.m2_mix:M2MixLoss",
        "local_alignment": "tether.losses.local_alignment:LocalAlignmentLoss",
        "multi_positive": "tether.losses.multi_positive:MultiPositive",
        "soft_targets": "tether.losses.soft_targets:SoftTargetContrastive",
        "matryoshka": "tether.losses.matryoshka:MatryoshkaLoss",
    },
)
"""Every objective by the name a recipe uses."""
