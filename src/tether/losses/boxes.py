"""Predicted boxes against true ones: what a pair costs, which belong together, and how far apart these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, Positive, checked
from tether.losses.matching import cheapest_pairs

IOU_EPS = 1e-4
"""What GRAIN's release adds to the union under the intersection."""

Over = Literal["processes", "process"]
"""What a sum is divided by: the count of all processes together, or each process's own."""


@dataclass(frozen=True, slots=True)
class BoxTerms:
    """What ``box_loss`` gives; all 0-d.

    Attributes:
        total: both, weighed, times ``factor``.
        l1: sum over matched pairs of the distances of centres and sides, by the number of valid boxes.
        giou: sum of one minus the generalised IoU, by the same.
        iou: mean IoU of the matched pairs, without gradient; 0 where there is none.
    """

    total: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    giou: Float[Tensor, ""]
    iou: Float[Tensor, ""]


def true_boxes(
    boxes: Float[Tensor, "b t 4"], *, valid: Bool[Tensor, "b t"] | None = None
) -> tuple[Float[Tensor, "b t 4"], Bool[Tensor, "b t"]]:
    """Boxes within the image, in float32 or wider, and which of them are some: those without an area are padding.

    Args:
        boxes: (b, t, 4) x0, y0, x1, y1 in shares of the image; what lies beyond it is cut off.
        valid: (b, t) True where there is a box; None takes all that have an area.

    Raises:
        InputError: another shape, or a valid box whose corners are in the wrong order or no numbers.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise InputError(f"boxes: expected (b, t, 4) corners, got {tuple(boxes.shape)}")
    if valid is None:
        valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    if valid.dtype != torch.bool or valid.shape != boxes.shape[:2]:
        raise InputError(f"valid: expected bool {tuple(boxes.shape[:2])}, got {valid.dtype} {tuple(valid.shape)}")
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    wrong = valid & ~(boxes[..., 2:] >= boxes[..., :2]).all(dim=2)
    if bool(wrong.any()):
        image, place = wrong.nonzero()[0].tolist()
        raise InputError(
            f"boxes: image {image}, box {place}: expected x0 <= x1 and y0 <= y1, got {boxes[image, place].tolist()}"
        )
    boxes = boxes.clamp(0, 1)
    valid = valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
    return boxes * valid[..., None], valid


def overlap(
    first: Float[Tensor, "... 4"], second: Float[Tensor, "... 4"], *, eps: float = IOU_EPS
) -> tuple[Float[Tensor, ...], Float[Tensor, ...]]:
    """IoU and generalised IoU of boxes of corners, of shapes that broadcast; ``eps`` is added to the IoU's union alone.

    torchvision adds to both denominators, or to none, which is other figures than GRAIN's.
    """
    corner, far = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (far - corner).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    corner, far = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    hull = (far - corner).prod(dim=-1)
    iou = shared / (union + eps)
    return iou, iou - (hull - union) / hull


def corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centres and sides to corners, in float32 or wider."""
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


