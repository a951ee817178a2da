"""Several objects at once: what each tower makes of order and size, by the protocol of ComCO (arXiv 2502.19842)."""

from tether.evaluate.objects.biases import order_bias, prototypes, size_bias
from tether.evaluate.objects.matching import (
    MatchingPair,
    MatchingReport,
    matching_accuracy,
    matching_drop,
    matching_pairs,
)
from tether.evaluate.objects.probe import ObjectProbe, object_probe
from tether.evaluate.objects.retrieval import ObjectRetrieval, object_retrieval

__all__ = [
    "MatchingPair",
    "MatchingReport",
    "ObjectProbe",
    "ObjectRetrieval",
    "matching_accuracy",
    "matching_drop",
    "matching_pairs",
    "object_probe",
    "object_retrieval",
    "order_bias",
    "prototypes",
    "size_bias",
]
