"""What is to be said of classes and words: those that a model reads alike, and those that it never read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from tether.core.model_digest import encoder_digest
from tether.core.protocols import DualEncoder
from tether.data.words import WordCounts, read_words
from tether.models.model_uri import STARTER
from tether.tasks.classify.zero_shot import read_alike

_GROUPS = 5
"""Groups of classes that are read alike, and names in one, that are listed at most."""
_CLASSES = 5
"""Classes from which on it is asked whether they are those that ``starter`` was taught."""


def alike_classes(classes: Sequence[str], weights: Float[Tensor, "c d"]) -> list[str]:
    """What to say of classes whose prompts the model reads alike."""
    found = []
    for group in read_alike(weights)[:_GROUPS]:
        names = [repr(classes[number]) for number in group]
        listed = f"{', '.join(names[:-1][:_GROUPS])} and {names[-1]}"
        found.append(f"the model reads {listed} alike and cannot tell them apart: all get one name; use other words")
    return found


def unseen_words(texts: Sequence[str], *, model: DualEncoder, name: str) -> list[str]:
    """What to say of words that no caption of the model's run has, and of classes that ``starter`` was taught."""
    words = words_of(model, name=name)
    if words is None:
        return taught_classes(texts) if name == STARTER else []
    return words.warnings(texts)


def words_of(model: DualEncoder, *, name: str) -> WordCounts | None:
    """The words of the captions of the model's run, where they are known."""
    words = read_words(Path(name))
    return None if words is None or words.digest != encoder_digest(model) else words


def taught_classes(classes: Sequence[str]) -> list[str]:
    """What to say of classes that ``starter`` was taught: most of them, and many, are ImageNet's."""
    if len(classes) < _CLASSES:
        return []
    from tether.models.composed.starter import taught

    known = len(taught(classes))
    return [
        f"{known:,} of {len(classes):,} classes are ImageNet's, by whose photographs and class names {STARTER} was "
        "made: on these it is no zero-shot model, and accuracy on them says nothing about other classes"
    ] * (2 * known >= len(classes))
