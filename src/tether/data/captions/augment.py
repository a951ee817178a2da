"""Text augmentation at training time: stop words go, and one word is replaced, exchanged or lost (CLIP-rocket)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, final

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Share, checked
from tether.core.registry import Registry
from tether.core.types import Row
from tether.data.captions.lexicon import ENGLISH, lexicon
from tether.data.captions.multi_caption import bounds, place_of
from tether.data.captions.rng import Chance, below, of_key, one_of
from tether.data.captions.sampling import (
    CaptionPick,
)

Operation = Literal["identity", "synonym", "swap", "delete"]
OPERATIONS: tuple[Operation, ...] = ("identity", "synonym", "swap", "delete")
PLAIN_PICKS: Registry[CaptionPick] = Registry(
    "plain_picks",
    {
        "first": "tether.data.captions.sampling:FirstCaption",
        "first_often": "tether.data.captions.sampling:FirstOften",
        "random": "tether.data.captions.sampling:RandomCaption",
        "rewritten": "tether.data.captions.sampling:Rewritten",
        "mixed": "tether.data.captions.sampling:MixedCaption",
    },
)
"""Picks that take a text as it is, which others may change."""
_MARKS = ".,;:!?\"'()[]"


@final
class TextAugment:
    """A weak and a strong disturbance of a caption, drawn anew at every visit.

    Weak: all stop words are removed with probability ``remove``. Strong: the same, then exactly one operation:

    - ``identity``: nothing;
    - ``synonym``: one word that has synonyms, and all of its repetitions, becomes one of them;
    - ``swap``: two words change places;
    - ``delete``: each word is lost with probability ``delete_chance``; one always stays.

    Where nothing would be left, the text before that stays.

    Source: arXiv 2305.08675, section 3.1, and the released tokenizer; the operations are those of EDA (arXiv
    1901.11196) with the settings of the library that the release calls: one word replaced or exchanged, a tenth lost.
    Differs in that words are cut at blanks and compared without marks around them, where the release cuts marks off
    as words of their own; and in the word lists, which are arguments.
    """

    @checked
    def __init__(
        self,
        *,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        stopwords: Collection[str] | None = None,
        remove: Share = 0.8,
        weights: Mapping[Operation, NonNegative] | None = None,
        delete_chance: Share = 0.1,
        words: str = ENGLISH,
    ) -> None:
        """Take the settings; the defaults are the release's.

        Args:
            synonyms: for a word in small letters what may stand for it; None takes those of ``words``.
            stopwords: in small letters; None takes those of ``words``.
            remove: probability that stop words go, in [0, 1].
            weights: of the operations, of any sum, a missing one is 0; None: 0.4 ``synonym``, 0.4 ``swap``, 0.2
                ``delete``.
            delete_chance: of each word under ``delete``, in [0, 1].
            words: lexicon for what is None: ``english`` or a YAML file.
        """
        weights = {"synonym": 0.4, "swap": 0.4, "delete": 0.2} if weights is None else weights
        strange = set(weights) - set(OPERATIONS)
        if strange:
            raise InputError(f"weights: expected some of {', '.join(OPERATIONS)}, got {', '.join(sorted(strange))}")
        self._ends = bounds([weights.get(name, 0.0) for name in OPERATIONS], where="weights")
        known = lexicon(words) if synonyms is None or stopwords is None else None
        self._synonyms = {
            word: tuple(others)
            for word, others in (known.synonyms if synonyms is None and known else synonyms or {}).items()
            if others
        }
        self._stopwords = frozenset(known.stopwords if stopwords is None and known else stopwords or ())
        self.remove, self.delete_chance = remove, delete_chance
        self._weights = {name: float(weights.get(name, 0.0)) for name in OPERATIONS}

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values; the word lists by their sizes and a digest."""
        lists = json.dumps([sorted(self._synonyms.items()), sorted(self._stopwords)])
        return {
            "remove": self.remove,
            "weights": self._weights,
            "delete_chance": self.delete_chance,
            "synonyms": len(self._synonyms),
            "stopwords": len(self._stopwords),
            "lists": hashlib.sha256(lists.encode()).hexdigest()[:12],
        }

    def weak(self, text: str, *, generator: Chance) -> str:
        """Stop words removed, or not."""
        if text and generator.random() < self.remove:
            return " ".join(word for word in text.split() if bare(word) not in self._stopwords) or text
        return text

    def strong(self, text: str, *, generator: Chance) -> str:
        """The weak one, then one operation."""
        text = self.weak(text, generator=generator)
        if not text:
            return text
        operation = OPERATIONS[place_of(float(generator.random()), self._ends)]
        return self.pick(operation)(text, generator)

    def pick(self, operation: Operation) -> Callable[[str, Chance], str]:
        """One operation, as a function of a text and a generator."""
        known: dict[str, Callable[[str, Chance], str]] = {
            "identity": lambda text, generator: text,
            "synonym": self._replace,
            "swap": self._swap,
            "delete": self._delete,
        }
        if operation not in known:
            raise InputError(f"operation: expected one of {', '.join(OPERATIONS)}, got {operation!r}")
        return known[operation]

    def rewrite(self, text: str, *, count: int, generator: Chance) -> list[str]:
        """``count`` strong ones; a ``Rewriter``."""
        return [self.strong(text, generator=generator) for _ in range(count)]

    def _replace(self, text: str, generator: Chance) -> str:
        words = text.split()
        known = [word for word in dict.fromkeys(map(bare, words)) if word in self._synonyms]
        known = [word for word in known if word not in self._stopwords]
        if not known:
            return text
        chosen = one_of(known, generator=generator)
        other = one_of(self._synonyms[chosen], generator=generator)
        return " ".join(instead(word, other) if bare(word) == chosen else word for word in words) or text

    def _swap(self, text: str, generator: Chance) -> str:
        words = text.split()
        if len(words) < 2:
            return text
        first, other = below(len(words), generator=generator), below(len(words) - 1, generator=generator)
        second = other + (other >= first)
        words[first], words[second] = words[second], words[first]
        return " ".join(words)

    def _delete(self, text: str, generator: Chance) -> str:
        words = text.split()
        if len(words) < 2:
            return text
        kept = [word for word in words if generator.random() >= self.delete_chance]
        return " ".join(kept or [words[below(len(words), generator=generator)]])


