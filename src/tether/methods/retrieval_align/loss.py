"""Cross-entropy on cosines whose right class must win by an angle, for class vectors and for captions (ArcMargin)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked

SCALE, MARGIN = 30.0, 0.3  # arXiv 2409.01936 does not print them; those that go with its loss elsewhere
Margin = Annotated[float, Ge(0), Lt(math.pi / 2)]
"""An angle in radians."""
_NEAREST = 1e-7
"""How far a cosine stays from 1 and -1, where the angle has no slope."""


@checked
def with_margin(cosine: Float[Tensor, "*n"], *, margin: Margin = MARGIN) -> Float[Tensor, "*n"]:
    """``cos(angle + margin)`` from ``cos(angle)``; a straight line once the sum would pass pi, so that it never rises.

    Source: arXiv 1801.07698 (ArcFace), and its line ``cos(angle) - margin * sin(margin)`` for angles above
    ``pi - margin``.

    Args:
        cosine: -1 to 1; above ``1 - 1e-7`` the slope is 0.
        margin: radians.
    """
    inner = cosine.clamp(-1 + _NEAREST, 1 - _NEAREST)
    turned = inner * math.cos(margin) - ((1 - inner) * (1 + inner)).sqrt() * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), turned, cosine - margin * math.sin(margin))


class ArcMarginHead(nn.Module):
    """Class vectors for training: the angle to the right one must be smaller by ``margin`` than it need be.

    Both sides are scaled to length 1, so weight decay would change nothing but the rate of the class vectors, which
    ``optim.parameter_groups`` spares. The head is dropped after training.

    Source: arXiv 1801.07698; as GPR-FT and MCIP use it, arXiv 2409.01936.

    Attributes:
        weight: (c, d) parameter, not normalised.

    Example:
        >>> import torch
        >>> from tether.methods.retrieval_align import ArcMarginHead
        >>> head = ArcMarginHead(8, classes=3, generator=torch.Generator().manual_seed(0))
        >>> features, labels = head.weight.detach().clone(), torch.arange(3)
        >>> bool(head(features, labels=labels).diagonal().max() < 30), bool(head(features).diagonal().min() > 29.99)
        (True, True)
    """

    undecayed = ("weight",)

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        classes: Count,
        scale: Positive = SCALE,
        margin: Margin = MARGIN,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the class vectors.

        Args:
            dim: d of the features.
            classes: c, at least two.
            scale: s, what cosines are multiplied by.
            margin: m in radians.
            generator: of the draw; None is torch's own.
        """
        super().__init__()
        if classes < 2:
            raise InputError(f"classes: expected at least 2 to tell apart, got {classes}")
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(classes, dim, generator=generator) * dim**-0.5)

    def forward(
        self,
        features: Float[Tensor, "b d"],
        *,
        labels: Int[Tensor, " b"] | None = None,
        classes: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """Logits over all classes, or over some.

        Args:
            features: of any length, at least float32 inside.
            labels: the class that each row's margin is on; None leaves the margin out, as to classify.
            classes: their numbers, where a step looks at some alone (``VocabSampler``); labels are places among them.

        Raises:
            InputError: features of another width, or labels that are no such classes.
        """
        weight = self.weight if classes is None else self.weight[classes]
        if features.ndim != 2 or features.shape[1] != weight.shape[1] or not len(features):
            raise InputError(f"features: expected (b, {weight.shape[1]}) with b >= 1, got {tuple(features.shape)}")
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        with torch.autocast(wide.device.type, enabled=False):
            cosine = F.normalize(wide, dim=1) @ F.normalize(weight.to(wide), dim=1).T
            if labels is not None:
                own = _checked_labels(labels, rows=len(wide), classes=len(weight))[:, None]
                turned = with_margin(cosine.gather(1, own), margin=self.margin)
                cosine = cosine.scatter(1, own, turned)
            return self.scale * cosine

    def loss(
        self,
        features: Float[Tensor, "b d"],
        *,
        labels: Int[Tensor, " b"],
        classes: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of ``forward``'s logits."""
        return F.cross_entropy(self(features, labels=labels, classes=classes), labels.long())


@checked
def multi_caption_arc_loss(
    image: Float[Tensor, "b d"],
    captions: Float[Tensor, "b k d"],
    alike: Int[Tensor, "b k"] | None = None,
    *,
    scale: Positive = SCALE,
    margin: Margin = MARGIN,
) -> Float[Tensor, ""]:
    """Each of an image's k captions must be nearer to it, by an angle, than all captions of the other images.

    For own caption k of image i ``-log(e^own / (e^own + sum of e^other))``, with ``own = s cos(angle + m)`` and
    ``other = s cos`` over the captions of other images; those of the same image are no rivals. Mean over i and k.

    Source: MCArcMargin of arXiv 2409.01936, of which no code is public; the form is our reading of its figure.

    Args:
        image: at least two rows, of any length.
        captions: as many for each image, at least one.
        alike: a number for each caption, equal where two are the same sentence: another image's caption that is also
            one of an image's own is none of its rivals.
        scale: s.
        margin: m in radians.

    Raises:
        InputError: other shapes, one image alone, or no caption.

    Example:
        >>> import torch
        >>> from tether.methods.retrieval_align import multi_caption_arc_loss
        >>> captions = torch.eye(4).view(2, 2, 4)
        >>> right = multi_caption_arc_loss(captions.sum(1), captions)
        >>> bool(right < multi_caption_arc_loss(captions.sum(1).flip(0), captions))
        True
    """
    if image.ndim != 2 or len(image) < 2:
        raise InputError(f"image: expected (b, d) of at least two images, got {tuple(image.shape)}")
    count, dim = image.shape
    if captions.ndim != 3 or captions.shape[::2] != (count, dim) or not captions.shape[1]:
        raise InputError(f"captions: expected ({count}, k, {dim}) with k >= 1, got {tuple(captions.shape)}")
    if alike is not None and (alike.shape != captions.shape[:2] or alike.is_floating_point()):
        expected = tuple(captions.shape[:2])
        raise InputError(f"alike: expected {expected} integers, got {alike.dtype} {tuple(alike.shape)}")
    wide = image.to(torch.promote_types(image.dtype, torch.float32))
    with torch.autocast(wide.device.type, enabled=False):
        texts = F.normalize(captions.to(wide), dim=2)
        cosine = torch.einsum("id,jkd->ijk", F.normalize(wide, dim=1), texts)
        rows = torch.arange(count, device=wide.device)
        numbers = rows[:, None].expand(captions.shape[:2]) if alike is None else alike
        own = scale * with_margin(cosine[rows, rows], margin=margin)
        spared = (numbers[:, None, None, :] == numbers[None, :, :, None]).any(3) | (rows[:, None] == rows)[..., None]
        rivals = (scale * cosine).masked_fill(spared, torch.finfo(wide.dtype).min).flatten(1).logsumexp(1)
        return F.softplus(rivals[:, None] - own).mean()


def _checked_labels(labels: Tensor, *, rows: int, classes: int) -> Int[Tensor, " b"]:
    if labels.shape != (rows,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels: expected ({rows},) integers, got {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(f"labels: expected 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    return labels.long()
