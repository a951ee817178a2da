"""What shape the embedding space has: scikit-learn estimators fitted on embeddings, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.base import BaseEstimator

from tether.space.ablation import embeddings_from_texts, mean_ablate, replace_heads
from tether.space.anisotropy import anisotropy, self_similarity
from tether.space.association import Weat, association_bias, histogram_mi, weat
from tether.space.binding import BindingFit, LinearBindingMap, binding_accuracy, binding_loss
from tether.space.binding_fold import MappedEncoder, fold_text_map_
from tether.space.binding_probe import BindingProbe, probe_agreement, probe_binding
from tether.space.concept_direction import ConceptDirection
from tether.space.conformity import ConformityEstimator, conformity
from tether.space.direction_filter import DirectionLogitsProcessor
from tether.space.ellipsoid import GapSweep, ShellStats, gap_sweep, shell_stats, vslerp
from tether.space.fair_dims import DimensionMask, FairDims, Selection, select_dimensions
from tether.space.heat_maps import Segmentation, patch_scores, segment_by_parts
from tether.space.linear_mmcl import LinearMMCL
from tether.space.moral_direction import MoralDirection, QuestionAnswerScore, question_answer_score
from tether.space.normality import NormalityReport, normality
from tether.space.outlier_clipper import OutlierClipper
from tether.space.outlier_dims import (
    ExtremeShares,
    OutlierDims,
    clip_dims,
    extreme_shares,
    largest_dims,
    outlier_dims,
)
from tether.space.position_probe import PositionProbe, position_probe
from tether.space.text_span import SpannedRows, TextSpan, text_span
from tether.space.token_states import TokenStates, token_states
from tether.space.whiten import Whitener, circle_slerp, redundant_features

ESTIMATORS: Mapping[str, type[BaseEstimator]] = {
    "concept_direction": ConceptDirection,
    "conformity": ConformityEstimator,
    "fair_dims": FairDims,
    "linear_mmcl": LinearMMCL,
    "outlier_clipper": OutlierClipper,
    "text_span": TextSpan,
    "whitener": Whitener,
}
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""

__all__ = [
    "ESTIMATORS",
    "BindingFit",
    "BindingProbe",
    "ConceptDirection",
    "ConformityEstimator",
    "DimensionMask",
    "DirectionLogitsProcessor",
    "ExtremeShares",
    "FairDims",
    "GapSweep",
    "LinearBindingMap",
    "LinearMMCL",
    "MappedEncoder",
    "MoralDirection",
    "NormalityReport",
    "OutlierClipper",
    "OutlierDims",
    "PositionProbe",
    "QuestionAnswerScore",
    "Segmentation",
    "Selection",
    "ShellStats",
    "SpannedRows",
    "TextSpan",
    "TokenStates",
    "Weat",
    "Whitener",
    "anisotropy",
    "association_bias",
    "binding_accuracy",
    "binding_loss",
    "circle_slerp",
    "clip_dims",
    "conformity",
    "embeddings_from_texts",
    "extreme_shares",
    "fold_text_map_",
    "gap_sweep",
    "histogram_mi",
    "largest_dims",
    "mean_ablate",
    "normality",
    "outlier_dims",
    "patch_scores",
    "position_probe",
    "probe_agreement",
    "probe_binding",
    "question_answer_score",
    "redundant_features",
    "replace_heads",
    "segment_by_parts",
    "select_dimensions",
    "self_similarity",
    "shell_stats",
    "text_span",
    "token_states",
    "vslerp",
    "weat",
]
