"""First-mentioned and largest-object bias: which of two things an embedding resembles most (arXiv 2502.19842)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bars, Figure, Finding, Gallery, Item
from tether.core.ranges import Count, checked
from tether.evaluate.html.sprite import thumbnail_uri
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import bar_of, capitalised, mean, share, shown, surely_above, surely_below
from tether.models.tokenizer import lengths

LEAST_PAIRS = 20
CLEAR = 0.15
"""How far from one half a share must lie to be worth a remark."""
LARGE = 0.68
"""Side of the larger image as a fraction of the canvas; the smaller takes the rest."""
_COUPLES = 200
_SHOWN = 6


@checked
@dataclass(frozen=True, kw_only=True)
class Order:
    """Joins the user's own captions and images two by two, both ways round, and asks which half wins.

    Two captions become "A and B" and "B and A"; two images lie on one canvas, one large and one small, and then the
    other way round. Each half is compared with its own embedding alone. Since both orders and both sizes are tried,
    which half is better known cancels out, and one half is what chance gives.

    Args:
        couples: how many couples are drawn at most.
    """

    title = "First-mentioned and largest-object bias"
    presupposes_skill = True
    couples: Count = _COUPLES

    def __call__(self, subject: Subject) -> Finding:
        """A remark when the first or the larger half wins clearly."""
        subject.need_pairs(LEAST_PAIRS)
        figures: list[Figure] = []
        drawings: list[Bars | Gallery] = []
        why = []
        for measure in (self._first, self._largest):
            try:
                found, extra = measure(subject)
                figures += found
                drawings += extra
            except InputError as error:
                why.append(str(error))
        if not figures:
            raise InputError("; ".join(why))
        named = {"first": "the first-mentioned half of a caption", "larger": "the larger half of an image"}
        sides = [figure for figure in figures if figure.unit == "share"]
        said = ", ".join(f"{named[one.name.split()[1]]} wins in {shown(one)}" for one in sides)
        strong = [one for one in sides if surely_above(one, 0.5 + CLEAR) or surely_below(one, 0.5 - CLEAR)]
        bars = Bars(
            "Share of couples that the half wins",
            tuple(bar_of(one.name.removeprefix("the "), one, strong=one in strong) for one in sides),
            "share",
            0.5,
            "no bias",
        )
        missing = f" Not told: {'; '.join(why)}." if why else ""
        return Finding(
            f"{capitalised(said)} (no bias: 50 %).{missing}",
            "note" if strong else "good",
            tuple(figures),
            (bars, *drawings),
            "Some pull toward what is large is plain seeing: it covers more of the image. Canvases of two images "
            "are unlike photographs; their order is what counts, not the exact share.",
            "tether-lab reproduce comco",
        )

    def _first(self, subject: Subject) -> tuple[list[Figure], list[Gallery]]:
        texts = [caption.strip().rstrip(".") for caption in subject.pairing.texts]
        chance = subject.generator("order of captions")
        tokens = lengths(subject.model.tokenizer(texts))
        context = subject.model.tokenizer.context_length
        left, right = torch.randint(len(texts), (2, 8 * self.couples), generator=chance)
        fit = (left != right) & (tokens[left] + tokens[right] + 1 <= context)
        left, right = left[fit][: self.couples], right[fit][: self.couples]
        if len(left) < LEAST_PAIRS:
            raise InputError(f"captions are too long to join two of them within {context} tokens")
        joined = [f"{texts[a]} and {texts[b]}" for a, b in zip(left.tolist(), right.tolist(), strict=True)]
        turned = [f"{texts[b]} and {texts[a]}" for a, b in zip(left.tolist(), right.tolist(), strict=True)]
        wins, pull = _won(
            subject.encode_texts(joined),
            subject.encode_texts(turned),
            subject.pairing.unit[left],
            subject.pairing.unit[right],
        )
        return [
            share("the first of two captions is nearer", wins),
            mean("pull of the first place (difference of cosines)", pull),
        ], []

    def _largest(self, subject: Subject) -> tuple[list[Figure], list[Gallery]]:
        pixels = subject.need_sample(LEAST_PAIRS).pixels
        chance = subject.generator("order of images")
        left, right = torch.randint(len(pixels), (2, 2 * self.couples), generator=chance)
        apart = left != right
        left, right = left[apart][: self.couples], right[apart][: self.couples]
        large_left = _canvas(pixels[left], pixels[right])
        large_right = _canvas(pixels[right], pixels[left])
        alone = subject.image[subject.sample.rows]
        wins, pull = _won(
            subject.encode_pixels(large_left), subject.encode_pixels(large_right), alone[left], alone[right]
        )
        items = tuple(
            Item(None, "the larger wins" if won else "the smaller wins", uri=thumbnail_uri(image))
            for image, won in zip(large_left[:_SHOWN], wins[:_SHOWN].tolist(), strict=True)
        )
        return [
            share("the larger of two images is nearer", wins),
            mean("pull of the larger size (difference of cosines)", pull),
        ], [Gallery("Two images on one canvas", items)]


def _won(first: Tensor, second: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Of each couple in both arrangements: whether the favoured half is nearer, and by how much on average.

    ``first`` favours left, ``second`` favours right.
    """
    by_first = (first * left).sum(dim=1) - (first * right).sum(dim=1)
    by_second = (second * right).sum(dim=1) - (second * left).sum(dim=1)
    return torch.cat([by_first > 0, by_second > 0]), (by_first + by_second) / 2


def _canvas(large: Tensor, small: Tensor) -> Tensor:
    """(b, 3, h, w): the large ones at the top left, the small ones at the bottom right, grey between; equal shapes."""
    height, width = large.shape[-2:]
    canvas = torch.full_like(large, 128)
    for images, part, corner in ((large, LARGE, False), (small, 1 - LARGE, True)):
        rows, columns = max(1, round(part * height)), max(1, round(part * width))
        shrunk = F.interpolate(images.float(), size=(rows, columns), mode="bilinear", antialias=True).round().byte()
        top, left = (height - rows, width - columns) if corner else (0, 0)
        canvas[:, :, top : top + rows, left : left + columns] = shrunk
    return canvas
