"""Phrases of things that captions speak of, counted: a pool of concepts without a parser."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.data.captions.augment import bare
from tether.data.captions.pos_tags import LexiconTagger, Tagger, pos_class

_PIECES = re.compile(r"[^,.;:!?()]+")


@checked
def concept_pool(
    captions: Iterable[str], *, min_count: Count = 2, most: Count | None = None, tagger: Tagger | None = None
) -> list[str]:
    """Adjectives followed by nouns, as they stand in captions, the most frequent first.

    RegionCLIP (arXiv 2112.09106) parses nouns out of captions; here a phrase is the longest run of adjectives and then
    nouns, in small letters; after a determiner adjectives alone will do, as in "a red square". "square" and "red
    square" are two concepts that share the probability of one thing, so only whole runs are taken.

    Args:
        captions: any number.
        min_count: how often a phrase must stand in them.
        most: phrases, at most; None gives all.
        tagger: of words; None is the ``LexiconTagger``, for which an unknown word is a noun.

    Raises:
        InputError: fewer than 2 phrases, which are no pool.

    Example:
        >>> from tether.data.captions.concepts import concept_pool
        >>> concept_pool(["a red star and a small dog", "the red star", "a dog near a red star"], min_count=1)
        ['red star', 'dog', 'small dog']
    """
    tag, found = tagger or LexiconTagger(), Counter[str]()
    for caption in captions:
        found.update(noun_phrases(caption, tagger=tag))
    kept = sorted((phrase for phrase, count in found.items() if count >= min_count), key=lambda one: (-found[one], one))
    if len(kept) < 2:
        raise InputError(f"concepts: expected at least 2 phrases that stand {min_count} times in captions, got {kept}")
    return kept[:most]


def noun_phrases(caption: str, *, tagger: Tagger | None = None) -> list[str]:
    """The phrases of one caption in their order, see ``concept_pool``.

    Example:
        >>> from tether.data.captions.concepts import noun_phrases
        >>> noun_phrases("A red star, and two small dogs in the park.")
        ['red star', 'small dogs', 'park']
    """
    tag, found = tagger or LexiconTagger(), list[str]()
    for piece in _PIECES.findall(caption):
        words = piece.split()
        found += _runs([bare(word) for word in words], tag(words))
    return found


def _runs(words: list[str], tags: Sequence[str]) -> Iterable[str]:
    """The longest runs of adjectives and then nouns; after a determiner the last adjective may stand for a noun."""
    run: list[str] = []
    named = False  # whether there is a noun in the run, or it stands after a determiner
    nouns = False
    before = ""
    for word, tag in [*zip(words, tags, strict=True), ("", ".")]:
        kind = pos_class(tag) if word else 4
        if run and (kind not in (1, 2) or (kind == 2 and nouns)):
            if named:
                yield " ".join(run)
            run, named, nouns = [], False, False
        if kind in (1, 2):
            named = named or kind == 1 or (not run and before.startswith("DT"))
            nouns = nouns or kind == 1
            run.append(word)
        before = tag
