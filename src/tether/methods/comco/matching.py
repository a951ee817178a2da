"""Image-text matching when the favoured object moves from the front of the caption to its end (arXiv 2502.19842)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.evaluate.checks import checked_rows
from tether.models.embed import encode_texts

JOIN = " and "
Scenario = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class MatchingPair:
    """A caption that is true of an item and one that names an object which is not there."""

    correct: str
    wrong: str


@dataclass(frozen=True, slots=True)
class MatchingReport:
    """Accuracy in both scenarios.

    Attributes:
        first: with the favoured object named first, and the wrong caption without it.
        last: with it named last; the wrong caption starts with it and ends in an object that is not there.
        pairs: captions compared in each.
    """

    first: float
    last: float
    pairs: int

    @property
    def drop(self) -> float:
        """``first`` minus ``last``: what the tower owes to the position of the favoured object."""
        return self.first - self.last


@checked
def matching_pairs(
    objects: Sequence[str], *, biased: int, classes: Sequence[str], scenario: Scenario
) -> list[MatchingPair]:
    """The captions that an item is asked about, one pair for each class that is not in it, in the order of classes.

    ``first``: correct has the favoured object swapped to the front; wrong is the same with its first replaced.
    ``last``: correct has it swapped to the end; wrong has it swapped to the front and its last replaced, so it still
    starts with the favoured object. Names are compared whole, never as parts of each other.

    Source: arXiv 2502.19842, and its released Image_Text_Matching.py.

    Args:
        objects: names of the item's objects in the order of their positions.
        biased: position of the favoured object, from 0.
        classes: names of all objects.
        scenario: ``first`` or ``last``.
    """
    names = list(objects)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"objects: expected at least two different ones, got {names}")
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(f"objects: {unknown[0]!r} is none of the {len(classes)} classes")
    if not 0 <= biased < len(names):
        raise InputError(f"biased: expected a place from 0 to {len(names) - 1}, got {biased}")
    front, back = _swapped(names, biased, 0), _swapped(names, biased, len(names) - 1)
    others = [name for name in classes if name not in names]
    if scenario == "first":
        return [MatchingPair(JOIN.join(front), JOIN.join([other, *front[1:]])) for other in others]
    return [MatchingPair(JOIN.join(back), JOIN.join([*front[:-1], other])) for other in others]


def matching_accuracy(
    image: Float[Tensor, "m d"], *, correct: Float[Tensor, "m d"], wrong: Float[Tensor, "m d"]
) -> float:
    """Fraction of rows whose image is nearer, by cosine, to the correct caption; a tie is not."""
    rows = [
        checked_rows(x, name=name).double() for x, name in ((image, "image"), (correct, "correct"), (wrong, "wrong"))
    ]
    if len({x.shape for x in rows}) != 1:
        raise InputError(f"expected three tables of one shape, got {[tuple(x.shape) for x in rows]}")
    near, far = (torch.cosine_similarity(rows[0], other) for other in rows[1:])
    return float((near > far).double().mean())


def matching_drop(
    model: DualEncoder,
    image: Float[Tensor, "n d"],
    *,
    objects: Sequence[Sequence[str]],
    biased: int,
    classes: Sequence[str],
) -> MatchingReport:
    """Accuracy of image-text matching in both scenarios, over all items and all classes that are not in them.

    Args:
        model: any model that ``tether.load`` gives.
        image: embeddings of the items.
        objects: names of each item's objects in the order of their positions.
        biased: position of the favoured (usually the largest) object, from 0.
        classes: names of all objects, as captions say them.
    """
    if len(image) != len(objects) or not len(objects):
        raise InputError(f"expected objects for each of at least one image, got {len(objects)} for {len(image)}")
    found: dict[str, float] = {}
    asked = 0
    for scenario in ("first", "last"):
        pairs = [matching_pairs(item, biased=biased, classes=classes, scenario=scenario) for item in objects]
        owner = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(some) for some in pairs]))
        correct, wrong = (
            encode_texts(model, [getattr(pair, side) for some in pairs for pair in some])
            for side in ("correct", "wrong")
        )
        asked = len(owner)
        if not asked:
            raise InputError("classes: every class is in every item, so there is no wrong caption")
        found[scenario] = matching_accuracy(image.cpu()[owner], correct=correct, wrong=wrong)
    return MatchingReport(found["first"], found["last"], asked)


def _swapped(names: list[str], one: int, other: int) -> list[str]:
    moved = list(names)
    moved[one], moved[other] = moved[other], moved[one]
    return moved
