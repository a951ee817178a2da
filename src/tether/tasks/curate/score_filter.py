"""Pairs kept by how well image and caption fit, with what misleads the score taken out of either before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Number, checked
from tether.core.runtime_protocol import ByAttributes
from tether.data.curate.steps.numbers import FRACTION
from tether.data.curate.steps.score_selection import checked_scores, rows_from, top_rows
from tether.tasks.curate.scorer import ImageInput

EMPTY = -1.0
"""Score of a caption of which a transform left nothing: it is kept before no other."""
T = TypeVar("T")
Fraction = Annotated[float, Gt(0), Le(1)]
TextTransform = Callable[[str], str]
ImageTransform = Callable[[ImageInput], ImageInput]


class PairScorer(Protocol):
    """Scores pairs; ``ClipScorer`` is one, and so is any function."""

    def __call__(
        self, images: Sequence[ImageInput] | UInt8[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[np.ndarray, " n"]:
        """(n,) one finite score for each pair, higher where they fit better."""
        ...


@runtime_checkable
class Digested(Protocol, metaclass=ByAttributes):
    """A scorer that names its model's weights."""

    digest: str


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What a filter did last.

    Attributes:
        scored: pairs that were scored.
        emptied: of these, captions of which the transforms left nothing.
        kept: pairs selected, or -1 before ``select``.
        lowest: lowest score that was selected, NaN where none was.
        mean: of all scores, NaN without any.
        text_transform: names of the transforms, in order.
        image_transform: names of the transforms, in order.
        digest: of the scorer's model, empty where it names none.
    """

    scored: int
    emptied: int
    kept: int
    lowest: float
    mean: float
    text_transform: tuple[str, ...]
    image_transform: tuple[str, ...]
    digest: str


class ScoreFilter:
    """Keeps the pairs that a scorer finds to fit best, after transforms of caption and image.

    The transforms serve the decision only: what is kept is the pair as it was. Source: arXiv 2309.13770, where the
    transform takes numbers out of the caption (``data.curate.mask_numbers``); with ``FillText`` on the images it is
    a filter after T-MARS. What the paper masks exactly could not be read; the rule is ours.

    Args:
        scorer: a ``ClipScorer`` or any function of images and texts.
        fraction: of the pairs scored that are kept; 0.4 where neither this nor a threshold is given.
        threshold: instead, the least score that is kept.
        text_transform: functions from caption to caption, applied in order.
        image_transform: functions from image to image, applied in order.

    Example:
        >>> import numpy as np
        >>> from tether.data.curate import mask_numbers
        >>> from tether.models import create
        >>> from tether.tasks.curate.score_filter import ScoreFilter
        >>> from tether.tasks.curate.scorer import ClipScorer
        >>> best = ScoreFilter(ClipScorer(create("tiny").eval()), fraction=0.4, text_transform=mask_numbers)
        >>> images = list(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
        >>> scores = best.score(images, ["a red car 2019", "a dog", "4417", "a cat 12/05", "an owl"])
        >>> float(scores[2]), len(best.select(scores))  # without its number the third has no caption
        (-1.0, 2)
    """

    @checked
    def __init__(
        self,
        scorer: PairScorer,
        *,
        fraction: Fraction | None = None,
        threshold: Number | None = None,
        text_transform: Sequence[TextTransform] | TextTransform | None = None,
        image_transform: Sequence[ImageTransform] | ImageTransform | None = None,
    ) -> None:
        """Take the settings."""
        self.fraction, self.threshold = one_limit(fraction, threshold)
        self.scorer = scorer
        self.text_transform, self.image_transform = listed(text_transform), listed(image_transform)
        self._scores = np.zeros(0)
        self._emptied = 0
        self._kept: np.ndarray | None = None

    def score(
        self, images: Sequence[ImageInput] | UInt8[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[np.ndarray, " n"]:
        """(n,) float64 score of each transformed pair; -1 where the transforms left no caption.

        Raises:
            TypeError: a caption that is no string.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected a list of captions, got one str")
        if len(images) != len(texts):
            raise InputError(f"expected one text for each image, got {len(images)} images and {len(texts)} texts")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{place}]: expected str, got {type(text).__name__}")
        told = [transformed(text, self.text_transform) for text in texts]
        shown = [transformed(image, self.image_transform) for image in images] if self.image_transform else images
        scores = checked_scores(self.scorer(shown, told)).copy()
        if len(scores) != len(texts):
            raise InputError(f"scorer: expected {len(texts)} scores, got {len(scores)}")
        empty = (
            np.array([not text for text in told], np.bool_) if self.text_transform else np.zeros(len(told), np.bool_)
        )
        scores[empty] = EMPTY
        self._scores, self._emptied, self._kept = scores, int(empty.sum()), None
        return scores

    def select(self, scores: Float[np.ndarray, " n"] | Sequence[float]) -> Int[np.ndarray, " k"]:
        """Rows that are kept, in rising order.

        With a fraction the floor(fraction * n) best, ties to the smaller row; with a threshold all from there on.
        """
        found = checked_scores(scores)
        if self.threshold is not None:
            kept = rows_from(found, threshold=self.threshold)
        else:
            assert self.fraction is not None
            kept = top_rows(found, fraction=self.fraction)
        self._scores, self._kept = found, kept
        return kept

    def report(self) -> FilterReport:
        """What was scored and selected last."""
        kept, scores = self._kept, self._scores
        return FilterReport(
            scored=len(scores),
            emptied=self._emptied,
            kept=-1 if kept is None else len(kept),
            lowest=float(scores[kept].min()) if kept is not None and len(kept) else float("nan"),
            mean=float(scores.mean()) if len(scores) else float("nan"),
            text_transform=tuple(map(name_of, self.text_transform)),
            image_transform=tuple(map(name_of, self.image_transform)),
            digest=self.scorer.digest if isinstance(self.scorer, Digested) else "",
        )


def transformed(value: T, transforms: Sequence[Callable[[T], T]]) -> T:
    """The value after each transform in order."""
    for transform in transforms:
        value = transform(value)
    return value


def name_of(transform: Callable[..., object]) -> str:
    """A transform's name for reports: of the function, or of its class."""
    return getattr(transform, "__name__", type(transform).__name__)


def one_limit(fraction: float | None, threshold: float | None) -> tuple[float | None, float | None]:
    """Fraction and threshold, of which one is None; both None stand for a fraction of 0.4."""
    if fraction is not None and threshold is not None:
        raise InputError(f"expected fraction or threshold, got both ({fraction} and {threshold})")
    return (FRACTION if fraction is None and threshold is None else fraction), threshold


def listed(given: Any) -> tuple[Any, ...]:
    """Transforms, or names of them, as a tuple; one alone may be given, or None."""
    if given is None:
        return ()
    return (given,) if callable(given) or isinstance(given, str) else tuple(given)
