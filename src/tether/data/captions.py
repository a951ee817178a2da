"""What a row is called this time: which of its captions a batch uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

from tether.core.errors import InputError
from tether.core.types import Row


class CaptionPick(Protocol):
    """Chooses one of a row's captions."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """One caption that is not empty; ``draw`` is 64 random bits of this seed, epoch and row."""
        ...


@final
class FirstCaption:
    """Always the first caption."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        return _spoken(row)[0]


@final
class RandomCaption:
    """Any of the captions, with equal chances."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        texts = _spoken(row)
        return texts[draw % len(texts)]


@final
class FirstOften:
    """The first caption with a given chance, otherwise any of the others: a name first, its keywords now and then."""

    def __init__(self, *, chance: float = 0.5) -> None:
        """Args: chance: of the first caption, in [0, 1]; a row with one caption always uses it."""
        if not 0 <= chance <= 1:
            raise InputError(f"chance: expected a number in [0, 1], got {chance!r}")
        self.chance = chance

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        first, *others = _spoken(row)
        if not others or (draw >> 32) * 2.0**-32 < self.chance:
            return first
        return others[(draw & 0xFFFFFFFF) % len(others)]


def _spoken(row: Row) -> tuple[str, ...]:
    return row.texts if all(row.texts) else tuple(text for text in row.texts if text.strip())


CAPTION_PICKS: Mapping[str, type[CaptionPick]] = {
    "first": FirstCaption,
    "first_often": FirstOften,
    "random": RandomCaption,
}
