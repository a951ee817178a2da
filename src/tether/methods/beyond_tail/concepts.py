"""How often each class is named in captions, by whole words, and a data set whose rarest classes are cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked

IMAGENET_NEGATIVES: Mapping[str, tuple[str, ...]] = {
    "sorrel": ("plant", "herb", "flower", "leaf"),
    "horizontal bar": ("chart", "plot", "graph", "diagram"),
    "impala": ("car", "automobile", "vehicle", "chevy"),
    "bow": ("tie",),
    "ringlet": ("hair",),
    "ram": (
        *("car", "truck", "automobile", "vehicle", "dodge", "logo", "computer", "memory"),
        *("random access", "chip", "review"),
    ),
    "crane": ("bird", "fish", "water", "wing", "leg", "zoo"),
    "sub": ("sandwich", "bread", "italian", "meatball", "grill", "menu"),
    "sidewinder": ("missile", "army", "military", "resort", "park"),
}
"""Words that tell another meaning of nine ImageNet classes, by one of their names (arXiv 2405.21070, code)."""

Lemmatise = Callable[[str], str]
Names = str | Sequence[str]
_BRACKETS = re.compile(r"\([^)]*\)")
_ALTERNATIVES = re.compile(" or | / ")
_NO_LETTER = re.compile("[^a-z ]")


def words_of(text: str | None, *, lemmatise: Lemmatise | None = None) -> list[str]:
    """The words of a text in small letters; whatever is not a to z parts them. None has none."""
    if text is None:
        return []
    words = _NO_LETTER.sub(" ", text.lower()).split()
    return words if lemmatise is None else [lemmatise(word) for word in words]


def names_of(given: Names) -> list[str]:
    """The names of a class: ``ram or tup`` has two, ``hot dog (food)`` is ``hot dog``; a list is taken name by name."""
    if isinstance(given, str):
        return [name.strip() for name in _ALTERNATIVES.split(_BRACKETS.sub("", given.lower()))]
    return [_BRACKETS.sub("", name.lower()).strip() for name in given]


def concept_frequency(
    captions: Iterable[str | None],
    *,
    class_names: Sequence[Names],
    negatives: Mapping[str, Sequence[str]] | None = None,
    lemmatise: Lemmatise | None = None,
) -> Int[np.ndarray, " c"]:
    """In how many captions each class stands; a caption may count for several classes, for each once.

    A caption counts for a class when all words of one of its names stand in it, in any order, and none of the words
    that tell another meaning does. Only letters a to z are read.

    Source: arXiv 2405.21070, released code (``calc_class_frequency.py``), which splits words with NLTK and brings them
    to their base form with WordNet. Differs in that words are split at blanks, nothing is lemmatised unless you say
    how, and a class or name without a letter is refused or ignored, where it would count for every caption.

    Args:
        captions: texts, or an Arrow column of them.
        class_names: one entry for each of c classes: a text whose alternatives stand between `` or `` or `` / ``, or
            a list of names.
        negatives: for a class, given by any one of its names, words that rule it out; such as ``IMAGENET_NEGATIVES``.
            Each word of ``random access`` counts for itself. Of several that fit a class, the first.
        lemmatise: from a word to its base form, for captions, names and negatives alike.

    Returns:
        (c,) int64 counts; those of shards add.
    """
    if isinstance(captions, str):
        raise InputError("captions: expected many texts, got one str")
    by_word: dict[str, list[tuple[int, frozenset[str]]]] = {}
    barred: dict[int, frozenset[str]] = {}
    for index, given in enumerate(class_names):
        names = names_of(given)
        found = [words for name in names if (words := words_of(name, lemmatise=lemmatise))]
        if not found:
            raise InputError(f"class_names[{index}]: expected a name with a letter from a to z, got {given!r}")
        for words in found:
            by_word.setdefault(max(words, key=len), []).append((index, frozenset(words)))
        against = next((texts for name, texts in (negatives or {}).items() if name in names), ())
        barred[index] = frozenset(word for text in against for word in words_of(text, lemmatise=lemmatise))
    counts = np.zeros(len(class_names), np.int64)
    for caption in _plain(captions):
        words = set(words_of(caption, lemmatise=lemmatise))
        hit = {index for word in words & by_word.keys() for index, name in by_word[word] if name <= words}
        for index in hit:
            counts[index] += barred[index].isdisjoint(words)
    return counts


@checked
def trim_tail(
    labels: Sequence[int] | np.ndarray,
    *,
    rarest: Whole,
    at_most: Whole,
    generator: np.random.Generator,
    classes: int | None = None,
) -> Int[np.ndarray, " k"]:
    """Rows that stay when the rarest classes are cut to a few rows each, such as 0 or 1.

    Source: arXiv 2405.21070 section 4, released code (``create_incaps_trim_tail.py``); ties go to the first class.

    Args:
        labels: (n,) class of each row.
        rarest: how many classes are cut, 0 to c; a class without a row is the rarest.
        at_most: rows that each of them keeps, at least 0.
        generator: decides which.
        classes: c; None is the largest label + 1.

    Returns:
        positions of the rows that stay, ascending.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
        raise InputError(f"labels: expected whole numbers (n,), got {given.dtype} {given.shape}")
    given = given.astype(np.int64)
    count = (int(given.max()) + 1 if len(given) else 0) if classes is None else classes
    if len(given) and (given.min() < 0 or given.max() >= count):
        raise InputError(f"labels: expected 0 to {count - 1}, got {given.min()} to {given.max()}")
    if rarest > count:
        raise InputError(f"rarest: expected 0 to {count}, the number of classes, got {rarest}")
    stays = np.ones(len(given), np.bool_)
    for label in np.argsort(np.bincount(given, minlength=count), kind="stable")[:rarest]:
        rows = np.flatnonzero(given == label)
        if len(rows) > at_most:
            stays[generator.choice(rows, len(rows) - at_most, replace=False)] = False
    return np.flatnonzero(stays)


def _plain(captions: Iterable[str | None]) -> Iterable[str | None]:
    return captions.to_pylist() if isinstance(captions, (pa.Array, pa.ChunkedArray)) else captions
