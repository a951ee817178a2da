"""How good written captions are: CIDEr against references, true words that are said, and repetition."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.tasks.caption.cider_reward import CiderReward

_WORDS = re.compile(r"'(?:s|re|ve|ll|d|m|t)\b|[^\W_]+(?:-[^\W_]+)*")


def caption_words(caption: str) -> list[str]:
    """Lower-case words without punctuation; ``'s`` and the like stand alone, as the Penn Treebank has them.

    Example:
        >>> from tether.evaluate.captions import caption_words
        >>> caption_words("The man's red-hot pan, again!")
        ['the', 'man', "'s", 'red-hot', 'pan', 'again']
    """
    return _WORDS.findall(caption.lower())


@dataclass(frozen=True, slots=True, eq=False)
class CiderScores:
    """CIDEr-D, 0 to 10, where published figures are often given times 100.

    Attributes:
        mean: over the images.
        each: (n,) of each image.
    """

    mean: float
    each: Float[np.ndarray, " n"]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CiderScores:
    """CIDEr-D (arXiv 1411.5726) as pycocoevalcap's scorer has it, on words that are found in Python, so without Java.

    Numbers differ a little from those with the Java tokenizer. Words count by how few of the images' references have
    them, so figures of other images do not compare, and one image alone always gets 0.

    Args:
        captions: one for each image; an empty one gets 0.
        references: of each image, at least one.

    Raises:
        InputError: no captions, or not a list of references for each.

    Example:
        >>> from tether.evaluate.captions import cider
        >>> references = [["a red ball lies on a table"], ["two blue cats in the sun"]]
        >>> bool(cider(["a red ball lies on a table", "a dog"], references).each[0] > 9.9)
        True
    """
    _check(captions, references, name="references")
    if empty := [place for place, some in enumerate(references) if not any(caption_words(one) for one in some)]:
        raise InputError(f"references: expected words for each image, got none at place {empty[0]}")
    each = CiderReward(references, words=caption_words)(captions, references)
    return CiderScores(float(each.mean()), each)


@dataclass(frozen=True, slots=True, eq=False)
class AttributeScores:
    """What captions say of what is true.

    Attributes:
        recall: share of all true attributes that are said, 0 to 1.
        precision: share of said attributes that are true; NaN where none is said.
        each: (n,) recall of each image; NaN where nothing is true of it.
    """

    recall: float
    precision: float
    each: Float[np.ndarray, " n"]


def attribute_scores(
    captions: Sequence[str], true: Sequence[Collection[str]], *, known: Collection[str] | None = None
) -> AttributeScores:
    """How many words or phrases that are true of an image its caption says.

    Args:
        captions: one for each image.
        true: of each image, such as ``{"red", "square"}`` or ``{"red square"}``; a phrase is said where its words stand
            side by side.
        known: all attributes that count when they are said; None takes all that are true of some image.

    Raises:
        InputError: no captions, not as many sets, or nothing that is true of any image.

    Example:
        >>> from tether.evaluate.captions import attribute_scores
        >>> found = attribute_scores(["a red ball", "a red cube"], [{"red", "ball"}, {"blue", "cube"}])
        >>> found.recall, found.precision
        (0.75, 0.75)
    """
    _check(captions, true, name="true")
    wanted = [{tuple(caption_words(one)) for one in some} - {()} for some in true]
    if not any(wanted):
        raise InputError("true: expected an attribute of some image, got none")
    listed = set().union(*wanted) if known is None else {tuple(caption_words(one)) for one in known} - {()}
    said = [_said(caption, listed | some) for caption, some in zip(captions, wanted, strict=True)]
    hits = np.array([len(one & some) for one, some in zip(said, wanted, strict=True)], dtype=np.float64)
    asked = np.array([len(some) for some in wanted], dtype=np.float64)
    told = sum(map(len, said))
    each = np.divide(hits, asked, out=np.full(len(hits), np.nan), where=asked > 0)
    return AttributeScores(float(hits.sum() / asked.sum()), float(hits.sum() / told) if told else float("nan"), each)


def repeated_bigrams(captions: Sequence[str]) -> float:
    """Share of captions in which two words stand side by side twice, a sign that the language broke down.

    Raises:
        InputError: no captions.

    Example:
        >>> from tether.evaluate.captions import repeated_bigrams
        >>> repeated_bigrams(["a red ball", "a red ball a red ball"])
        0.5
    """
    _check(captions, captions, name="captions")
    found = 0
    for caption in captions:
        words = caption_words(caption)
        pairs = list(itertools.pairwise(words))
        found += len(set(pairs)) < len(pairs)
    return found / len(captions)


def _said(caption: str, attributes: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    words = caption_words(caption)
    lengths = {len(one) for one in attributes}
    runs = {tuple(words[start : start + size]) for size in lengths for start in range(len(words) - size + 1)}
    return runs & set(attributes)


def _check(captions: Sequence[str], beside: Sequence[object], *, name: str) -> None:
    if not captions or len(captions) != len(beside):
        raise InputError(f"{name}: expected one entry for each of at least one caption, got {len(beside)}")
    if isinstance(captions, str) or any(isinstance(one, str) for one in beside if name != "captions"):
        raise InputError(f"{name}: expected lists, got a string in place of one")
