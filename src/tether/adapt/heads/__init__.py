"""Classifiers on the embeddings of images: one folder format, bound to the encoder that they were fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tether.adapt.heads.anomaly_adapters import AnomalyAdaptersHead
from tether.adapt.heads.cache import CacheHead
from tether.adapt.heads.defect_texts import DefectTextsHead
from tether.adapt.heads.grouping import GroupingHead
from tether.adapt.heads.head import HEAD_FILE, Head, read_head
from tether.adapt.heads.kernel import KernelHead
from tether.adapt.heads.linear import LinearHead
from tether.adapt.heads.masks import MasksHead
from tether.adapt.heads.order import OrderHead
from tether.adapt.heads.quality import QualityHead
from tether.adapt.heads.relation import RelationHead
from tether.adapt.heads.sharpener import SharpenerHead
from tether.adapt.heads.word import WordHead
from tether.core.protocols import DualEncoder
from tether.models.image_digest import image_digest

HEADS: Mapping[str, type[Head]] = {
    "linear": LinearHead,
    "cache": CacheHead,
    "kernel": KernelHead,
    "order": OrderHead,
    "defect_texts": DefectTextsHead,
    "anomaly_adapters": AnomalyAdaptersHead,
    "grouping": GroupingHead,
    "masks": MasksHead,
    "quality": QualityHead,
    "relation": RelationHead,
    "sharpener": SharpenerHead,
    "word": WordHead,
}
"""Every kind of head by the name that its file has."""


def load_head(folder: Path | str, *, model: DualEncoder | None = None) -> Head:
    """Open what ``Head.save`` wrote.

    Args:
        folder: that holds it.
        model: the encoder it shall be used with; None opens it without looking at one.

    Raises:
        InputError: no head there, an unknown kind, a damaged file, or an encoder whose image side is not the one that
            it was fitted on; both digests are named.

    Example:
        >>> import tempfile, torch, tether
        >>> from tether.adapt.heads import LinearHead, load_head
        >>> model = tether.load("tiny", random_weights=True)
        >>> head = LinearHead(torch.eye(2, model.dim), classes=("cat", "dog")).bind_(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_head(head.save(folder), model=model).classes
        ('cat', 'dog')
    """
    return read_head(folder, HEADS, model=model)


__all__ = [
    "HEADS",
    "HEAD_FILE",
    "AnomalyAdaptersHead",
    "CacheHead",
    "DefectTextsHead",
    "GroupingHead",
    "Head",
    "KernelHead",
    "LinearHead",
    "MasksHead",
    "OrderHead",
    "QualityHead",
    "RelationHead",
    "SharpenerHead",
    "WordHead",
    "image_digest",
    "load_head",
]
