"""GRAIN's loss: an image and its caption, the regions of it where they are, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, Positive, checked
from tether.core.types import Features, Grounding
from tether.losses.boxes import IOU_EPS, Over, box_loss, hungarian_match, share, true_boxes
from tether.losses.checks import unit_rows
from tether.losses.clip import clip_loss
from tether.losses.infonce import scale_like

Duplicates = Literal["negatives", "positives", "once"]
Among = Literal["process", "processes"]


@dataclass(frozen=True, slots=True)
class GrainTerms:
    """What ``grain_loss`` gives; all 0-d, the parts before their weights.

    Attributes:
        total: all parts, weighed.
        clip: CLIP's loss of images and captions.
        l1: distance of matched boxes.
        giou: one minus their generalised IoU.
        desc: cross-entropy of each matched region among the descriptions.
        iou: mean IoU of matched boxes, without gradient.
        accuracy: share of matched regions whose own description is the most similar.
    """

    total: Float[Tensor, ""]
    clip: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    giou: Float[Tensor, ""]
    desc: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


@checked
def description_loss(
    regions: Float[Tensor, "b q d"],
    *,
    descriptions: Float[Tensor, "n d"],
    match: Int[Tensor, "b q"],
    valid: Bool[Tensor, "b t"],
    logit_scale: Float[Tensor, ""] | float,
    ids: Int[Tensor, "b t"] | None = None,
    duplicates: Duplicates = "negatives",
    among: Among = "process",
    over: Over = "processes",
    gather: Gather | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of each matched region's ``logit_scale * cos`` with all descriptions, against its own; one way.

    Args:
        regions: rows of any length.
        descriptions: one row for each valid box, image after image, of any length.
        match: as ``hungarian_match`` gives it.
        valid: where there are boxes.
        logit_scale: multiplier of the cosines, already exponentiated.
        ids: numbers of the descriptions, equal where these are; a box with a number below 0 has none, and its region
            and row take no part.
        duplicates: whether equal descriptions are ``negatives`` of one another, as in the release; share the target
            (``positives``); or stand among the candidates ``once``. The last two need ``ids``.
        among: descriptions of this process, as in the release, or of all.
        over: what the sum is divided by.
        gather: rows of all processes; None for this process alone.

    Returns:
        The loss, 0 where nothing is matched, and the share of regions that are most like their own description.

    Raises:
        InputError: not one row for each valid box, a match with what is not valid, or duplicates without ``ids``.
    """
    gather, count = gather or LOCAL, int(valid.sum())
    if regions.ndim != 3 or descriptions.ndim != 2 or descriptions.shape != (count, regions.shape[2]):
        raise InputError(
            f"descriptions: expected ({count}, {regions.shape[-1]}), a row for each valid box, got "
            f"{tuple(descriptions.shape)}"
        )
    if duplicates != "negatives" and ids is None:
        raise InputError(f"duplicates: {duplicates!r} needs ids, which say what descriptions are equal; expected ids")
    if ids is not None and ids.shape != valid.shape:
        raise InputError(f"ids: expected {tuple(valid.shape)}, got {tuple(ids.shape)}")
    image, query = (match >= 0).nonzero(as_tuple=True)
    own = (valid.flatten().cumsum(0) - 1).view(valid.shape)[image, match[image, query]]
    if not bool(valid[image, match[image, query]].all()):
        raise InputError("match: expected numbers of valid boxes only")
    names = torch.arange(count, device=valid.device) if ids is None else ids[valid]
    said = names >= 0
    image, query, own = (part[said[own]] for part in (image, query, own))
    rows, keys = (unit_rows(Features(x)) for x in (regions[image, query], descriptions))
    if among == "processes" and gather.world > 1:
        widest = int(gather(torch.tensor([count], device=valid.device)).max())
        more, own = widest - count, own + gather.rank * widest
        names = F.pad(names, (0, more)) if ids is not None else torch.arange(widest, device=valid.device)
        names = gather(names if ids is not None else names + gather.rank * widest)
        keys, said = gather(F.pad(keys, (0, 0, 0, more))), gather(F.pad(said, (0, more)).byte()).bool()
    with torch.autocast(rows.device.type, enabled=False):
        dtype = torch.promote_types(rows.dtype, keys.dtype)
        rows, keys = rows.to(dtype), keys.to(dtype)
        logits = scale_like(logit_scale, rows=rows) * (rows @ keys.T)
        positive = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter(1, own[:, None], True)
        if duplicates != "negatives":
            same = (names[:, None] == names) & said[:, None] & said
            if duplicates == "positives":
                positive = same[own]
            else:
                first = same.byte().argmax(dim=1) if len(same) else own
                said = said & (first == torch.arange(len(first), device=first.device))
                positive = torch.zeros_like(positive).scatter(1, first[own][:, None], True)
        logits = logits.masked_fill(~said, -torch.inf)
        right = logits.where(positive, 0.0).sum(dim=1) / positive.sum(dim=1)
        total = (logits.logsumexp(dim=1) - right).sum() / share(
            torch.tensor(len(own), device=rows.device), like=rows, over=over, gather=gather
        )
    best = logits.argmax(dim=1, keepdim=True) if len(own) else own[:, None]
    hits = positive.gather(1, best) if len(own) else best
    return total, hits.to(dtype).sum() / max(1, len(own))


