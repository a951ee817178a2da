"""A label by the sentence that says it: the CLIP-like head of NormBank, which learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.sets.norms.table import NormTable
from tether.tasks.norms.encoders import NormEncoder, norm_encoder

TEMPLATE = "This is {}."


class NormPrompts:
    """Takes the label whose sentence, such as "This is taboo.", is nearest to a row's texts by cosine.

    Source: the zero-shot rule of CLIP (arXiv 2103.00020) on the labels of arXiv 2305.17008; the sentences are ours.

    Args:
        encoder: see ``norm_encoder``; one at rest, as TF-IDF has no word of the sentence in common with a row.
        fields: names of the table's fields, said one after the other.
        template: with ``{}`` for the label.

    Attributes:
        classes_: all labels of the table.

    Example:
        >>> import tether
        >>> from tether.data.sets.norms import NormTable
        >>> from tether.methods.normbank import NormPrompts
        >>> table = NormTable(
        ...     "mine", {"behaviour": ("taboo", "expected")}, ("taboo", "expected"), ("taboo", "expected"),
        ...     groups=("a", "b"), rows=(2, 3), judged="one person",
        ... )
        >>> model = tether.load("tiny", random_weights=True)
        >>> NormPrompts(model, fields=["behaviour"], template="{}").fit(table).predict(table)
        ('taboo', 'expected')
    """

    @checked
    def __init__(self, encoder: Any = "minilm", *, fields: Sequence[str], template: str = TEMPLATE) -> None:
        """Take the encoder."""
        if "{}" not in template:
            raise InputError(f"template: expected {{}} where the label goes, got {template!r:.80}")
        self.encoder: NormEncoder = norm_encoder(encoder)
        self.fields, self.template = tuple(fields), template
        self.classes_: tuple[str, ...] = ()
        self._sentences = np.zeros((0, 0))

    def fit(self, table: NormTable) -> NormPrompts:
        """Read one sentence for each label that the table may have."""
        table.named(self.fields)
        self.classes_ = table.classes
        said = [self.template.replace("{}", name) for name in table.classes]
        self._sentences = np.asarray(self.encoder.fit(said).encode(said))
        return self

    def scores(self, table: NormTable) -> Float[np.ndarray, "n k"]:
        """Cosine with each sentence.

        Raises:
            InputError: not fitted, or a field that the table has not.
        """
        if not self.classes_:
            raise InputError("prompts: fit them first")
        columns = [table.fields[name] for name in table.named(self.fields)]
        texts = [", ".join(filter(None, row)) for row in zip(*columns, strict=True)]
        return np.asarray(self.encoder.encode(texts)) @ self._sentences.T

    def predict(self, table: NormTable) -> tuple[str, ...]:
        """The label of each row."""
        return tuple(self.classes_[place] for place in self.scores(table).argmax(axis=1))
