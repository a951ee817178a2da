"""One change of one character: its places in a text, the characters, and which changed texts are allowed."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, Protocol, final, runtime_checkable

from annotated_types import Ge

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.core.runtime_protocol import ByAttributes

DELETE = -1
"""Stands in an alphabet for no character: what is in the place goes."""
ALPHABET: tuple[int, ...] = (
    DELETE,
    *map(ord, f"{string.ascii_lowercase} {string.ascii_uppercase}{string.digits}{string.punctuation}"),
)
"""Code points that LEAF's attack tries, in the order of its code (arXiv 2506.03355)."""
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")

Character = Annotated[int, Ge(DELETE)]


def slot_count(text: str) -> int:
    """Places of a text of n characters: n + 1 gaps and n characters."""
    return 2 * len(text) + 1


@checked
def edit(text: str, slot: Whole, character: Character, *, alternative: Character | None = None) -> str:
    """Change a text in one place.

    Source: arXiv 2506.03355 and its released code, after Charmer (arXiv 2405.04346).

    Args:
        text: of n characters.
        slot: 0 to 2n; ``2 i`` is the gap before character i, ``2 i + 1`` the character.
        character: code point that is inserted in a gap or takes a character's place; ``DELETE`` removes a character,
            and leaves a gap as it is.
        alternative: what is put where ``character`` stands already; None leaves the text as it is.

    Raises:
        InputError: a slot past the end.

    Example:
        >>> from tether.methods.leaf.typos import DELETE, edit
        >>> edit("cat", 2, ord("h")), edit("cat", 1, ord("b")), edit("cat", 5, DELETE)
        ('chat', 'bat', 'ca')
        >>> edit("cat", 1, ord("c")), edit("cat", 1, ord("c"), alternative=DELETE)
        ('cat', 'at')
    """
    if slot >= slot_count(text):
        raise InputError(f"slot: expected 0 to {slot_count(text) - 1} in {text!r}, got {slot}")
    place, on_character = divmod(slot, 2)
    if on_character and alternative is not None and ord(text[place]) == character:
        character = alternative
    return text[:place] + ("" if character == DELETE else chr(character)) + text[place + on_character :]


@runtime_checkable
class Constraint(Protocol, metaclass=ByAttributes):
    """Says which changed texts an attack may use."""

    def __call__(self, changed: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """For each changed text whether it may stand in the place of the text beside it."""
        ...


@final
class WordConstraint:
    """A change must leave fewer of the text's words than there were, so that none becomes another word.

    Words are counted once each, in small letters, and those that no list has do not count.

    Source: arXiv 2506.03355, released code, which is stricter than the paper's words (no new word); that is ``le``.

    Example:
        >>> from tether.methods.leaf.typos import WordConstraint
        >>> fewer = WordConstraint(["the", "old", "cat", "at"])
        >>> fewer(["the old c@t", "the old at"], ["the old cat", "the old cat"])
        [True, False]
    """

    @checked
    def __init__(
        self,
        words: Iterable[str],
        *,
        tokenize: Callable[[str], Iterable[str]] = _TOKEN.findall,
        rule: Literal["strict", "le"] = "strict",
    ) -> None:
        """Take the list.

        Args:
            words: that count.
            tokenize: from a text in small letters to its words; runs of letters and digits if not given.
            rule: ``strict`` wants fewer words than before, ``le`` not more.
        """
        self.words = frozenset(word.lower() for word in words)
        self.tokenize, self.rule = tokenize, rule

    @classmethod
    def of(cls, texts: Iterable[str], *, rule: Literal["strict", "le"] = "strict") -> WordConstraint:
        """With the words of some texts in place of a list."""
        return cls({word for text in texts for word in _TOKEN.findall(text.lower())}, rule=rule)

    def count(self, text: str) -> int:
        """Different words of the list in a text."""
        return len(self.words.intersection(self.tokenize(text.lower())))

    def __call__(self, changed: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """See Constraint."""
        before = {text: self.count(text) for text in dict.fromkeys(texts)}
        spare = int(self.rule == "le")
        return [self.count(new) < before[old] + spare for new, old in zip(changed, texts, strict=True)]
