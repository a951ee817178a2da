"""How well each caption fits its image, beside what the same caption and the same image get with others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.ranges import Positive, checked
from tether.evaluate.inspect.pairing import CELLS, Pairing


@checked
def caption_fit(pairing: Pairing, image: Float[Tensor, "n d"], *, scale: Positive) -> Float[Tensor, " p"]:
    """Mean of two log-probabilities: of the caption given its image, and of the image given its caption.

    It is the pair's part of the loss that CLIP is trained with (arXiv 2103.00020, section 2.3), with the sign changed,
    and over all rows in place of a batch. The plain score (CLIPScore, arXiv 2104.08718) takes a vague caption, or an
    image that resembles nothing, for a bad pair; this one does not. Other captions of the image, and other images with
    the caption, do not count.

    Args:
        pairing: pairs of images and distinct captions.
        image: points of the images, as the pairing compares them.
        scale: multiplier of the similarity, the model's own.

    Returns:
        (p,) double, at most 0; the higher, the better both belong together.
    """
    own = scale * pairing.similarity.double()
    found = torch.zeros_like(own)
    for asked, pool, rows, answers in (
        (image, pairing.points, pairing.image, pairing.group),
        (pairing.points, image, pairing.group, pairing.image),
    ):
        wrong = _wrong(asked, pool, rows, answers, pairing=pairing, scale=scale)[rows]
        found += (own - torch.logaddexp(wrong, own)) / 2
    return found


def _wrong(
    asked: Tensor, pool: Tensor, rows: Tensor, answers: Tensor, *, pairing: Pairing, scale: float
) -> Float[Tensor, " a"]:
    """Logarithm of the summed exponentials of each row's wrong answers."""
    found = torch.empty(len(asked), dtype=torch.float64)
    step = max(1, CELLS // len(pool))
    for start in range(0, len(asked), step):
        scores = scale * pairing.geometry.similarity(asked[start : start + step], pool).double()
        here = (rows >= start) & (rows < start + step)
        scores[rows[here] - start, answers[here]] = -torch.inf
        found[start : start + step] = scores.logsumexp(dim=1)
    return found
