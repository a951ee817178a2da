"""How often each concept stands in captions, and how many are in which language, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.core.errors import MissingExtraError
from tether.data.curate.metaclip.matcher import SubstringMatcher
from tether.data.curate.steps.exact_duplicates import folded
from tether.data.curate.steps.language import LanguageDetector
from tether.evaluate.datasheet.sample import Captions

_SHOWN = 12
_LEAST = 3  # letters of a word that counts as a concept, in Latin script
_PER = 10_000
_GAIN = 1.2  # by which a share must have grown to be named


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept: how many of 10,000 captions hold it, in the pool and in what was kept."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Concepts:
    """The concepts of a pool.

    Attributes:
        kind: ``entries`` of a metadata list, or ``words`` of the captions.
        frequent: those most frequent in the pool.
        gained: those whose share grew most.
        before: (n,) captions in 10,000 that hold each, most frequent first.
        after: the same of what was kept, in its own order.
        even_before: how many equally frequent concepts would be as varied (the exponential of the entropy).
        even_after: the same of what was kept.
    """

    kind: str
    frequent: list[Concept]
    gained: list[Concept]
    before: np.ndarray
    after: np.ndarray
    even_before: float
    even_after: float


def concepts(before: Captions, after: Captions, *, entries: Sequence[str] | None) -> Concepts:
    """Count entries of a metadata list where there is one, else the words of captions."""
    if entries:
        matcher = SubstringMatcher(entries, on_duplicate="first")
        sides = [_entries(matcher, side.texts) for side in (before, after)]
    else:
        sides = [word_counts(side.texts) for side in (before, after)]
    scales = [_PER / max(1, len(side.texts)) for side in (before, after)]
    names = sorted(set(sides[0]) | set(sides[1]), key=lambda name: (-sides[0][name], -sides[1][name], name))
    all_ = [Concept(name, sides[0][name] * scales[0], sides[1][name] * scales[1]) for name in names]
    least = 5 * scales[0]  # what was seen five times in the pool says something about its share
    gained = sorted((one for one in all_ if one.before >= least and one.after >= _GAIN * one.before),
                    key=lambda one: (-one.after / one.before, one.name))  # fmt: skip
    was, is_ = _curve([one.before for one in all_]), _curve([one.after for one in all_])
    return Concepts(
        kind="entries" if entries else "words",
        frequent=all_[:_SHOWN],
        gained=gained[:_SHOWN],
        before=was,
        after=is_,
        even_before=_evenness(was),
        even_after=_evenness(is_),
    )


def word_counts(texts: pa.StringArray) -> Counter[str]:
    """How many captions hold each word; function words of English, numbers and very short words are left out."""
    lists = pc.split_pattern(folded(texts), " ")
    row = np.repeat(np.arange(len(lists)), np.asarray(lists.value_lengths().fill_null(0)))
    coded = lists.flatten().dictionary_encode()
    words = coded.dictionary.to_pylist()
    both = np.unique(row.astype(np.int64) * max(1, len(words)) + np.asarray(coded.indices))
    counts = np.bincount(both % max(1, len(words)), minlength=len(words)).tolist()
    return _telling(Counter(dict(zip(words, counts, strict=True))))


def _entries(matcher: SubstringMatcher, texts: pa.StringArray) -> Counter[str]:
    _, ids = matcher.match_many(texts)
    found, counts = np.unique(ids, return_counts=True)
    return _telling(Counter(dict(zip((matcher.entries[index] for index in found), counts.tolist(), strict=True))))


def _telling(counts: Counter[str]) -> Counter[str]:
    """Those that may name something."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return Counter({
        word: count
        for word, count in counts.items()
        if (len(word) >= _LEAST or not word.isascii()) and not word.isdigit() and word.lower() not in ENGLISH_STOP_WORDS
    })  # fmt: skip


def _curve(counts: list[float]) -> np.ndarray:
    """Those above 0, in descending order."""
    ordered = np.sort(np.array(counts, np.float64))[::-1]
    return ordered[ordered > 0]


def _evenness(counts: np.ndarray) -> float:
    if not len(counts):
        return 0.0
    share = counts / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Spoken:
    """Fraction of the captions that are in one language.

    Attributes:
        code: the language's code, ``und`` for captions without letters, or ``others``.
        before: fraction of the pool, 0 to 1.
        after: fraction of what was kept, 0 to 1.
    """

    code: str
    before: float
    after: float


def languages(before: Captions, after: Captions) -> list[Spoken] | None:
    """The most frequent languages of the pool, or None where the detector is not installed."""
    detector = LanguageDetector()
    try:
        sides = [Counter(detector.detect_many(side.texts).codes.to_pylist()) for side in (before, after)]
    except MissingExtraError:
        return None
    order = sorted(set(sides[0]) | set(sides[1]), key=lambda code: (-sides[0][code], -sides[1][code], code))
    totals = [max(1, side.total()) for side in sides]
    found = [Spoken(code, *(side[code] / total for side, total in zip(sides, totals, strict=True)))
             for code in order[:_SHOWN]]  # fmt: skip
    rest = [sum(side[code] for code in order[_SHOWN:]) / total for side, total in zip(sides, totals, strict=True)]
    return [*found, Spoken(OTHERS, *rest)] if any(rest) else found
