"""How varied the captions of a data set are, and how long."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tether.core.errors import InputError
from tether.core.protocols import Source

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True, slots=True)
class CaptionStats:
    """Counts over texts; a word is a run of letters and digits, in small letters.

    Attributes:
        texts: how many, blank ones among them.
        distinct: different texts.
        words: running words.
        vocabulary: different words.
        mean_length: running words of a text.
        longest: words of the longest text.
        type_token_ratio: ``vocabulary / words``; falls with the number of texts, so compare equally many.
    """

    texts: int
    distinct: int
    words: int
    vocabulary: int
    mean_length: float
    longest: int
    type_token_ratio: float


def caption_stats(texts: Iterable[str]) -> CaptionStats:
    """Count texts and words; the texts are read once and not kept.

    Source: arXiv 2310.07699, the argument for mixing: written captions have fewer different words than alt-texts.
    """
    words: Counter[str] = Counter()
    seen: set[int] = set()
    count = longest = 0
    for text in texts:
        found = _WORD.findall(text.lower())
        words.update(found)
        seen.add(hash(text))
        count, longest = count + 1, max(longest, len(found))
    if not count:
        raise InputError("texts: expected at least one, got none")
    total = sum(words.values())
    ratio = len(words) / total if total else 0.0
    return CaptionStats(count, len(seen), total, len(words), total / count, longest, ratio)


CONTEXT = 77
"""Tokens that CLIP reads, its start and its end included."""


@dataclass(frozen=True, slots=True)
class CaptionLengths:
    """Lengths of captions.

    Attributes:
        captions: how many, empty ones left out.
        mean: characters of a caption, on average.
        median: characters of the middle caption.
        longest: characters of the longest.
        mean_words: pieces between blanks, on average.
        cut: fraction of the captions with more than ``limit`` tokens; None where tokens were not counted.
    """

    captions: int
    mean: float
    median: float
    longest: int
    mean_words: float
    cut: float | None


def caption_lengths(
    dataset: Source | Iterable[str], *, tokens: Callable[[str], int] | None = None, limit: int = CONTEXT
) -> CaptionLengths:
    """Measure every caption of a source, or of some texts; images are not opened.

    Source: arXiv 2311.04711, table 1 (45 characters on the web, 267 on arXiv, 465 in PubMed Central).

    Args:
        dataset: a source, every caption of every row counts; or texts.
        tokens: how many tokens a text has.
        limit: tokens that are read; what is longer loses its end.
    """
    texts = _texts(dataset) if isinstance(dataset, Source) else dataset
    characters, words, cut = [], 0, 0
    for text in texts:
        if text.strip():
            characters.append(len(text))
            words += len(text.split())
            cut += tokens is not None and tokens(text) > limit
    if not characters:
        raise InputError("expected at least one caption, got none")
    count = len(characters)
    return CaptionLengths(
        captions=count,
        mean=float(np.mean(characters)),
        median=float(np.median(characters)),
        longest=max(characters),
        mean_words=words / count,
        cut=None if tokens is None else cut / count,
    )


def _texts(source: Source) -> Iterable[str]:
    return (text for block in source.blocks() for row in source.read(block) for text in row.texts)
