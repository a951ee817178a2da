"""How much of a caption stands written in its own image, given the words that a reader found there."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Gt, Le

from tether.core.errors import InputError, MissingExtraError
from tether.core.ranges import checked

Case = Literal["lower", "fold"]
Similarity = Annotated[float, Gt(0), Le(1)]
CASES: tuple[Case, ...] = get_args(Case)
FUZZY = 0.8
"""Similarity from which two words count as one in the fuzzy measures; ours, the paper's value is not known."""
_WORD = re.compile(r"\w+")


@checked
def words_of(text: str, *, case: Case = "lower") -> list[str]:
    """Words in small letters; everything but letters, digits and the underscore parts them, so ``Coca-Cola`` is two.

    Marks that are written as characters of their own (decomposed accents, vowel signs) part words as well: compose
    texts before (the step ``text_rules`` does), on both sides or on neither.

    Args:
        text: a caption, or what a reader found.
        case: ``lower``, or ``fold`` to also make ``ß`` equal ``ss``; the same for caption and image.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    return _WORD.findall(text.lower() if case == "lower" else text.casefold())


@dataclass(frozen=True, slots=True)
class Overlap:
    """One caption against the words in its image.

    Attributes:
        words: of the caption, in order, repeats kept.
        written: different words in the image, in order of their first.
        exact: words of the caption that stand in the image, repeats kept.
        fuzzy: words of the caption that resemble one in the image, the exact ones among them; as ``exact`` where no
            threshold was given.
    """

    words: tuple[str, ...]
    written: tuple[str, ...]
    exact: tuple[str, ...]
    fuzzy: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Exact words as a fraction of the caption's, 0 for a caption without words."""
        return len(self.exact) / len(self.words) if self.words else 0.0

    @property
    def fuzzy_coverage(self) -> float:
        """Fuzzy words as a fraction of the caption's, 0 for a caption without words."""
        return len(self.fuzzy) / len(self.words) if self.words else 0.0


@checked
def caption_overlap(
    caption: str, *, ocr: Collection[str], fuzzy: Similarity | None = None, case: Case = "lower"
) -> Overlap:
    """Which words of a caption a reader found in its image.

    Source: arXiv 2312.14232, section 3; how words are parted and compared is our definition.

    Args:
        caption: one caption.
        ocr: what was read, a word or a line each.
        fuzzy: words also count as alike from this value of one minus their edit distance over the longer one's length
            on, in (0, 1]; None compares exactly only.
        case: as ``words_of``.

    Raises:
        MissingExtraError: ``fuzzy`` needs rapidfuzz.

    Example:
        >>> from tether.methods.parrot_captions.ocr_overlap import caption_overlap
        >>> one = caption_overlap("Nike running shoes, red", ocr=["NIKE", "sale"])
        >>> one.exact, one.coverage
        (('nike',), 0.25)
    """
    words = tuple(words_of(caption, case=case))
    written = tuple(dict.fromkeys(word for line in ocr for word in words_of(line, case=case)))
    known = frozenset(written)
    exact = tuple(word for word in words if word in known)
    alike = known.intersection(words)
    if fuzzy is not None:
        alike |= {word for word in set(words) - known if _resembles(word, written, least=fuzzy)}
    return Overlap(words, written, exact, tuple(word for word in words if word in alike))


def _resembles(word: str, others: Sequence[str], *, least: float) -> bool:
    try:
        from rapidfuzz.distance.Levenshtein import distance
    except ImportError as error:
        raise MissingExtraError("rapidfuzz", extra="ocr") from error
    for other in others:
        longer = max(len(word), len(other))
        # The difference in length is a distance at least; it spares most of the work.
        if 1 - abs(len(word) - len(other)) / longer >= least and 1 - distance(word, other) / longer >= least:
            return True
    return False


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """A whole set of pairs; every rate is 0 where its denominator is.

    Attributes:
        pairs: how many.
        image_text_rate: fraction of images with any word.
        caption_word_rate: fraction of all caption words that stand in their own image.
        fuzzy_caption_word_rate: the same with words that resemble one.
        co_text_rate: fraction of pairs with a caption word in the image.
        co_text_rate_given_text: the same among images with any word.
        fuzzy_co_text_rate: as ``co_text_rate`` with words that resemble one.
        fuzzy_co_text_rate_given_text: the same among images with any word.
    """

    pairs: int
    image_text_rate: float
    caption_word_rate: float
    fuzzy_caption_word_rate: float
    co_text_rate: float
    co_text_rate_given_text: float
    fuzzy_co_text_rate: float
    fuzzy_co_text_rate_given_text: float

    def as_dict(self) -> dict[str, float]:
        """Every rate by name."""
        return asdict(self)


@checked
def overlap_report(
    captions: Sequence[str], *, ocr: Sequence[Collection[str]], fuzzy: Similarity = FUZZY, case: Case = "lower"
) -> OverlapReport:
    """How many images carry text, and how often captions repeat it.

    Readers miss words, so a low rate is no proof of a clean set.

    Args:
        captions: of the n pairs.
        ocr: what was read in each image.
        fuzzy: as ``caption_overlap``.
        case: as ``words_of``.
    """
    if len(captions) != len(ocr):
        raise InputError(f"ocr: expected one list for each of {len(captions)} captions, got {len(ocr)}")
    found = [caption_overlap(text, ocr=read, fuzzy=fuzzy, case=case) for text, read in zip(captions, ocr, strict=True)]
    return summarise(found)


def summarise(overlaps: Sequence[Overlap]) -> OverlapReport:
    """The rates of overlaps that were computed before, for instance of one cluster of images."""
    pairs, words = len(overlaps), sum(len(one.words) for one in overlaps)
    lettered = sum(bool(one.written) for one in overlaps)
    exact, fuzzy = sum(bool(one.exact) for one in overlaps), sum(bool(one.fuzzy) for one in overlaps)
    return OverlapReport(
        pairs,
        _share(lettered, pairs),
        _share(sum(len(one.exact) for one in overlaps), words),
        _share(sum(len(one.fuzzy) for one in overlaps), words),
        _share(exact, pairs),
        _share(exact, lettered),
        _share(fuzzy, pairs),
        _share(fuzzy, lettered),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
