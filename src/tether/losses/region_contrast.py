"""Regions of images against what is said of each, with every way that published methods treat equal phrases."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import checked
from tether.losses.boxes import Over, centres, share, true_boxes
from tether.losses.checks import check_unit_lengths
from tether.losses.multi_positive import positive_rows

Equal = Literal["left_out", "negatives", "each", "any"]
"""What phrases of equal number are to each other: left out of each other's softmax (CLOC), negatives, positives of
which each is wanted (FarSLIP), or positives whose probabilities are added up, so that one is enough (RegionCLIP)."""
Ways = Literal["both", "regions"]
Padding = Literal["left_out", "negatives"]


@checked
def region_contrast_loss(
    regions: Float[Tensor, "*places d"],
    texts: Float[Tensor, "*places d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    ids: Int[Tensor, "*places"] | None = None,
    valid: Bool[Tensor, "*places"] | None = None,
    equal: Equal = "left_out",
    ways: Ways = "both",
    padding: Padding = "left_out",
    over: Over = "processes",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Contrastive loss of regions and their phrases, all of a batch with each other; 0 where there is no region.

    A published method is a setting: CLOC (arXiv 2410.02746) is the default; FarSLIP's loss of categories (arXiv
    2511.14901) is ``equal="each"``, and its plain form, whose zero rows stay in the softmax, is ``equal="negatives",
    padding="negatives"``; RegionCLIP (arXiv 2112.09106) is ``equal="any", ways="regions"`` with the embedding of each
    region's concept as its text. Places may be of any shape, such as (b, r); n are all of them, and n x n logits are
    kept.

    Args:
        regions: rows of length 1; those of places that are not valid are not looked at.
        texts: of each region's phrase, likewise.
        logit_scale: multiplier of the cosines, already exponentiated.
        ids: equal for equal phrases, in all processes; None takes all as different. Below 0 is a phrase like no other.
        valid: which places hold a region with a phrase; None takes all.
        equal: see ``Equal``.
        ways: both directions, or the regions' alone.
        padding: what places that are not valid are to the others; as ``negatives`` they are rows of zeros, as in
            FarSLIP's release.
        over: what the sums are divided by: see ``losses.boxes.Over``.
        gather: rows of all processes, which have equally many places; None for this process alone.

    Raises:
        InputError: shapes that do not fit, or on the CPU a row of another length.

    Example:
        >>> import torch
        >>> from tether.losses import region_contrast_loss
        >>> rows, same = torch.eye(2), torch.tensor([7, 7])
        >>> round(region_contrast_loss(rows, rows, 1.0).item(), 4)
        0.3133
        >>> region_contrast_loss(rows, rows, 1.0, ids=same).item()  # each other's negatives no more
        0.0
    """
    places = regions.shape[:-1]
    if regions.ndim < 2 or regions.shape != texts.shape:
        raise InputError(f"expected regions and texts (..., d) alike, got {tuple(regions.shape)}, {tuple(texts.shape)}")
    for name, one in (("ids", ids), ("valid", valid)):
        if one is not None and one.shape != places:
            raise InputError(f"{name}: expected {tuple(places)}, got {tuple(one.shape)}")
    if valid is not None and valid.dtype != torch.bool:
        raise InputError(f"valid: expected bool, got {valid.dtype}")
    gather = gather or LOCAL
    with torch.autocast(regions.device.type, enabled=False):
        own = torch.ones_like(regions[..., 0], dtype=torch.bool) if valid is None else valid
        own = own.flatten()
        region, text = (_rows(one.flatten(0, -2), own, name) for one, name in ((regions, "region"), (texts, "text")))
        number = torch.full_like(own, -1, dtype=torch.int64) if ids is None else ids.flatten()
        every, numbers = gather(own), gather(number)
        place = torch.arange(len(own), device=own.device)[:, None] + gather.rank * len(own)
        itself = place == torch.arange(len(every), device=own.device)
        alike = (number[:, None] == numbers) & (number[:, None] >= 0) & every
        positive = (itself | alike if equal in ("each", "any") else itself) & own[:, None]
        out = torch.zeros_like(positive) if padding == "negatives" else ~every.expand_as(positive)
        if equal == "left_out":
            out = out | (alike & ~itself)
        out = out & own[:, None]  # a row that does not count looks at all, so that no gradient is NaN
        count = share(own.sum(), like=region, over=over, gather=gather)
        pairs = [(region, text), (text, region)] if ways == "both" else [(region, text)]
        losses = [
            positive_rows(
                logit_scale * (queries @ gather(keys).T), positive, out, credit="any" if equal == "any" else "each"
            )[0].sum()
            / count
            for queries, keys in pairs
        ]
        return torch.stack(losses).mean()


@checked
def box_distance_loss(
    pred: Float[Tensor, "b r 4"],
    boxes: Float[Tensor, "b r 4"],
    *,
    valid: Bool[Tensor, "b r"] | None = None,
    form: Literal["squared", "absolute"] = "squared",
    over: Over = "processes",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Mean distance of predicted boxes and true ones, over the four numbers of the valid ones; 0 where there is none.

    CLOC's grounding loss (arXiv 2410.02746); the paper's form is not known, ``squared`` is ours.

    Args:
        pred: centres and sides in shares of the image, as a ``Prompter`` predicts them.
        boxes: corners in shares of the image.
        valid: see ``losses.boxes.true_boxes``.
        form: of each number's distance.
        over: see ``region_contrast_loss``.
        gather: likewise.

    Raises:
        InputError: shapes that do not fit, or boxes that ``true_boxes`` refuses.
    """
    if pred.shape != boxes.shape or pred.ndim != 3:
        raise InputError(f"expected pred and boxes (b, r, 4) alike, got {tuple(pred.shape)} and {tuple(boxes.shape)}")
    boxes, valid = true_boxes(boxes, valid=valid)
    with torch.autocast(pred.device.type, enabled=False):
        own = pred.to(torch.promote_types(pred.dtype, boxes.dtype))
        apart = own - centres(boxes).to(own)
        each = apart.square() if form == "squared" else apart.abs()
        count = share(valid.sum(), like=own, over=over, gather=gather or LOCAL)
        return torch.where(valid[..., None], each, 0.0).mean(dim=2).sum() / count


def _rows(rows: Tensor, valid: Tensor, name: str) -> Tensor:
    """Rows in float32 or wider, and zeros where there is no region."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if rows.device.type == "cpu":
        check_unit_lengths(rows[valid], name=name)
    return torch.where(valid[:, None], wide, 0.0)
