"""Words that name an attribute: found in texts as whole words, made neutral, and exchanged for those of each group."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.core.ranges import checked

_FORMAT = "tether-attribute-lexicon-1"
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)
_EMPTY = re.compile(r"\s+([,.;:!?]|$)")


@checked
@dataclass(frozen=True)
class AttributeLexicon:
    """An attribute's groups, each with the words and phrases that name it.

    Matching goes by whole words in any case: ``cat`` is not in ``catalogue`` nor in ``cat-like``. Regular English
    plurals and possessives are found and kept (``kitten's`` becomes ``cub's``).

    A group's words are of two kinds. One with a neutral word is exchanged for it (``kitten`` for ``cub``). One without
    is an adjective or a phrase that is left out of the neutral text and put in for the group: before a noun
    (``striped``), or at the end (``on brick``). A group takes its first word that fits.

    Source: arXiv 2408.10202; its word lists are not public, so yours are the method's input.

    Attributes:
        groups: name of each group with its words, lower case.
        neutral: neutral word for a group's word.
        nouns: further words that adjectives may stand before, besides the neutral words.
        place: where adjectives and phrases go, ``before`` each noun or at the ``end`` of the text.
        plurals: irregular plurals, such as ``{"mouse": "mice"}``.
        inflection: ``english`` knows regular plurals and possessives, ``none`` only the words as they stand.
    """

    groups: Mapping[str, Sequence[str]]
    neutral: Mapping[str, str] = field(default_factory=dict)
    nouns: Sequence[str] = ()
    place: Literal["before", "end"] = "before"
    plurals: Mapping[str, str] = field(default_factory=dict)
    inflection: Literal["english", "none"] = "english"

    def __post_init__(self) -> None:
        """Refuse lists that contradict themselves, and make the patterns."""
        if len(self.groups) < 2:
            raise InputError(f"groups: an attribute needs at least two, got {list(self.groups)}")
        owner: dict[str, str] = {}
        for group, words in self.groups.items():
            if not words or not all(word and word == word.lower().strip() for word in words):
                raise InputError(f"groups: {group}: expected a list of words in lower case, got {words!r}")
            for word in words:
                if owner.setdefault(word, group) != group:
                    raise InputError(f"groups: {word!r} is a word of {owner[word]!r} and of {group!r}")
        if strange := [word for word in self.neutral if word not in owner]:
            raise InputError(f"neutral: {strange[0]!r} is no word of a group")
        anchors = dict.fromkeys([*self.neutral.values(), *self.nouns])
        if strange := [word for word in anchors if word in owner or not word]:
            raise InputError(f"neutral: expected a word that names no group, got {strange[0]!r}")
        object.__setattr__(self, "nouns", tuple(self.nouns))
        object.__setattr__(self, "groups", {group: tuple(words) for group, words in self.groups.items()})
        object.__setattr__(self, "_attribute", _Forms(tuple(owner), self.plurals, self.inflection))
        object.__setattr__(self, "_anchor", _Forms(tuple(anchors), self.plurals, self.inflection))

    def mentions(self, text: str) -> bool:
        """Whether the text names the attribute."""
        return self._forms("_attribute").search(text) is not None

    def neutralize(self, text: str) -> str:
        """The text without the attribute: each of its words exchanged for its neutral one, or left out."""
        return self._forms("_attribute").replace(text, {word: self.neutral.get(word, "") for word in self._words()})

    def versions(self, text: str) -> dict[str, str] | None:
        """For each group the neutral text with that group named; None when nothing in the text can carry it."""
        plain = self.neutralize(text)
        made: dict[str, str] = {}
        for group, words in self.groups.items():
            exchange = {self.neutral[word]: word for word in reversed(words) if word in self.neutral}
            loose = next((word for word in words if word not in self.neutral), None)
            version = self._forms("_anchor").replace(plain, exchange)
            if version == plain and loose is not None:
                version = self._insert(plain, loose)
            if version == plain:
                return None
            made[group] = version
        return made

    def save(self, path: Path | str) -> None:
        """Write the lists to one JSON file, atomically; lists of other languages are such files."""
        write_json(Path(path), {"format": _FORMAT} | self.as_plain())

    @classmethod
    def load(cls, path: Path | str) -> AttributeLexicon:
        """Read what ``save`` wrote."""
        values = read_json(Path(path))
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise InputError(f"{path}: expected an attribute lexicon ({_FORMAT})")
        try:
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise InputError(f"{path}: not the lists of a lexicon: {error}") from None

    def as_plain(self) -> dict[str, object]:
        """The lists as plain values, from which ``AttributeLexicon(**values)`` makes the same one."""
        return {
            "groups": {group: list(words) for group, words in self.groups.items()},
            "neutral": dict(self.neutral),
            "nouns": list(self.nouns),
            "place": self.place,
            "plurals": dict(self.plurals),
            "inflection": self.inflection,
        }

    def _words(self) -> list[str]:
        return [word for words in self.groups.values() for word in words]

    def _forms(self, which: Literal["_attribute", "_anchor"]) -> _Forms:
        return self.__dict__[which]

    def _insert(self, plain: str, word: str) -> str:
        anchors = self._forms("_anchor")
        if self.place == "before":
            return anchors.replace(plain, {anchor: f"{word} {anchor}" for anchor in anchors.words})
        if anchors.words and anchors.search(plain) is None:
            return plain
        body = plain.rstrip()
        ending = body[len(body.rstrip(".!?")) :]
        return f"{body[: len(body) - len(ending)].rstrip()} {word}{ending}".strip() if body else plain


class _Forms:
    """Words in all their forms, found in texts as whole words, the longest first."""

    def __init__(self, words: tuple[str, ...], plurals: Mapping[str, str], inflection: str) -> None:
        self.words = words
        self._plurals = plurals
        self._english = inflection == "english"
        self._known: dict[str, tuple[str, bool]] = {}
        for word in words:
            self._known.setdefault(word, (word, False))
        for word in words if self._english else ():
            self._known.setdefault(self._plural(word), (word, True))
        forms = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in sorted(self._known, key=len, reverse=True))
        ending = r"(?P<ending>['’]s|['’])?" if self._english else "(?P<ending>)"
        self._pattern = re.compile(rf"(?<![\w-])(?P<form>{forms}){ending}(?![\w-])", re.IGNORECASE) if forms else None

    def search(self, text: str) -> re.Match[str] | None:
        return None if self._pattern is None else self._pattern.search(text)

    def replace(self, text: str, exchange: Mapping[str, str]) -> str:
        """The text with words exchanged, in their number, case and ending; an empty one leaves the word out.

        An article before a word that changes its first sound follows it.
        """
        if self._pattern is None:
            return text
        done, at = "", 0
        for match in self._pattern.finditer(text):
            word, plural = self._known[" ".join(match["form"].lower().split())]
            if word not in exchange:
                continue
            new = exchange[word]
            if new and plural:
                first, _, last = new.rpartition(" ")
                new = f"{first} {self._plural(last)}".strip()
            if match["form"][0].isupper():
                new = new[:1].upper() + new[1:]
            before, rest = text[at : match.start()], text[match.end() :]
            following = new or rest.lstrip()
            done = _with_article(done + before, following) + (new + (match["ending"] or "") if new else "")
            at = match.end() if new else match.end() + len(rest) - len(rest.lstrip())
        done += text[at:]
        return _EMPTY.sub(r"\1", done).strip() if done != text else text

    def _plural(self, word: str) -> str:
        if word in self._plurals:
            return self._plurals[word]
        first, _, last = word.rpartition(" ")
        if re.search(r"(s|x|z|ch|sh)$", last):
            last += "es"
        elif re.search(r"[^aeiou]y$", last):
            last = last[:-1] + "ies"
        else:
            last += "s"
        return f"{first} {last}".strip()


def _with_article(before: str, following: str) -> str:
    """What stands before a changed word, with ``a`` or ``an`` as the word wants it."""
    match = _ARTICLE.search(before)
    if match is None or not following[:1].isalpha():
        return before
    wanted = "an" if following[0].lower() in "aeiou" else "a"
    wanted = wanted.capitalize() if match[1][0].isupper() else wanted
    return before[: match.start()] + wanted + match[2]
