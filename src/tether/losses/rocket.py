"""The loss of a strong CLIP recipe: weakly augmented pairs by one scale, strongly augmented views by another."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Decay, checked
from tether.losses.clip import Directions, clip_loss


class RocketTerms(NamedTuple):
    """The loss and what it is made of, all 0-d.

    Attributes:
        total: what is trained.
        image: each image among all texts, weak and strong.
        text: each text among all images, weak and strong.
        image_global: of the weak pair.
        text_global: of the weak pair.
        image_local: mean over all pairs of strong views; 0 where there are none.
        text_local: likewise.
    """

    total: Float[Tensor, ""]
    image: Float[Tensor, ""]
    text: Float[Tensor, ""]
    image_global: Float[Tensor, ""]
    text_global: Float[Tensor, ""]
    image_local: Float[Tensor, ""]
    text_local: Float[Tensor, ""]


@checked
def rocket_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    local_image: Float[Tensor, "k b e"] | None = None,
    local_text: Float[Tensor, "k2 b e"] | None = None,
    local_scale: Float[Tensor, ""] | float = 10.0,
    reduction: Literal["mean", "sum"] = "mean",
    label_smoothing: Decay = 0.0,
    gather: Gather | None = None,
) -> RocketTerms:
    """CLIP's loss on weak views, and the mean of it over all k x k pairs of strong image and text views.

    For each direction ``(weak + k * strong) / (1 + k)``; then the mean of both directions, or their sum.

    Args:
        image: embeddings of the weakly augmented images, of any length but 0; row i and ``text[i]`` are one pair.
        text: embeddings of the weakly augmented texts.
        logit_scale: multiplier of their cosines, already exponentiated.
        local_image: embeddings of k strongly augmented views of each image; None for none.
        local_text: of as many of each text.
        local_scale: multiplier of the strong views' cosines, already exponentiated.
        reduction: of the two directions.
        label_smoothing: of the strong views only, in [0, 1).
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: other numbers of strong image than of strong text views, or what ``clip_loss`` refuses.

    Source: arXiv 2305.08675, section 3, and the released code (facebookresearch/clip-rocket, ``losses.py``).

    Example:
        >>> import torch
        >>> from tether.losses import rocket_loss
        >>> rows = torch.eye(4)
        >>> found = rocket_loss(rows, rows, 10.0, local_image=rows[None], local_text=rows[None].flip(1))
        >>> bool(found.image_local > found.image_global)
        True
    """
    images, texts = _views(local_image), _views(local_text)
    if len(images) != len(texts):
        raise InputError(f"expected as many local views of images as of texts, got {len(images)} and {len(texts)}")

    def loss(left: Tensor, right: Tensor, scale: Tensor | float, way: Directions, smoothing: float) -> Tensor:
        left, right = unit(left), unit(right)
        return clip_loss(left, right, scale, directions=way, label_smoothing=smoothing, gather=gather)

    pairs = [(one, other) for one in images for other in texts]
    ways: tuple[Directions, Directions] = ("image_to_text", "text_to_image")
    weak = [loss(image, text, logit_scale, way, 0.0) for way in ways]
    strong = [torch.zeros_like(one) for one in weak]
    if pairs:
        strong = [
            torch.stack([loss(*pair, local_scale, way, label_smoothing) for pair in pairs]).mean() for way in ways
        ]
    count = len(images)
    sides = [(one + count * other) / (1 + count) for one, other in zip(weak, strong, strict=True)]
    total = sides[0] + sides[1]
    return RocketTerms(total if reduction == "sum" else total / 2, *sides, *weak, *strong)


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1, in float32 or wider whatever the autocast."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)


def _views(views: Tensor | None) -> tuple[Tensor, ...]:
    return () if views is None else views.unbind(0)
