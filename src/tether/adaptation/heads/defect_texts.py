"""Learnt texts of what is normal and what is damaged as a head with a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from tether.adaptation.heads.head import HeadUse
from tether.adaptation.heads.text_rows import TextRowsHead
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder
from tether.models.texts.defect_texts import DefectTexts

CLASSES = ("normal", "defective")


def check_classes(classes: Sequence[str]) -> None:
    """Refuse other names than a head of defects has."""
    if tuple(classes) != CLASSES:
        raise InputError(f"classes: expected {', '.join(CLASSES)}, got {quoted(classes)}")


@final
class DefectTextsHead(TextRowsHead):
    """Two texts for ``tether detect --with anomalyclip --head``, for products that they were not learnt on, too.

    Whole images are named normal or defective from their embedding without the final norm, as they were in training.

    Source: AnomalyCLIP (arXiv 2310.18961); the recipe ``anomaly_prompts`` trains it.

    Attributes:
        inner: the texts and how images are read.
    """

    kind = "defect_texts"
    verb, recipe = "detect", "anomaly-prompts"

    def __init__(self, inner: DefectTexts) -> None:
        """Args: inner: what was learnt."""
        super().__init__(inner.rows, classes=CLASSES, scale=1 / inner.temperature)
        self.inner = inner
        self.check_numbers()

    def reader(self, model: DualEncoder) -> DualEncoder:
        """See Head."""
        return self.inner.reader(model, images=True)

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse("anomalyclip", {"head": self.inner})

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {"rows": self.rows.numpy()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        names = ("temperature", "blocks", "layers", "post_norm", "image_size")
        return {name: getattr(self.inner, name) for name in names}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> DefectTextsHead:
        """See Head."""
        check_classes(classes)
        return cls(DefectTexts(torch.from_numpy(np.array(arrays["rows"])), **settings))
