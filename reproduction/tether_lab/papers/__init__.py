"""A card for each paper, found by file name and read without torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from tether.core.errors import InputError
from tether.core.method_files import LISTED
from tether_lab.lab.card import Card

FOLDER = Path(__file__).parent


class Cards(Mapping[str, Card]):
    """Slug to card, sorted by slug; a card's module is imported when its card is asked for.

    Args:
        folder: each folder in it with a ``study.py`` is one paper; its slug is the folder's name with hyphens.
        listed: file with the slugs that must be there; iteration and length raise InputError where it differs.
    """

    def __init__(self, folder: Path = FOLDER, listed: Path = LISTED) -> None:
        """List the files; the slugs are compared when they are asked for."""
        self._known = {path.parent.name.replace("_", "-") for path in folder.glob("*/study.py")}
        self._folder, self._listed = folder, listed

    def __getitem__(self, slug: str) -> Card:
        if slug not in self._known:
            raise KeyError(slug)
        return module(slug).CARD

    def __contains__(self, slug: object) -> bool:
        return slug in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._slugs())

    def __len__(self) -> int:
        return len(self._slugs())

    def _slugs(self) -> list[str]:
        listed = self._listed.read_text(encoding="utf-8").split()
        if lost := sorted(set(listed) - self._known):
            raise InputError(f"{self._listed} names {', '.join(lost)}, of which {self._folder} has no card")
        if new := sorted(self._known - set(listed)):
            raise InputError(f"{self._folder} has cards of {', '.join(new)}, which {self._listed} does not name")
        return listed


CARDS: Mapping[str, Card] = Cards()
"""Every paper's card by slug."""


def card(slug: str) -> Card:
    """One card.

    Raises:
        InputError: no such slug; the message lists what is known.
    """
    if slug not in CARDS:
        raise InputError(f"no paper {slug!r}; {_hint(slug)}known: {', '.join(CARDS)}")
    return CARDS[slug]


def _hint(word: str) -> str:
    """Papers that a word names: its slug with an error in it, a method, a part."""
    import difflib
    import inspect

    if (spelt := "-".join(word.lower().split())) in CARDS:
        return f"did you mean {spelt!r}? "
    asked = _letters(word)
    told = {slug: (one.title, one.gives, *one.parts, inspect.getdoc(module(slug)) or "") for slug, one in CARDS.items()}
    naming = [slug for slug, texts in told.items() if asked and asked in _letters(" ".join(texts))]
    if naming and len(naming) <= len(CARDS) // 10:
        return f"it is named by {', '.join(naming)}; "
    near = difflib.get_close_matches(spelt, CARDS, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def module(slug: str) -> ModuleType:
    """The module of a paper, which also holds its ``reproduce``."""
    return importlib.import_module(f"{__name__}.{slug.replace('-', '_')}.study")