@checked
def grain_loss(
    out: Grounding,
    captions: Float[Tensor, "b d"],
    boxes: Float[Tensor, "b t 4"],
    valid: Bool[Tensor, "b t"] | None,
    descriptions: Float[Tensor, "n d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    weights: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (1.0, 1.0, 1.0, 1.0),
    factor: Positive = 1.5,
    aux: bool = False,
    labels: Int[Tensor, " b"] | None = None,
    ids: Int[Tensor, "b t"] | None = None,
    duplicates: Duplicates = "negatives",
    among: Among = "process",
    over: Over = "processes",
    eps: NonNegative = IOU_EPS,
    gather: Gather | None = None,
) -> GrainTerms:
    """``clip + factor * (l1 + giou) + desc`` (arXiv 2412.04429; CLIP's part over all processes).

    An image without boxes gives CLIP's part alone. The release has deep supervision in its code, but no weight for it,
    so it counts the last layer; ``aux`` adds the boxes of the earlier ones, matched anew. It divides by each process's
    own number of boxes (``over="process"``).

    Args:
        out: what a ``GroundingDecoder`` gives.
        captions: one row for each image, of any length.
        boxes: corners in shares of the image, see ``true_boxes``.
        valid: where there are boxes; None takes all that have an area.
        descriptions: one row for each valid box, image after image.
        logit_scale: multiplier of the cosines, already exponentiated.
        weights: of CLIP's part, the distance, the generalised IoU and the descriptions.
        factor: of both parts on boxes, see ``box_loss``.
        aux: whether boxes of earlier layers count, too.
        labels: of captions, see ``clip_loss``.
        ids: of descriptions, see ``description_loss``.
        duplicates: see ``description_loss``.
        among: see ``description_loss``.
        over: see ``box_loss``.
        eps: see ``boxes.overlap``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: shapes that do not fit, boxes with corners in the wrong order, see the functions above.

    Example:
        >>> import torch
        >>> from tether.core.types import Grounding
        >>> from tether.methods.grain import grain_loss
        >>> rows = torch.eye(2)
        >>> pred = torch.tensor([[[0.5, 0.5, 0.2, 0.2]], [[0.5, 0.5, 0.4, 0.4]]])
        >>> boxes = torch.tensor([[[0.4, 0.4, 0.6, 0.6]], [[0.0, 0.0, 0.0, 0.0]]])  # the second image has none
        >>> found = grain_loss(Grounding(rows, rows[:, None], pred), rows, boxes, None, rows[:1], 100.0)
        >>> round(found.l1.item(), 4), round(found.desc.item(), 4), found.accuracy.item()
        (0.0, 0.0, 1.0)
    """
    before = () if out.earlier is None else out.earlier
    if aux and out.earlier is None:
        raise InputError("aux: expected boxes of earlier layers in the decoder's output, got none")
    boxes, valid = true_boxes(boxes, valid=valid)
    weigh, l1, giou, say = weights
    match = hungarian_match(out.boxes, boxes, valid=valid, eps=eps)
    clip = clip_loss(
        unit_rows(Features(out.image)), unit_rows(Features(captions)), logit_scale, labels=labels, gather=gather
    )
    last, *earlier = (
        box_loss(
            pred,
            boxes,
            valid=valid,
            match=pairs,
            l1=l1,
            giou=giou,
            factor=factor,
            eps=eps,
            over=over,
            gather=gather,
        )
        for pred, pairs in [(out.boxes, match), *((pred, None) for pred in (before if aux else ()))]
    )
    desc, accuracy = description_loss(
        out.regions,
        descriptions=descriptions,
        match=match,
        valid=valid,
        logit_scale=logit_scale,
        ids=ids,
        duplicates=duplicates,
        among=among,
        over=over,
        gather=gather,
    )
    total = weigh * clip + last.total + sum((one.total for one in earlier), start=0.0) + say * desc
    return GrainTerms(total, clip, last.l1, last.giou, desc, last.iou, accuracy)
