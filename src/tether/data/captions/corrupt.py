"""Captions made ungrammatical, as negatives for a judge of grammar (CLIP-Caption-Reward, arXiv 2205.13115)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.captions.rng import Chance, below, one_of, shuffled

Corruption = Literal["repeat", "remove", "insert", "swap", "shuffle"]
CORRUPTIONS: tuple[Corruption, ...] = ("repeat", "remove", "insert", "swap", "shuffle")
MOST = 3
"""Words of a run, and times that something is done."""


@checked
def corrupt(text: str, *, vocabulary: Sequence[str] = (), kind: Corruption | None = None, generator: Chance) -> str:
    """Break a caption in one way.

    - ``repeat``: a run of 1 to 3 words is put in again at 1 to 3 places.
    - ``remove``: a run of 1 to 3 words goes; of a text of so many words nothing is left.
    - ``insert``: 1 to 3 words of the vocabulary are put before others.
    - ``swap``: 1 to 3 times a word becomes another one of the vocabulary.
    - ``shuffle``: all words in another order, which may by chance be the same.

    Source: arXiv 2205.13115, section 3.3, and its release, where a text with fewer words than a run is an error; here
    runs are at most as long as the text.

    Args:
        text: words with blanks between them.
        vocabulary: words for ``insert`` and ``swap``.
        kind: which way; None draws one, each as likely.
        generator: of the draws, such as ``random.Random(0)``.

    Raises:
        InputError: a text without words, or a vocabulary without another word where one is needed.

    Example:
        >>> import random
        >>> from tether.data.captions.corrupt import corrupt
        >>> corrupt("a red ball on grass", kind="repeat", generator=random.Random(0))
        'a ball on grass ball on grass red ball on grass'
    """
    words = text.split()
    if not words:
        raise InputError(f"text: expected at least one word to corrupt, got {text!r}")
    kind = one_of(CORRUPTIONS, generator=generator) if kind is None else kind
    if kind == "shuffle":
        return " ".join(shuffled(words, generator=generator))
    run: list[str] = []
    if kind in ("repeat", "remove"):
        size = 1 + below(min(MOST, len(words)), generator=generator)
        start = below(len(words) - size + 1, generator=generator)
        run = words[start : start + size]
        if kind == "remove":
            return " ".join(words[:start] + words[start + size :])
    times = 1 + below(MOST, generator=generator)
    for _ in range(times):
        if kind == "repeat":
            place = below(len(words) + 1, generator=generator)
            words[place:place] = run
            continue
        place = below(len(words), generator=generator)
        others = vocabulary if kind == "insert" else [one for one in vocabulary if one != words[place]]
        if not others:
            raise InputError(f"vocabulary: {kind} needs another word for {words[place]!r}, got {len(vocabulary)} words")
        words[place : place + (kind == "swap")] = [one_of(others, generator=generator)]
    return " ".join(words)
