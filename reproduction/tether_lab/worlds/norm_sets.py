"""Sets of norms written by our grammars, read by the papers' loaders, and heads on groups held out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tether.core.protocols import DualEncoder
from tether.data.sets.norms import NormTable, check_apart, group_test_rows
from tether.evaluate.norms import NormScores, evaluate_groups, flip_accuracy
from tether.models.composed.starter import starter
from tether.tasks.norms import ModelTexts, NormClassifier
from tether.tasks.norms.classifier import Head
from tether.tasks.norms.pair_features import Combine
from tether_lab.lab.lab import Lab
from tether_lab.worlds.small_clip import small_clip


def written(make: Callable[[Path], Path], read: Callable[[Path], Any]) -> Any:
    """What a loader reads of files that a grammar wrote."""
    with tempfile.TemporaryDirectory() as folder:
        return read(make(Path(folder) / "made"))


def halves(table: NormTable, *, share: float, seed: int) -> tuple[NormTable, NormTable]:
    """The rows to learn from and those held out, no group on both sides."""
    held = group_test_rows(table, share=share, seed=seed)
    train, test = table.taken(np.flatnonzero(held == 0)), table.taken(np.flatnonzero(held))
    check_apart(train, test)
    return train, test


def scored(
    train: NormTable,
    test: NormTable,
    *,
    encoder: Any,
    fields: Sequence[str],
    head: Head,
    combine: Combine = "pair",
    numbers: Sequence[str] | None = (),
) -> tuple[NormScores, float]:
    """Figures of one head on the rows held out, and its share of flipped pairs.

    Args:
        train: to learn from.
        test: held out.
        encoder: of the texts.
        fields: that are read.
        head: which.
        combine: how two fields become one row.
        numbers: which numbers are read; None takes all.
    """
    first, second = (_only(one, numbers) for one in (train, test))
    classifier = NormClassifier(
        encoder, fields=fields, head=head, combine=combine, numbers=numbers is None or len(numbers) > 0
    )
    said = classifier.fit(first).predict(second)
    common = max(train.classes, key=train.labels.count)
    scores = evaluate_groups(
        second.labels, said=said, classes=second.classes, groups=second.groups, common=common, resamples=2
    )
    return scores, flip_accuracy(second.labels, said=said, groups=second.groups)[0]


def clip_texts(lab: Lab) -> ModelTexts:
    """The text side of a small CLIP that is trained here on emoji and their names, 300 steps."""
    model = small_clip(lab)
    cast(Any, model).tokenizer.cuts_meant = True
    return ModelTexts(cast(DualEncoder, model), name="a small CLIP trained on emoji")


def starter_texts() -> ModelTexts:
    """The text side of ``starter``: MiniLM and the map that brings it to what an ImageNet network sees."""
    return ModelTexts(starter(), name="starter")


def _only(table: NormTable, numbers: Sequence[str] | None) -> NormTable:
    return table if numbers is None else replace(table, numbers={name: table.numbers[name] for name in numbers})
