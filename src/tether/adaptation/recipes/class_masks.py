"""Masks of the classes in a batch's images, and such masks changed so that they fit less well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.types import Batch, Regions


def class_masks(
    batch: Batch, classes: Sequence[str], *, rest: str | None
) -> tuple[Bool[Tensor, "b k h w"], Int[Tensor, "b k"]]:
    """What each class covers in each image, and the classes' numbers for each image; a class may cover nothing.

    Args:
        batch: with ``regions`` in its extra.
        classes: names.
        rest: the one of what no named region covers.
    """
    regions, size = cast(Regions, batch.extra["regions"]), (batch.image.shape[2], batch.image.shape[3])
    assert regions.phrases is not None  # the recipe names a column
    masks = regions.masks if regions.masks is not None else box_masks(regions.boxes, size=size)
    place = {name: number for number, name in enumerate(classes)}
    own = torch.tensor([[place.get(text, -1) for text in some] for some in regions.phrases], device=masks.device)
    own = torch.where(regions.valid, own, -1)
    hot = F.one_hot(own + 1, len(classes) + 1)[..., 1:].to(torch.float32)
    found = torch.einsum("brk,brhw->bkhw", hot, masks.to(torch.float32)) > 0
    if rest is not None:
        found[:, place[rest]] |= ~found.any(dim=1)
    return found, torch.arange(len(classes), device=masks.device).expand(len(found), -1)


def box_masks(boxes: Float[Tensor, "b r 4"], *, size: tuple[int, int]) -> Bool[Tensor, "b r h w"]:
    """Pixels whose centres lie in boxes, in shares of the image."""
    y, x = ((torch.arange(count, device=boxes.device) + 0.5) / count for count in size)
    x0, y0, x1, y1 = boxes[..., None].unbind(dim=2)
    down, across = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
    return down[..., :, None] & across[..., None, :]


def perturbed(masks: Bool[Tensor, "b k h w"], *, generator: torch.Generator) -> Float[Tensor, "b n h w"]:
    """Logits of 10 and -10: the masks, and each of them once shifted, shrunk or merged with another, as drawn.

    Args:
        masks: of each image.
        generator: of the draws, on the CPU.
    """
    height, width = masks.shape[2:]
    changed = masks.clone()
    draws = torch.rand(*masks.shape[:2], 3, generator=generator)
    for image, number in masks.flatten(2).any(dim=2).nonzero().tolist():
        mask, (how, first, second) = masks[image, number], draws[image, number].tolist()
        if how < 1 / 3:
            moved = (round((first - 0.5) * height / 2), round((second - 0.5) * width / 2))
            changed[image, number] = mask.roll(moved, dims=(0, 1))
        elif how < 2 / 3:
            changed[image, number] = F.avg_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0.99
        else:
            changed[image, number] = mask | masks[image, int(first * masks.shape[1])]
    return torch.cat([masks, changed], dim=1) * 20.0 - 10.0