@final
class Augmented:
    """The caption that another pick chooses, disturbed by ``TextAugment``. Source: arXiv 2305.08675."""

    @checked
    def __init__(
        self,
        *,
        inner: str | dict[str, Any] = "random",
        strength: Literal["weak", "strong"] = "strong",
        remove: Share = 0.8,
        weights: dict[Operation, NonNegative] | None = None,
        delete_chance: Share = 0.1,
        words: str = ENGLISH,
    ) -> None:
        """Take the settings.

        Args:
            inner: which of the row's captions is disturbed, a name or settings as in a recipe.
            strength: ``weak`` or ``strong``.
            remove: see ``TextAugment``.
            weights: see ``TextAugment``.
            delete_chance: see ``TextAugment``.
            words: see ``TextAugment``.
        """
        from tether.core.component import build

        self.inner: CaptionPick = build(inner, PLAIN_PICKS, where="augmented: inner")
        self.augment = TextAugment(remove=remove, weights=weights, delete_chance=delete_chance, words=words)
        self.strength = strength

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        text = self.inner(row, draw=draw)
        change = self.augment.weak if self.strength == "weak" else self.augment.strong
        return change(text, generator=of_key(str(draw), seed=0, salt="augment"))


def bare(word: str) -> str:
    """A word in small letters without the marks around it."""
    return word.strip(_MARKS).lower()


def instead(word: str, other: str) -> str:
    """Another word with the marks and the first capital of this one."""
    core = word.strip(_MARKS)
    if core[:1].isupper() and not core[1:2].isupper():
        other = other[:1].upper() + other[1:]
    return word.replace(core, other, 1)
