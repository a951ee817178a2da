"""How much of a word a model finds in an image that shows nothing but the word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.data.images import resize_and_crop
from tether.data.lettering.square import POINTS, SIZE, Points, Size, Style, render_text
from tether.models.embed import encode_images, encode_texts

_BATCH = 64


@dataclass(frozen=True, slots=True)
class StyleScore:
    """One style of writing.

    Attributes:
        style: number in ``STYLES``.
        mean: cosine of a rendered word with that word, mean over words.
        other: cosine of a rendered word with the other words, mean over both.
    """

    style: Style
    mean: float
    other: float

    @property
    def margin(self) -> float:
        """How much closer a rendered word is to itself than to the others."""
        return self.mean - self.other


@dataclass(frozen=True, slots=True)
class SpottingScore:
    """How strongly a model reads; lower is less.

    Attributes:
        mean: cosine of a rendered word with that word, over words and styles; the figure that the paper's README gives
            (CLIP 0.317, OpenCLIP on LAION-2B 0.368, trained without text 0.163). It does not compare models whose
            cosines lie elsewhere altogether: the margin does.
        spread: standard deviation of these cosines.
        other: cosine of a rendered word with all other words.
        margin: ``mean`` less ``other``; NaN with one word.
        words: those that were drawn.
        skipped: those that could not be drawn, each with the reason.
        styles: each style by itself.
    """

    mean: float
    spread: float
    other: float
    margin: float
    words: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    styles: tuple[StyleScore, ...]


@checked
def spotting_score(
    model: DualEncoder,
    *,
    vocabulary: Sequence[str],
    styles: Annotated[Sequence[Style], MinLen(1)] = (0, 1, 2, 3),
    size: Size = SIZE,
    points: Points = POINTS,
    font: str | Path | None = None,
    prompt: str = "{}",
) -> SpottingScore:
    """Render every word of a vocabulary and compare it with the word as text.

    Source: arXiv 2312.14232, section 4; the margin against other words is ours.

    Args:
        model: any model that ``tether.load`` gives.
        vocabulary: words or phrases; repeats count once.
        styles: numbers in ``STYLES``.
        size: side of the drawn square, which is then brought to the model's size.
        points: size of the letters on it.
        font: as ``render_text``.
        prompt: what stands around the word on the text side; the paper has the bare word.
    """
    if "{}" not in prompt:
        raise InputError(f"prompt: expected a text with {{}} for the word, got {prompt!r}")
    words, skipped = _drawable(vocabulary, size=size, points=points, font=font)
    if not words:
        why = f"; the first, {skipped[0][0]!r}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"vocabulary: none of its {len(vocabulary)} words can be drawn{why}")
    text = F.normalize(encode_texts(model, [prompt.format(word) for word in words]).double(), dim=1)
    own, found = [], []
    for style in styles:
        images = _rendered(words, model, style=style, size=size, points=points, font=font)
        image = F.normalize(encode_images(model, images).double(), dim=1)
        cosine = (image * text).sum(dim=1)
        own.append(cosine)
        # The sum over all pairs is the product of the sums, so the table of pairs is never made.
        pairs = float(image.sum(dim=0) @ text.sum(dim=0) - cosine.sum())
        count = len(words)
        other = pairs / (count * (count - 1)) if count > 1 else float("nan")
        found.append(StyleScore(style, float(cosine.mean()), other))
    every: Float[Tensor, " n"] = torch.cat(own)
    other = float(np.mean([style.other for style in found]))
    mean = float(every.mean())
    return SpottingScore(
        mean, float(every.std(correction=0)), other, mean - other, tuple(words), tuple(skipped), tuple(found)
    )


def _drawable(
    vocabulary: Sequence[str], *, size: int, points: int, font: str | Path | None
) -> tuple[list[str], list[tuple[str, str]]]:
    words, skipped = [], []
    for word in dict.fromkeys(vocabulary):
        try:
            render_text(word, size=size, points=points, font=font)
        except InputError as error:
            skipped.append((word, str(error)))
        else:
            words.append(word)
    return words, skipped


def _rendered(
    words: Sequence[str], model: DualEncoder, *, style: Style, size: int, points: int, font: str | Path | None
) -> Iterator[Tensor]:
    for start in range(0, len(words), _BATCH):
        drawn = [
            render_text(word, size=size, points=points, style=style, font=font)
            for word in words[start : start + _BATCH]
        ]
        pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in drawn)
        yield torch.stack([resize_and_crop(image, model.image_spec) for image in pixels])
