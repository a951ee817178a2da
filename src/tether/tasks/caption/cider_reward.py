"""CIDEr-D of single captions against a fixed collection of references, as a reward."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError

GRAMS, SIGMA = 4, 6.0
Words = Callable[[str], list[str]]
Gram = tuple[str, ...]


class CiderReward:
    """Scores captions with the rarities of a training set's references (arXiv 1411.5726), 0 to 10.

    pycocoevalcap's scorer counts rarities among the very captions that it scores, so a sample's score would depend on
    its batch; on one and the same collection the two agree.

    Example:
        >>> from tether.tasks.caption.cider_reward import CiderReward
        >>> scorer = CiderReward([["a red ball lies here"], ["two cats in the sun"], ["a tall tree"]])
        >>> scorer(["a red ball lies here", ""], [["a red ball lies here"], ["a tall tree"]]).round(3).tolist()
        [10.0, 0.0]
    """

    def __init__(self, references: Sequence[Sequence[str]], *, words: Words = str.split) -> None:
        """Count the images that have each run of 1 to 4 words.

        Args:
            references: of each image of the training set.
            words: of a caption.

        Raises:
            InputError: no image, or one without a reference.
        """
        if not references or not all(references) or any(isinstance(some, str) for some in references):
            raise InputError(f"references: expected at least one of each image, got {len(references)} images")
        self._words, self._log_count = words, math.log(len(references))
        self._images: Counter[Gram] = Counter()
        for some in references:
            self._images.update({gram for text in some for gram in self._grams(text)})

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " n"]:
        """CIDEr-D of each caption against its own references.

        Raises:
            InputError: not a list of references for each.
        """
        if len(captions) != len(references) or not all(references):
            raise InputError(f"references: expected some for each of {len(captions)} captions, got {len(references)}")
        found = []
        for caption, some in zip(captions, references, strict=True):
            own = self._vector(caption)
            found.append(np.mean([_likeness(own, self._vector(one)) for one in some]))
        return 10 * np.array(found, dtype=np.float64)

    def _grams(self, text: str) -> Counter[Gram]:
        words = self._words(text)
        return Counter(tuple(words[at : at + n]) for n in range(1, GRAMS + 1) for at in range(len(words) - n + 1))

    def _vector(self, text: str) -> tuple[dict[Gram, float], list[float], int]:
        """Weights of runs, their length for each size of run, and the pairs of words, by which texts are long."""
        grams = self._grams(text)
        weights = {g: n * (self._log_count - math.log(max(1, self._images[g]))) for g, n in grams.items()}
        norms = [math.sqrt(sum(w * w for g, w in weights.items() if len(g) == size)) for size in range(1, GRAMS + 1)]
        return weights, norms, sum(n for gram, n in grams.items() if len(gram) == 2)


def _likeness(
    own: tuple[dict[Gram, float], list[float], int], other: tuple[dict[Gram, float], list[float], int]
) -> float:
    sums = [0.0] * GRAMS
    for gram, weight in own[0].items():
        there = other[0].get(gram, 0.0)
        sums[len(gram) - 1] += min(weight, there) * there
    shares = [s / (a * b) if a and b else 0.0 for s, a, b in zip(sums, own[1], other[1], strict=True)]
    return sum(shares) / GRAMS * math.exp(-((own[2] - other[2]) ** 2) / (2 * SIGMA**2))
