"""What is asked of the embeddings: objectives, and the InfoNCE core under them."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Objective
from tether.losses.checks import caption_labels
from tether.losses.clip import ClipLoss, clip_loss
from tether.losses.ent import ENTLoss, TruncatedLoss, error_norm
from tether.losses.ent_causal import CausalENT
from tether.losses.infonce import PairLosses, info_nce, info_nce_pairs
from tether.losses.logit_clip import LogitClipLoss, clip_logits, cross_entropy_bounds
from tether.losses.logit_clip_pairs import LogitClip, clip_rows
from tether.losses.siglip import SigLipLoss, siglip_loss
from tether.losses.sigmoid import sigmoid_pairs

OBJECTIVES: Mapping[str, type[Objective]] = {"clip": ClipLoss, "siglip": SigLipLoss, "logit_clip": LogitClip}
"""Every objective by the name a recipe uses."""

__all__ = [
    "OBJECTIVES",
    "CausalENT",
    "ClipLoss",
    "ENTLoss",
    "LogitClip",
    "LogitClipLoss",
    "PairLosses",
    "SigLipLoss",
    "TruncatedLoss",
    "caption_labels",
    "clip_logits",
    "clip_loss",
    "clip_rows",
    "cross_entropy_bounds",
    "error_norm",
    "info_nce",
    "info_nce_pairs",
    "siglip_loss",
    "sigmoid_pairs",
]
