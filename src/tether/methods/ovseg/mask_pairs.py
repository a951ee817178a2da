"""Pairs of a masked crop and a noun, mined from captions: what a CLIP learns masked crops from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Number, Positive, Share, checked
from tether.data.captions.augment import bare
from tether.data.captions.pos_tags import LexiconTagger, pos_class
from tether.methods.ovseg.masked_crops import Fill, masked_crops
from tether.methods.ovseg.masked_regions import MaskedPhrases
from tether.tasks.classify.zero_shot import class_weights

Nouns = Callable[[str], Sequence[str]]
"""A caption to what it speaks of."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskPair:
    """A noun of a caption and the mask that fits it best.

    Attributes:
        row: number of the image.
        proposal: number of the mask among the image's.
        noun: what is in it.
        score: cosine of the masked crop and the noun, or the similarity of the model's geometry.
        crop: at the model's size, blank outside of the mask.
        mask: of the crop, True inside.
    """

    row: int
    proposal: int
    noun: str
    score: float
    crop: UInt8[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]


def examples_of(pairs: Iterable[MaskPair]) -> MaskedPhrases:
    """Pairs as what the recipe ``masked_crops`` learns from (``MaskedCropsRecipe.describe``), each noun numbered.

    Raises:
        InputError: no pair.
    """
    found = list(pairs)
    if not found:
        raise InputError("pairs: expected one at least, got none")
    numbers = {noun: number for number, noun in enumerate(dict.fromkeys(pair.noun for pair in found))}
    crops, masks = (torch.stack([getattr(pair, name) for pair in found]) for name in ("crop", "mask"))
    return MaskedPhrases(crops, masks, torch.tensor([numbers[pair.noun] for pair in found]), tuple(numbers))


def nouns_of(caption: str) -> tuple[str, ...]:
    """The nouns of a caption in small letters, each once, in their order; a word that is not known is a noun.

    Example:
        >>> from tether.methods.ovseg.mask_pairs import nouns_of
        >>> nouns_of("A red star, and two small dogs near the star.")
        ('star', 'dogs')
    """
    words = caption.split()
    tags = LexiconTagger()(words)
    found = (bare(word) for word, tag in zip(words, tags, strict=True) if pos_class(tag) == 1)
    return tuple(dict.fromkeys(word for word in found if word))


class NounRows:
    """Rows of nouns, each encoded once; when there would be more than ``most``, it starts anew."""

    def __init__(self, model: DualEncoder, *, templates: Sequence[str] | None = None, most: int = 20_000) -> None:
        """Args: model: that reads. templates: see ``mine_pairs``. most: nouns that are kept."""
        self.model, self.templates, self.most = model, templates, most
        self._rows: dict[str, Tensor] = {}

    def __call__(self, words: Sequence[str]) -> Float[Tensor, "n d"]:
        """A row of each word."""
        if len(self._rows) + len(words) > self.most:
            self._rows.clear()
        if new := [word for word in words if word not in self._rows]:
            self._rows.update(zip(new, class_weights(self.model, new, templates=self.templates), strict=True))
        return torch.stack([self._rows[word] for word in words])


@checked
def mine_pairs(
    images: Iterable[UInt8[Tensor, "3 h w"]],
    captions: Iterable[str],
    proposals: Iterable[Tensor],
    *,
    model: DualEncoder,
    nouns: Nouns = nouns_of,
    templates: Sequence[str] | None = None,
    least: Number | None = None,
    threshold: Share = 0.5,
    fill: Fill = "mean",
    expand: Positive = 1.0,
    batch_size: Count = 64,
    known: NounRows | None = None,
) -> Iterator[MaskPair]:
    """For each noun of a caption the mask whose masked crop has the highest score for it.

    Nothing says which mask a noun belongs to, nor that any does: the pairs are noisy, and cover all the nouns that
    people use. One image is held at a time.

    Source: OVSeg (arXiv 2210.04150), section 3.3, of which the code was not released.

    Args:
        images: in their own pixels.
        captions: one for each image.
        proposals: masks (q, h, w) of each image's size, bool or numbers in [0, 1].
        model: any that ``tether.load`` gives.
        nouns: of a caption; phrases will do.
        templates: sentences with ``{}`` for the noun; None takes those that suit the model.
        least: pairs of a lower score are left out.
        threshold: mask value above which a pixel is inside, see ``methods.ovseg.masked_crops.masked_crops``.
        fill: see there.
        expand: see there.
        batch_size: crops in one forward.
        known: rows of nouns from one call to the next, of the same model and templates; None keeps them for this call.

    Yields:
        Pairs, image by image, nouns in their order. An empty mask is never taken, and an image without a mask or a noun
        has no pair.

    Raises:
        InputError: not as many captions and proposals as images, or masks that are not the image's.
    """
    known = NounRows(model, templates=templates) if known is None else known
    geometry = geometry_of(model).detached()
    device = model.logit_scale.device
    for row, (image, caption, masks) in enumerate(zip_longest(images, captions, proposals)):
        if image is None or caption is None or masks is None:
            raise InputError(f"expected as many captions and proposals as images, got some that end after {row}")
        words = list(dict.fromkeys(nouns(caption)))
        crops = masked_crops(image, masks, size=model.image_spec.size, threshold=threshold, fill=fill, expand=expand)
        if words and len(crops.pixels):
            with torch.no_grad():
                some = [model.encode_image(part.to(device)).pooled for part in crops.pixels.split(batch_size)]
            points = geometry.points(torch.cat(some).float())
            scores = geometry.similarity(points, known(words).to(points)).cpu()
            owners = crops.valid.nonzero()[:, 0]
            for column, word in enumerate(words):
                best = int(scores[:, column].argmax())
                score = float(scores[best, column])
                if least is None or score >= least:
                    yield MaskPair(row, int(owners[best]), word, score, crops.pixels[best], crops.masks[best])
