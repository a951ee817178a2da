"""A step of a recipe: keep the pairs whose image and caption fit, by the cosine of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import Number, checked
from tether.core.registry import Registry
from tether.data.curate.engine.hashing import hashed
from tether.data.curate.engine.step import IMAGE, Counts, State, column_of, images_of, texts_of
from tether.data.curate.steps.numbers import mask_numbers
from tether.tasks.curate.lazy_encoder import Backbone
from tether.tasks.curate.score_filter import (
    EMPTY,
    Fraction,
    ImageTransform,
    TextTransform,
    listed,
    one_limit,
    transformed,
)
from tether.tasks.curate.text_reader import FillText

TextTransformName = Literal["mask_numbers", "mask_number_words"]
ImageTransformName = Literal["fill_text"]

_DIGITS = 4
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def mask_number_words(text: str) -> str:
    """The caption without every word that holds a digit."""
    return mask_numbers(text, mode="token")


TEXT_TRANSFORMS: Mapping[str, TextTransform] = {"mask_numbers": mask_numbers, "mask_number_words": mask_number_words}
"""What a recipe may have done to captions before they are scored."""
IMAGE_TRANSFORMS: Registry[FillText] = Registry(
    "image_transforms",
    {
        "fill_text": "tether.tasks.curate.text_reader:FillText",
    },
)
"""What a recipe may have done to images before they are scored."""


class ClipScore:
    """Keeps the pairs with the highest cosine of image and caption, a fraction of them or all from a threshold on.

    Transforms serve the decision only: pairs are kept as they are. Pairs without an image or caption, and those whose
    image cannot be decoded, are refused and count in no fraction. Equal scores go to the smaller hash of the key.
    With a fraction the pool is scored while it is counted, and memory holds 12 bytes for each pair.

    Two machines, or batches of other sizes, may give scores that differ in the seventh digit, and with them a pair
    that stands right at the edge.

    Source: arXiv 2309.13770 (with ``mask_numbers``); with ``fill_text`` after T-MARS.
    """

    columns: tuple[str, ...] = (IMAGE,)

    @checked
    def __init__(
        self,
        *,
        model: str,
        fraction: Fraction | None = None,
        threshold: Number | None = None,
        text_transform: Sequence[TextTransformName] | TextTransformName = (),
        image_transform: Sequence[ImageTransformName] | ImageTransformName = (),
        device: str = "cpu",
    ) -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            fraction: of the pairs that could be scored; 0.4 where no threshold is given.
            threshold: instead, the least cosine that is kept.
            text_transform: names in ``TEXT_TRANSFORMS``, applied in order; a caption of which they leave nothing
                scores -1.
            image_transform: names in ``IMAGE_TRANSFORMS``, applied in order.
            device: of the model.
        """
        self.fraction, self.threshold = one_limit(fraction, threshold)
        self.counts: Counts = "nothing" if self.fraction is None else "pool"
        self.text_transform = listed(text_transform)
        self.image_transform = listed(image_transform)
        self.backbone = Backbone(model, device=device)
        after = "".join(f" after {name}" for name in (*self.text_transform, *self.image_transform))
        limit = f"below {threshold}" if self.fraction is None else f"not among the best {self.fraction:.4g} of the pool"
        self.refusal = f"CLIP score{after} {limit}, or nothing to score"
        self._clear()

    def _clear(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._sorted = True
        self._cut: tuple[float, int] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, the model's digest, and what transforms depend on."""
        return {
            "model": self.backbone.name,
            "model_digest": self.backbone.digest,
            "fraction": self.fraction,
            "threshold": self.threshold,
            "text_transform": list(self.text_transform),
            "image_transform": [IMAGE_TRANSFORMS[name]().settings for name in self.image_transform],
        }

    def empty(self) -> Self:
        """The same settings and model without scores."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__}
        other._clear()
        return other

    def scores(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """(n,) float32 cosines of a batch with the columns ``text`` and ``image``; NaN where there is none."""
        texts, images = texts_of(rows).to_pylist(), images_of(rows)
        image_of = [IMAGE_TRANSFORMS[name]() for name in self.image_transform]
        transforms: list[ImageTransform] = list(image_of)
        shown, good = self.backbone.images(images, transforms=transforms)
        steps = [TEXT_TRANSFORMS[name] for name in self.text_transform]
        told = [None if text is None else transformed(text, steps) for text in texts]
        good &= np.array([text is not None for text in told], np.bool_)
        found = np.full(len(told), np.nan, np.float32)
        chosen = np.flatnonzero(good)
        if len(chosen):
            words = self.backbone.texts([told[row] or "" for row in chosen])
            found[chosen] = np.einsum("nd,nd->n", shown[chosen], words)
        if steps:
            found[good & np.array([not text for text in told], np.bool_)] = EMPTY
        return found

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Score one batch; with a threshold nothing is to be counted."""
        if self.counts == "pool":
            self._add([(hashed(column_of(rows, "key")), self.scores(rows))])
        return self

    def merge(self, other: Self) -> Self:
        """Add the scores of another shard.

        Raises:
            InputError: they are of another model.
        """
        self.backbone.check_digest(other.backbone.digest, what="scores")
        self._add(other._parts)
        return self

    def _add(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self._parts += parts
        self._sorted, self._cut = not self._parts, None

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs that fit well enough, else 0.

        Raises:
            InputError: with a fraction, nothing was counted yet, or not these pairs.
        """
        if self.threshold is not None:
            return (self.scores(rows) >= self.threshold).astype(np.float64)  # a NaN is not
        names, scores = self._table()
        if not len(names):
            raise InputError("nothing was counted yet; call partial_fit over the whole pool first")
        asked = hashed(column_of(rows, "key"))
        place = np.minimum(np.searchsorted(names, asked), len(names) - 1)
        missing = np.flatnonzero(names[place] != asked)
        if len(missing):
            raise InputError(f"{len(missing)} pairs were not counted, such as {rows.column('key')[int(missing[0])]}")
        least, last = self._limit()
        score = scores[place]
        return ((score > least) | ((score == least) & (asked <= np.uint64(last)))).astype(np.float64)

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of keys, rising, and the score of each; of one key's scores the smallest comes first."""
        if not self._sorted:
            names, scores = (np.concatenate([part[side] for part in self._parts]) for side in (0, 1))
            order = np.lexsort((scores, names))
            self._parts, self._sorted = [(names[order], scores[order])], True
        return self._parts[0] if self._parts else (np.zeros(0, np.uint64), np.zeros(0, np.float32))

    def _limit(self) -> tuple[float, int]:
        """Score and hash of the last pair that is kept."""
        if self._cut is None:
            names, scores = self._table()
            good = ~np.isnan(scores)
            names, scores = names[good], scores[good]
            assert self.fraction is not None
            kept = int(self.fraction * len(scores))
            order = np.lexsort((names, -scores))
            self._cut = (float(scores[order[kept - 1]]), int(names[order[kept - 1]])) if kept else (np.inf, 0)
        return self._cut

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Hashes of keys, scores and the model's digest; nothing with a threshold."""
        if self.counts == "nothing":
            return {}
        names, scores = self._table()
        return {"keys": names, "scores": scores, "model_digest": self.backbone.digest}

    def load_state_dict(self, state: State) -> None:
        """Take over saved scores."""
        self._clear()
        if self.counts == "pool":
            self.backbone.check_digest(str(state["model_digest"]), what="saved scores")
            self._add([(np.asarray(state["keys"], np.uint64), np.asarray(state["scores"], np.float32))])

    def report(self) -> dict[str, Any]:
        """Pairs scored and not, quantiles of the scores, and the least that is kept; nothing with a threshold."""
        if self.counts == "nothing":
            return {}
        scores = self._table()[1]
        good = np.sort(scores[~np.isnan(scores)]).astype(np.float64)
        found: dict[str, Any] = {"scored": len(good), "not_scored": len(scores) - len(good)}
        if len(good):
            least = self._limit()[0]
            # The last digits depend on how the pool was split into batches.
            found |= {
                "least_kept": round(least, _DIGITS) if np.isfinite(least) else None,
                "mean": round(float(good.mean()), _DIGITS),
            }
            found["quantiles"] = {str(q): round(float(np.quantile(good, q)), _DIGITS) for q in _QUANTILES}
        return found
