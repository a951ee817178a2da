"""How a caption is built: its opening, its things, and words that may be exchanged; rules only, no model."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tether.data.captions.augment import bare, instead
from tether.data.captions.lexicon import Lexicon
from tether.data.captions.rng import Chance, one_of, shuffled

_JOINTS = re.compile(r",? and |, ")
_ARTICLES = ("a", "an", "the")
_COUNTED = {*_ARTICLES, "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "some", "many"}
_PLACES = {
    *("about", "above", "across", "against", "along", "among", "around", "at", "behind", "below", "beneath", "beside"),
    *("between", "by", "for", "from", "in", "inside", "into", "near", "of", "off", "on", "onto", "outside", "over"),
    *("that", "through", "to", "toward", "towards", "under", "upon", "which", "while", "who", "with", "without"),
}
_ARTICLE = re.compile(r"\b([Aa])n?( +)(?=(\w))")
_SOUNDED = "aeiouAEIOU"


@dataclass(frozen=True, slots=True)
class Phrase:
    """A caption taken apart.

    Attributes:
        things: what is listed, each with its article or number; one for a caption that is no list.
        end: full stop, question or exclamation mark, or nothing.
        listed: whether the things may change places.
    """

    things: tuple[str, ...]
    end: str
    listed: bool

    @property
    def words(self) -> str:
        """The bare caption."""
        return joined(self.things)


def taken_apart(text: str, *, lexicon: Lexicon) -> Phrase:
    """Openings and the end mark off, things apart.

    Things may change places only where each begins with an article or a number and none tells a place or a relation:
    what such a word belongs to would change.
    """
    core = " ".join(text.split())
    stripped = core.rstrip(".!?")
    end = core[len(stripped) :]
    low = stripped.lower()
    for opening in sorted(lexicon.openings, key=len, reverse=True):
        if low.startswith(f"{opening} "):
            stripped = stripped[len(opening) + 1 :]
            break
    if stripped[:1].isupper() and bare(stripped.split(" ", 1)[0]) in _COUNTED:
        stripped = stripped[0].lower() + stripped[1:]
    things = _JOINTS.split(stripped)
    words = [thing.lower().split() for thing in things]
    listed = len(things) > 1 and all(
        len(thing) > 1 and thing[0] in _COUNTED and not _PLACES & set(thing) for thing in words
    )
    return Phrase(tuple(things) if listed else (stripped,), end, listed)


def joined(things: tuple[str, ...] | list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"


def rearranged(phrase: Phrase, *, generator: Chance) -> Phrase:
    """The things in another order, where they may have one; each order is as likely."""
    if not phrase.listed:
        return phrase
    return Phrase(tuple(shuffled(phrase.things, generator=generator)), phrase.end, listed=True)


def without_articles(phrase: Phrase) -> Phrase:
    """``a``, ``an`` and ``the`` off the beginning of every thing; numbers stay, for they say how many.

    A caption that names several things but is no plain list stays as it is.
    """
    if not phrase.listed and _JOINTS.search(phrase.words):
        return phrase
    things = []
    for thing in phrase.things:
        first, _, rest = thing.partition(" ")
        things.append(rest if first.lower() in _ARTICLES and rest else thing)
    return Phrase(tuple(things), phrase.end, phrase.listed)


def in_other_words(
    text: str, *, lexicon: Lexicon, chance: float, generator: Chance, avoid: Collection[str] = ()
) -> str:
    """Each word that has synonyms replaced with probability ``chance``, equal words alike, none by one of ``avoid``."""
    words = text.split(" ")
    chosen: dict[str, str] = {}
    for word in dict.fromkeys(map(bare, words)):
        others = [other for other in lexicon.synonyms.get(word, ()) if other not in avoid]
        if others and generator.random() < chance:
            chosen[word] = one_of(others, generator=generator)
    if not chosen:
        return text
    return with_articles(
        " ".join(instead(word, chosen[bare(word)]) if bare(word) in chosen else word for word in words)
    )


def with_articles(text: str) -> str:
    """``a`` before consonants and ``an`` before vowels, by the letter."""
    return _ARTICLE.sub(lambda found: f"{found[1]}{'n' if found[3] in _SOUNDED else ''}{found[2]}", text)


def is_spoken(text: str, *, lexicon: Lexicon) -> bool:
    """Whether a text holds a word of this lexicon: rules of one language must not be tried on another."""
    return any(bare(word) in lexicon.stopwords or bare(word) in lexicon.synonyms for word in text.split())
