"""How well a heat map finds what a phrase names: the pointing game, Dice, and contrast to noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked
from tether.evaluate.groups import Share, wilson


@dataclass(frozen=True, slots=True)
class Localisation:
    """Heat maps against masks; rows whose mask is empty count nowhere.

    Attributes:
        hits: fraction of maps whose warmest pixel lies in the mask.
        chance: the same for a pixel drawn at random: the mean fraction of the image that a mask covers.
        dice: mean overlap after the threshold; None without one.
        contrast: mean contrast to noise, None where no row has one.
        each_hit: (n,) whether the warmest pixel lies in the mask.
        each_dice: (n,) or None.
        each_contrast: (n,) NaN where a mask covers nothing or everything, or both sides are even.
        counted: (n,) where the mask is not empty.
    """

    hits: Share
    chance: float
    dice: float | None
    contrast: float | None
    each_hit: Bool[Tensor, " n"]
    each_dice: Float[Tensor, " n"] | None
    each_contrast: Float[Tensor, " n"]
    counted: Bool[Tensor, " n"]


@checked
def localisation(
    heat: Float[Tensor, "n h w"],
    *,
    masks: Bool[Tensor, "n h w"],
    threshold: float | None = None,
    tolerance: Whole = 0,
    sign: Literal["kept", "ignored"] = "kept",
) -> Localisation:
    """Pointing game, Dice and contrast to noise of heat maps.

    Contrast is ``(mean inside - mean outside) / sqrt(variance inside + variance outside)``.

    Source: arXiv 2312.07353, on dense tasks.

    Args:
        heat: warmer where the phrase is; of equal pixels the first counts as the warmest.
        masks: True where it is.
        threshold: heat from which on a pixel is foreground, chosen on other images; None gives no Dice.
        tolerance: pixels around a mask that still count as a hit, in both directions.
        sign: of the contrast: ``kept``, so that a map that is cold on the finding loses, or ``ignored``, as some papers
            do.
    """
    if heat.ndim != 3 or tuple(heat.shape) != tuple(masks.shape) or masks.dtype != torch.bool or not heat.numel():
        raise InputError(
            f"expected heat and bool masks (n, h, w), got {tuple(heat.shape)} and {masks.dtype} {tuple(masks.shape)}"
        )
    if not heat.isfinite().all():
        raise InputError("heat: holds NaN or infinity")
    masks = masks.to(heat.device)
    inside, counted = masks.flatten(1), masks.flatten(1).any(dim=1)
    if not bool(counted.any()):
        raise InputError(f"masks: all {len(masks)} are empty")
    values = heat.flatten(1).double()
    reach = masks
    if tolerance:
        side = 2 * tolerance + 1
        reach = F.max_pool2d(masks[:, None].float(), side, stride=1, padding=tolerance)[:, 0].bool()
    hit = reach.flatten(1).gather(1, values.argmax(dim=1, keepdim=True))[:, 0] & counted
    each_dice = None
    if threshold is not None:
        found = values >= threshold
        each_dice = 2 * (found & inside).sum(dim=1) / (found.sum(dim=1) + inside.sum(dim=1)).clamp(min=1)
    contrast = _contrast(values, inside)
    contrast = contrast.abs() if sign == "ignored" else contrast
    known = contrast[counted & contrast.isfinite()]
    return Localisation(
        hits=wilson(int(hit.sum()), n=int(counted.sum())),
        chance=float(reach.flatten(1)[counted].double().mean()),
        dice=None if each_dice is None else float(each_dice[counted].double().mean()),
        contrast=float(known.mean()) if len(known) else None,
        each_hit=hit,
        each_dice=each_dice,
        each_contrast=contrast,
        counted=counted,
    )


@checked
def best_threshold(heat: Float[Tensor, "n h w"], *, masks: Bool[Tensor, "n h w"], steps: Count = 50) -> float:
    """The threshold with the highest mean Dice among evenly spaced quantiles of the heat; for validation images."""
    levels = torch.linspace(0, 1, steps + 2, dtype=torch.float64)[1:-1]
    place = (levels * (heat.numel() - 1)).round().long()
    limits = heat.flatten().double().sort().values[place].tolist()
    scores = [localisation(heat, masks=masks, threshold=limit).dice or 0.0 for limit in limits]
    return limits[max(range(len(scores)), key=scores.__getitem__)]


def _contrast(values: Tensor, inside: Tensor) -> Tensor:
    sides = []
    for which in (inside, ~inside):
        count = which.sum(dim=1)
        mean = torch.where(which, values, 0.0).sum(dim=1) / count
        spread = torch.where(which, (values - mean[:, None]).square(), 0.0).sum(dim=1) / count
        # The mean of equal numbers is rounded, so what is even is asked of the numbers themselves.
        most, least = values.where(which, -torch.inf).amax(dim=1), values.where(which, torch.inf).amin(dim=1)
        spread = torch.where(most == least, 0.0, spread)
        sides.append((mean, spread))
    (warm, one), (cold, two) = sides
    noise = (one + two).sqrt()
    return torch.where(noise > 0, (warm - cold) / noise, torch.nan)
