"""The regions of a batch for the terms that read them, held to the view whose images they lie in."""

from __future__ import annotations

from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import Regions
from tether.models.features.region_pooling import pool_boxes
from tether.space.heat_maps import grid_of
from tether.training.terms.term import SeenView, TermInputs


def regions_of(seen: TermInputs, name: str, *, view: str, phrases: bool = True) -> Regions:
    """The batch's regions of a view of images.

    Args:
        seen: what a term is given.
        name: in the batch's extra, ``regions`` or ``NAME_regions``.
        view: name of the view.
        phrases: whether something must be said of them.

    Raises:
        InputError: there are none, or the view moved the images away from them.
    """
    regions, image = seen.batch.extra.get(name), seen.views[view]
    if not isinstance(regions, Regions) or (phrases and regions.ids is None):
        wanted, more = ("with phrases, ", ", phrases: COLUMN") if phrases else ("", "")
        raise InputError(
            f"batch.extra: expected {name!r} {wanted}got {', '.join(seen.batch.extra) or 'nothing'};"
            f" the run's contents bring them: {{regions: {{most: 5{more}}}}}"
        )
    whose = name.removesuffix("regions").removesuffix("_") or "image"
    if image.about.get("box") is not seen.batch.extra.get(f"{whose}_box") or len(regions.boxes) != len(image.rows):
        raise InputError(f"view {view}: shows other parts of its images than {name!r}; expected no crop of its own")
    return regions


def pooled(view: SeenView, boxes: Tensor, *, valid: Tensor, name: str) -> Tensor:
    """(b, r, d) means of a view's unit patches inside boxes.

    Raises:
        InputError: a view without patches in the joint space.
    """
    tokens = view.features.tokens
    if tokens is None or tokens.shape[2] != view.features.pooled.shape[1]:
        raise InputError(f"view {name}: expected want: dense or want: tokens, for patches are pooled")
    grid = grid_of(tokens.shape[1], size=(view.rows.shape[2], view.rows.shape[3]))
    unit = tokens / tokens.norm(dim=2, keepdim=True).clamp_min(1e-12)
    return pool_boxes(unit, boxes, grid=grid, valid=valid)
