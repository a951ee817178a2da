"""How varied texts are: what tells captions that all sound alike from captions that do not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tether.core.errors import InputError

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
