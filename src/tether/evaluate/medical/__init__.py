"""What evaluation in medicine asks for: many findings, whole patients, groups, places, and honest uncertainty."""

from __future__ import annotations

from tether.evaluate.medical.localise import Localisation, best_threshold, localisation
from tether.evaluate.medical.report import (
    Estimate,
    FindingReport,
    MultilabelReport,
    choose_thresholds,
    multilabel_report,
)
from tether.evaluate.medical.shared_findings import shared_precision
from tether.evaluate.medical.splits import GroupSplit, check_apart, group_split
from tether.tasks.classify.prompt_pairs import PairScores, PromptPairZeroShot, pair_scores
from tether.tasks.segment.similarity_map import SimilarityMap, similarity_map

__all__ = [
    "Estimate",
    "FindingReport",
    "GroupSplit",
    "Localisation",
    "MultilabelReport",
    "PairScores",
    "PromptPairZeroShot",
    "SimilarityMap",
    "best_threshold",
    "check_apart",
    "choose_thresholds",
    "group_split",
    "localisation",
    "multilabel_report",
    "pair_scores",
    "shared_precision",
    "similarity_map",
]