def centres(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Corners to centres and sides."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=-1)


@checked
def box_cost(
    pred: Float[Tensor, "b q 4"],
    boxes: Float[Tensor, "b t 4"],
    *,
    valid: Bool[Tensor, "b t"] | None = None,
    l1: NonNegative = 5.0,
    giou: NonNegative = 2.0,
    eps: NonNegative = IOU_EPS,
) -> Float[Tensor, "b q t"]:
    """``l1 * |pred - box|_1 - giou * GIoU`` of every pair of an image, without gradient; 0 for boxes that are none.

    Args:
        pred: centres and sides in shares of the image, as a ``GroundingDecoder`` gives them.
        boxes: corners in shares of the image, as ``core.types.Regions`` has them.
        valid: see ``true_boxes``.
        l1: weight of the distance of centres and sides.
        giou: weight of the generalised IoU.
        eps: see ``overlap``.

    Raises:
        InputError: shapes that do not fit, or boxes that ``true_boxes`` refuses.
    """
    _check(pred, boxes)
    boxes, valid = true_boxes(boxes, valid=valid)
    with torch.no_grad(), torch.autocast(pred.device.type, enabled=False):
        own = pred.to(torch.promote_types(pred.dtype, boxes.dtype))
        apart = (own[:, :, None] - centres(boxes)[:, None]).abs().sum(dim=-1)
        likeness = overlap(corners(own)[:, :, None], boxes[:, None], eps=eps)[1]
        return (l1 * apart - giou * likeness).masked_fill(~valid[:, None], 0.0)


@checked
def hungarian_match(
    pred: Float[Tensor, "b q 4"],
    boxes: Float[Tensor, "b t 4"],
    *,
    valid: Bool[Tensor, "b t"] | None = None,
    l1: NonNegative = 5.0,
    giou: NonNegative = 2.0,
    eps: NonNegative = IOU_EPS,
) -> Int[Tensor, "b q"]:
    """The number of the box that each prediction is matched with, or -1: an image's cheapest pairs by ``box_cost``.

    The costs of a batch are made at once and brought to the CPU once, where scipy solves each image. Of more boxes than
    predictions the dearest stay without.

    Args:
        pred: see ``box_cost``.
        boxes: see ``box_cost``.
        valid: see ``true_boxes``.
        l1: see ``box_cost``.
        giou: see ``box_cost``.
        eps: see ``overlap``.

    Raises:
        InputError: as ``box_cost``.

    Example:
        >>> import torch
        >>> from tether.losses import hungarian_match
        >>> pred = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]])
        >>> boxes = torch.tensor([[[0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0]]])
        >>> hungarian_match(pred, boxes).tolist()
        [[1, 0, -1]]
    """
    cost = box_cost(pred, boxes, valid=valid, l1=l1, giou=giou, eps=eps)
    return cheapest_pairs(cost, valid=true_boxes(boxes, valid=valid)[1])


@checked
def box_loss(
    pred: Float[Tensor, "b q 4"],
    boxes: Float[Tensor, "b t 4"],
    *,
    valid: Bool[Tensor, "b t"] | None = None,
    match: Int[Tensor, "b q"] | None = None,
    l1: NonNegative = 1.0,
    giou: NonNegative = 1.0,
    factor: Positive = 1.5,
    eps: NonNegative = IOU_EPS,
    over: Over = "processes",
    gather: Gather | None = None,
) -> BoxTerms:
    """``factor * (l1 * sum |pred - box|_1 + giou * sum (1 - GIoU)) / n`` over matched pairs, for n valid boxes.

    With ``over="processes"``, n is the mean number of boxes of a process, so that the mean of the losses is that of the
    whole batch however it is split. DETR (arXiv 2005.12872); GRAIN (arXiv 2412.04429), whose release divides by each
    process's own number and fails without boxes, where the loss is 0 here.

    Args:
        pred: see ``box_cost``.
        boxes: see ``box_cost``.
        valid: see ``true_boxes``.
        match: as ``hungarian_match`` gives it; None matches here, with its defaults.
        l1: weight of the distances.
        giou: weight of the generalised IoU.
        factor: 3/2 in the release, which divides by a third of the number of its weights.
        eps: see ``overlap``.
        over: what the sums are divided by.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: as ``box_cost``, or a match of another shape or with boxes that there are not.
    """
    _check(pred, boxes)
    boxes, valid = true_boxes(boxes, valid=valid)
    if match is None:
        match = hungarian_match(pred, boxes, valid=valid, eps=eps)
    if match.shape != pred.shape[:2] or bool((match >= boxes.shape[1]).any()):
        raise InputError(
            f"match: expected {tuple(pred.shape[:2])} numbers below {boxes.shape[1]}, got {tuple(match.shape)}"
        )
    image, query = (match >= 0).nonzero(as_tuple=True)
    with torch.autocast(pred.device.type, enabled=False):
        own = pred[image, query]
        own = own.to(torch.promote_types(own.dtype, boxes.dtype))
        wanted = boxes[image, match[image, query]]
        iou, generalised = overlap(corners(own), wanted, eps=eps)
        count = share(valid.sum(), like=own, over=over, gather=gather or LOCAL)
        apart = (own - centres(wanted)).abs().sum() / count
        unlike = (1 - generalised).sum() / count
        return BoxTerms(factor * (l1 * apart + giou * unlike), apart, unlike, iou.detach().sum() / max(1, len(image)))


def share(count: Tensor, *, like: Tensor, over: Over, gather: Gather) -> Tensor:
    """A process's part of a count over all, or its own count, as precise as ``like``; 1 where there is nothing."""
    count = count.to(like.dtype)
    if over == "processes" and gather.world > 1:
        count = gather(count[None]).sum() / gather.world
    return torch.where(count > 0, count, 1.0)


def _check(pred: Tensor, boxes: Tensor) -> None:
    if pred.ndim != 3 or pred.shape[2] != 4 or boxes.ndim != 3 or len(pred) != len(boxes):
        raise InputError(
            f"expected pred (b, q, 4) and boxes (b, t, 4), got {tuple(pred.shape)} and {tuple(boxes.shape)}"
        )
