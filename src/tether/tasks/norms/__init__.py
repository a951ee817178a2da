"""Heads on social norms: encoders of texts, one classifier for every set, and what each paper adds."""

from tether.tasks.norms.choosers import Answers, AskedChooser, EmbeddingChooser, NormThinker
from tether.tasks.norms.classifier import NormClassifier
from tether.tasks.norms.clauses import CLAUSE_FEATURES, clause_features
from tether.tasks.norms.conflicts import CentroidConflict, ConflictClassifier, PairFeatures
from tether.tasks.norms.encoders import ModelTexts, NormEncoder, SentenceTexts, TfidfEncoder, norm_encoder
from tether.tasks.norms.pair_features import combined
from tether.tasks.norms.prompts import NormPrompts

__all__ = [
    "CLAUSE_FEATURES",
    "Answers",
    "AskedChooser",
    "CentroidConflict",
    "ConflictClassifier",
    "EmbeddingChooser",
    "ModelTexts",
    "NormClassifier",
    "NormEncoder",
    "NormPrompts",
    "NormThinker",
    "PairFeatures",
    "SentenceTexts",
    "TfidfEncoder",
    "clause_features",
    "combined",
    "norm_encoder",
]
