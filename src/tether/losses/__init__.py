"""What is asked of the embeddings: objectives, and the InfoNCE core under them."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Objective
from tether.losses.align_clip import AlignClipLoss, AlignTerms, align_clip_loss
from tether.losses.arc_margin import ArcMarginHead, multi_caption_arc_loss, with_margin
from tether.losses.barlow import barlow_loss
from tether.losses.boxes import BoxTerms, box_cost, box_loss, hungarian_match
from tether.losses.checks import caption_labels
from tether.losses.clip import ClipLoss, clip_loss, multi_text_loss
from tether.losses.closeness import closeness_loss
from tether.losses.contrastive_gap import ContrastiveGapLoss
from tether.losses.dclip import DclipTerms, dclip_loss
from tether.losses.directional import directional_loss
from tether.losses.entailment import entailment
from tether.losses.error_norm_truncation import CausalENT, ENTLoss, TruncatedLoss, error_norm
from tether.losses.fix_clip import FixClipLoss, FixClipTerms, GroupHeads, fix_clip_loss, group_token_aggregate
from tether.losses.flow_kernel import GeodesicSimilarity, geodesic_kernel
from tether.losses.geometry import GeometryLoss, GeometryTerms, geometry_loss
from tether.losses.grounding import GrainTerms, description_loss, grain_loss
from tether.losses.hard_negatives import EqualNegativesWarning, hard_info_nce
from tether.losses.infonce import PairLosses, info_nce, info_nce_pairs
from tether.losses.kl_projection import KLProjection, kl_divergence, project_kl
from tether.losses.linear_mmcl import linear_mmcl_loss
from tether.losses.local_alignment import LocalAlignmentLoss, local_alignment_loss, local_similarity
from tether.losses.logit_clip import LogitClipLoss, clip_logits, cross_entropy_bounds
from tether.losses.logit_clip_pairs import LogitClip, clip_rows
from tether.losses.long_clip import LongClipLoss, LongClipTerms, long_clip_loss, principal_components
from tether.losses.m2_mix import M2MixLoss, MixTerms, m2_mix_loss
from tether.losses.mask_aware import compensation_loss, mask_aware_loss
from tether.losses.mask_text import MtaTerms, mask_text_logits, mask_text_loss, mta_loss
from tether.losses.masks import MaskTerms, dice_loss, focal_loss, mask_cost, mask_loss, match_masks
from tether.losses.matryoshka import (
    MatryoshkaLoss,
    MatryoshkaTerms,
    PartialWidthWarning,
    let_wrap,
    matryoshka_loss,
    truncate,
)
from tether.losses.multi_positive import MultiPositive, multi_positive_loss
from tether.losses.neg_clip import NegClipLoss, neg_clip_accuracy, neg_clip_loss
from tether.losses.paraclip import ParaclipTerms, paraclip_loss
from tether.losses.patch_affinity import DinoiserTerms, affinity_loss, dinoiser_loss, label_affinity
from tether.losses.proclip import ProclipTerms, proclip_loss
from tether.losses.pseudo_labels import PseudoLabelLoss, depth_loss, normal_loss, segmentation_loss
from tether.losses.quality_ranking import quality_ranking_loss
from tether.losses.ranking import OneImageWarning, ranking_loss
from tether.losses.region_contrast import box_distance_loss, region_contrast_loss
from tether.losses.region_distill import (
    ConceptLabels,
    concept_distill_loss,
    concept_labels,
    patch_distill_loss,
    region_cosine_loss,
)
from tether.losses.rocket import RocketTerms, rocket_loss
from tether.losses.self_critical import self_critical_loss
from tether.losses.self_supervised import nt_xent_loss, siamese_loss
from tether.losses.siglip import SigLipLoss, siglip_loss
from tether.losses.sigmoid import sigmoid_pairs
from tether.losses.soft_targets import SoftTargetContrastive, finding_similarity, soft_target_loss, soft_targets
from tether.losses.sparse_policy import SparseDist
from tether.losses.specs import SpecsLoss, SpecsTerms
from tether.losses.sub_vocabulary import SubVocabulary, VocabSampler
from tether.losses.swapped import prototype_swapped_loss, sinkhorn, swapped_loss
from tether.losses.symmetric_negatives import SymmetricHardNegativeLoss, SymmetricTerms, symmetric_negative_loss
from tether.losses.text_pairs_info_nce import InfoNceLoss, InfoNceTerms, info_nce_loss
from tether.losses.triplet_clip import TripletClipLoss, TripletTerms, triplet_clip_loss
from tether.losses.troll import TokenTerms, TROLLLoss
from tether.losses.wgan import (
    CriticLoss,
    SlopePenalty,
    clip_weights_,
    gradient_penalty,
    wgan_critic_loss,
    wgan_generator_loss,
)

OBJECTIVES: Mapping[str, type[Objective]] = {
    "clip": ClipLoss,
    "siglip": SigLipLoss,
    "geometry": GeometryLoss,
    "logit_clip": LogitClip,
    "neg_clip": NegClipLoss,
    "info_nce": InfoNceLoss,
    "symmetric_negatives": SymmetricHardNegativeLoss,
    "triplet_clip": TripletClipLoss,
    "contrastive_gap": ContrastiveGapLoss,
    "long_clip": LongClipLoss,
    "fix_clip": FixClipLoss,
    "align_clip": AlignClipLoss,
    "m2_mix": M2MixLoss,
    "local_alignment": LocalAlignmentLoss,
    "multi_positive": MultiPositive,
    "soft_targets": SoftTargetContrastive,
    "matryoshka": MatryoshkaLoss,
}
"""Every objective by the name a recipe uses."""
let_wrap({name: part for name, part in OBJECTIVES.items() if part is not MatryoshkaLoss})

__all__ = [
    "OBJECTIVES",
    "AlignClipLoss",
    "AlignTerms",
    "ArcMarginHead",
    "BoxTerms",
    "CausalENT",
    "ClipLoss",
    "ConceptLabels",
    "ContrastiveGapLoss",
    "CriticLoss",
    "DclipTerms",
    "DinoiserTerms",
    "ENTLoss",
    "EqualNegativesWarning",
    "FixClipLoss",
    "FixClipTerms",
    "GeodesicSimilarity",
    "GeometryLoss",
    "GeometryTerms",
    "GrainTerms",
    "GroupHeads",
    "InfoNceLoss",
    "InfoNceTerms",
    "KLProjection",
    "LocalAlignmentLoss",
    "LogitClip",
    "LogitClipLoss",
    "LongClipLoss",
    "LongClipTerms",
    "M2MixLoss",
    "MaskTerms",
    "MatryoshkaLoss",
    "MatryoshkaTerms",
    "MixTerms",
    "MtaTerms",
    "MultiPositive",
    "NegClipLoss",
    "OneImageWarning",
    "PairLosses",
    "ParaclipTerms",
    "PartialWidthWarning",
    "ProclipTerms",
    "PseudoLabelLoss",
    "RocketTerms",
    "SigLipLoss",
    "SlopePenalty",
    "SoftTargetContrastive",
    "SparseDist",
    "SpecsLoss",
    "SpecsTerms",
    "SubVocabulary",
    "SymmetricHardNegativeLoss",
    "SymmetricTerms",
    "TROLLLoss",
    "TokenTerms",
    "TripletClipLoss",
    "TripletTerms",
    "TruncatedLoss",
    "VocabSampler",
    "affinity_loss",
    "align_clip_loss",
    "barlow_loss",
    "box_cost",
    "box_distance_loss",
    "box_loss",
    "caption_labels",
    "clip_logits",
    "clip_loss",
    "clip_rows",
    "clip_weights_",
    "closeness_loss",
    "compensation_loss",
    "concept_distill_loss",
    "concept_labels",
    "cross_entropy_bounds",
    "dclip_loss",
    "depth_loss",
    "description_loss",
    "dice_loss",
    "dinoiser_loss",
    "directional_loss",
    "entailment",
    "error_norm",
    "finding_similarity",
    "fix_clip_loss",
    "focal_loss",
    "geodesic_kernel",
    "geometry_loss",
    "gradient_penalty",
    "grain_loss",
    "group_token_aggregate",
    "hard_info_nce",
    "hungarian_match",
    "info_nce",
    "info_nce_loss",
    "info_nce_pairs",
    "kl_divergence",
    "label_affinity",
    "linear_mmcl_loss",
    "local_alignment_loss",
    "local_similarity",
    "long_clip_loss",
    "m2_mix_loss",
    "mask_aware_loss",
    "mask_cost",
    "mask_loss",
    "mask_text_logits",
    "mask_text_loss",
    "match_masks",
    "matryoshka_loss",
    "mta_loss",
    "multi_caption_arc_loss",
    "multi_positive_loss",
    "multi_text_loss",
    "neg_clip_accuracy",
    "neg_clip_loss",
    "normal_loss",
    "nt_xent_loss",
    "paraclip_loss",
    "patch_distill_loss",
    "principal_components",
    "proclip_loss",
    "project_kl",
    "prototype_swapped_loss",
    "quality_ranking_loss",
    "ranking_loss",
    "region_contrast_loss",
    "region_cosine_loss",
    "rocket_loss",
    "segmentation_loss",
    "self_critical_loss",
    "siamese_loss",
    "siglip_loss",
    "sigmoid_pairs",
    "sinkhorn",
    "soft_target_loss",
    "soft_targets",
    "swapped_loss",
    "symmetric_negative_loss",
    "triplet_clip_loss",
    "truncate",
    "wgan_critic_loss",
    "wgan_generator_loss",
    "with_margin",
]
