"""How alike patches are predicted to be, against what a teacher or labels say."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, Whole, checked
from tether.data.dense_labels import IGNORED

Number = Annotated[int, Ge(-(2**31)), Le(2**31 - 1)]


class DinoiserTerms(NamedTuple):
    """CLIP-DINOiser's loss and what it is made of.

    Attributes:
        total: the sum.
        affinity: of the affinity.
        things: of thing or background; 0 where nobody says it.
    """

    total: Float[Tensor, ""]
    affinity: Float[Tensor, ""]
    things: Float[Tensor, ""]


@checked
def dinoiser_loss(
    affinity: Float[Tensor, "b n n"],
    teacher: Float[Tensor, "b n n"],
    *,
    things: Float[Tensor, "b 1 r c"] | None = None,
    saliency: Float[Tensor, "b 1 r c"] | None = None,
    temperature: Positive = 1.0,
) -> DinoiserTerms:
    """Cross-entropies: of patches that the teacher finds alike, and of patches that belong to a thing.

    Cosines are logits, so at a temperature of 1 a pair that is alike costs at least 0.31; a pair of a cosine below 0
    costs 0.69 and has no gradient. Only the order around the threshold matters.

    Source: CLIP-DINOiser (arXiv 2312.12359), equations 4 and 6, and its released code.

    Args:
        affinity: cosines as the head gives them, without a threshold.
        teacher: of the same patches; above 0 they are alike.
        things: logits.
        saliency: of the same places, above 0.5 where a thing is; of both or none of them.
        temperature: cosines are divided by it.

    Raises:
        InputError: shapes that differ, or only one of ``things`` and ``saliency``.

    Example:
        >>> import torch
        >>> from tether.losses import dinoiser_loss
        >>> alike = torch.eye(4)[None]
        >>> round(dinoiser_loss(alike, alike).total.item(), 3)  # 4 of 16 cost 0.313, 12 cost 0.693
        0.598
    """
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2] or teacher.shape != affinity.shape:
        raise InputError(
            f"teacher: expected the affinity's shape (b, n, n), got {tuple(teacher.shape)} for {tuple(affinity.shape)}"
        )
    alike = F.binary_cross_entropy_with_logits(affinity.relu() / temperature, (teacher > 0).to(affinity.dtype))
    if things is None and saliency is None:
        return DinoiserTerms(alike, alike, torch.zeros_like(alike))
    if things is None or saliency is None or things.shape != saliency.shape:
        shapes = [None if one is None else tuple(one.shape) for one in (things, saliency)]
        raise InputError(f"saliency: expected things and saliency of one shape, got {shapes[0]} and {shapes[1]}")
    thing = F.binary_cross_entropy_with_logits(things, (saliency > 0.5).to(things.dtype))
    return DinoiserTerms(alike + thing, alike, thing)


@checked
def label_affinity(
    labels: Integer[Tensor, "b r c"], *, radius: Whole | None = 8, ignore_index: Number = IGNORED
) -> Integer[Tensor, "b n n"]:
    """1 for two patches of one class, 0 for two classes, ``ignore_index`` where one has none or they lie far apart.

    Args:
        labels: class of each patch.
        radius: rows and columns that two patches may lie apart; None takes all.
        ignore_index: of patches without a class.

    Raises:
        InputError: labels of another shape.

    Example:
        >>> import torch
        >>> from tether.losses import label_affinity
        >>> label_affinity(torch.tensor([[[3, 3, 0, 255]]]), radius=1)
        tensor([[[  1,   1, 255, 255],
                 [  1,   1,   0, 255],
                 [255,   0,   1, 255],
                 [255, 255, 255, 255]]])
    """
    if labels.ndim != 3:
        raise InputError(f"labels: expected (b, r, c), got {tuple(labels.shape)}")
    flat = labels.flatten(1).long()
    found = (flat[:, :, None] == flat[:, None]).long()
    unknown = flat == ignore_index
    left_out = unknown[:, :, None] | unknown[:, None]
    if radius is not None:
        places = torch.cartesian_prod(*(torch.arange(side, device=labels.device) for side in labels.shape[1:]))
        left_out = left_out | ((places[:, None] - places).abs().amax(dim=2) > radius)
    return found.masked_fill(left_out, ignore_index)


@checked
def affinity_loss(
    predicted: Float[Tensor, "*s"], target: Integer[Tensor, "*s"], *, ignore_index: Number = IGNORED
) -> Float[Tensor, ""]:
    """Half the mean of ``1 - predicted`` over pairs of one class, and half that of ``predicted`` over the others.

    Source: ExCEL (arXiv 2503.20826), equation 13, and its released code, which adds 1 to both counts.

    Args:
        predicted: 0 to 1, for any pairs of places, see ``methods.excel_wsss.patch_relation.predicted_affinity``.
        target: 1, 0 or ``ignore_index``, see ``label_affinity``.
        ignore_index: of pairs that do not count.

    Raises:
        InputError: shapes that differ, or another number in the target.

    Example:
        >>> import torch
        >>> from tether.losses import affinity_loss
        >>> round(affinity_loss(torch.full((1, 2, 2), 0.5), torch.tensor([[[1, 0], [0, 255]]])).item(), 3)
        0.292
    """
    if predicted.shape != target.shape:
        raise InputError(f"target: expected {tuple(predicted.shape)}, got {tuple(target.shape)}")
    same, other = target == 1, target == 0
    if target.device.type == "cpu" and (strange := ~same & ~other & (target != ignore_index)).any():
        raise InputError(f"target: expected 0, 1 or {ignore_index}, got {int(target[strange][0])}")
    wide = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    alike = ((1 - wide) * same).sum() / (same.sum() + 1)
    apart = (wide * other).sum() / (other.sum() + 1)
    return 0.5 * alike + 0.5 * apart


@checked
def halved_cross_entropy(
    logits: Float[Tensor, "b k h w"],
    label: Integer[Tensor, "b h w"],
    *,
    ignore_index: Number = IGNORED,
) -> Float[Tensor, ""]:
    """Cross-entropy in which the background, class 0, counts as much as all other classes together.

    Source: ExCEL (arXiv 2503.20826), as in its released code.

    Args:
        logits: of k classes.
        label: 0 to k - 1, or ``ignore_index``.
        ignore_index: of pixels that do not count.

    Raises:
        InputError: other shapes, or a class that there is not.

    Example:
        >>> import torch
        >>> from tether.losses.patch_affinity import halved_cross_entropy
        >>> round(halved_cross_entropy(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]])).item(), 3)
        0.693
    """
    if logits.ndim != 4 or label.shape != (logits.shape[0], *logits.shape[2:]):
        raise InputError(f"label: expected {(logits.shape[0], *logits.shape[2:])}, got {tuple(label.shape)}")
    label, known = label.long(), label != ignore_index
    if label.device.type == "cpu" and (strange := known & ((label < 0) | (label >= logits.shape[1]))).any():
        got = int(label[strange][0])
        raise InputError(f"label: expected classes 0 to {logits.shape[1] - 1}, or {ignore_index} for none, got {got}")
    each = F.cross_entropy(logits, label.masked_fill(~known, 0), reduction="none")
    parts = [known & (label == 0), known & (label != 0)]
    behind, before = ((each * some).sum() / (some.sum() + 1e-6) for some in parts)
    return 0.5 * behind + 0.5 * before
