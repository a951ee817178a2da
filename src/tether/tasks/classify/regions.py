"""Regions of images named from a list of classes: by what a model has learnt for it, or in plain ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from tether.core.atomic_io import csv_file
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Share, checked
from tether.data.bad_rows import BadRows
from tether.data.boxes import cut_box
from tether.data.images import resize_and_crop
from tether.data.in_order import originals
from tether.data.region_files import NamedRegion, RegionFiles
from tether.data.region_views import RegionView, region_view
from tether.models.encoders.region_tower import alpha_from_mask, encode_regions
from tether.models.features.dense_regions import encode_boxes
from tether.models.features.kept_patches import encode_patches
from tether.models.heads.prompted import region_embeddings
from tether.models.towers.vision.alpha_stem import stem_of
from tether.tasks.classify.classify import RankedClass, named, ranked_cells, ranked_columns
from tether.tasks.classify.zero_shot import ZeroShotClassifier

RegionAs = Literal["alpha", "crop", "blur", "attention", "patches", "prompter"]
Progress = Callable[[int, int | None], None]
_BLUR = 1 / 16
"""Standard deviation of the blur, as a share of the view's longer side."""


@dataclass(frozen=True, slots=True)
class RegionLabel:
    """The class of one region, asked for in one way.

    Attributes:
        key: of the image.
        region: name of the region.
        box: x0, y0, x1, y1 in pixels of the image.
        region_as: the way.
        label: name of the class; empty where the confidence was too low.
        ranked: the classes most like it, best first.
    """

    key: str
    region: str
    box: tuple[float, float, float, float]
    region_as: RegionAs
    label: str
    ranked: tuple[RankedClass, ...]


def _by_alpha(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del crops
    stem = stem_of(cast(nn.Module, model))
    assert stem is not None  # ``check_way`` was asked
    alpha = alpha_from_mask(view.masks, size=(view.masks.shape[1], view.masks.shape[2]), **stem.settings)
    device = model.logit_scale.device
    return encode_regions(model, view.pixels.expand(len(alpha), -1, -1, -1).to(device), alpha=alpha.to(device))


def _by_crop(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del view
    return model.encode_image(crops.to(model.logit_scale.device)).pooled


def _by_blur(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del crops
    sigma = _BLUR * max(view.pixels.shape[1:])
    size = [min(2 * round(3 * sigma) + 1, side - 1 + side % 2) for side in view.pixels.shape[:0:-1]]  # odd, width first
    blurred = gaussian_blur(view.pixels, kernel_size=size, sigma=[sigma, sigma])
    return model.encode_image(
        torch.where(view.masks[:, None], view.pixels, blurred).to(model.logit_scale.device)
    ).pooled


def _by_attention(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del crops
    side = getattr(model, "patch_side", None)
    rows, columns = view.pixels.shape[1:]
    if side is None or rows % side or columns % side:
        raise UnsupportedModelError(
            f"region_as attention: {type(model).__name__} has no image tower of patches; expected a vision transformer"
        )
    patches = view.masks.unflatten(2, (columns // side, side)).unflatten(1, (rows // side, side)).any(dim=4).any(dim=2)
    image = view.pixels[None].to(model.logit_scale.device)
    found = [encode_patches(model, image, keep=one.flatten().nonzero().T.to(image.device)).pooled for one in patches]
    return torch.cat(found)


def _by_patches(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del crops
    device = model.logit_scale.device
    return encode_boxes(model, view.pixels[None].to(device), view.boxes[None].to(device))[0]


def _by_prompter(model: DualEncoder, view: RegionView, crops: Tensor) -> Tensor:
    del crops
    device = model.logit_scale.device
    return region_embeddings(model, view.pixels[None].to(device), view.boxes[None].to(device))[0]


REGION_WAYS: Mapping[str, Callable[[DualEncoder, RegionView, Tensor], Tensor]] = {
    "alpha": _by_alpha,
    "crop": _by_crop,
    "blur": _by_blur,
    "attention": _by_attention,
    "patches": _by_patches,
    "prompter": _by_prompter,
}
"""How a region is asked about: the whole image with the region as ``alpha``; its ``crop`` alone; the whole image,
outside of it a ``blur``; the patches that it touches, which alone are attended to (``attention``); the mean of the
``patches`` in its box, each by its own value in the last block; or its box, by a trained ``prompter``."""


def check_ways(model: DualEncoder, ways: Sequence[RegionAs]) -> None:
    """Refuse ways that a model does not have.

    Raises:
        InputError: no such way, one twice, or ``alpha`` or ``prompter`` of a model that has none.
        UnsupportedModelError: ``attention`` or ``patches`` of a tower without patches; it says why.
    """
    for number, way in enumerate(ways):
        if way not in REGION_WAYS or way in ways[:number]:
            raise InputError(f"region_as: expected different ones of {', '.join(REGION_WAYS)}, got {', '.join(ways)}")
    if "alpha" in ways and stem_of(cast(nn.Module, model)) is None:
        raise InputError(
            "region_as alpha: the model takes no alpha; expected one of tether adapt --recipe regions, or take crop, "
            "blur or attention"
        )
    size = model.image_spec.fixed().size
    everything = torch.ones(1, *size, dtype=torch.bool)
    blank = RegionView(torch.zeros(3, *size, dtype=torch.uint8), everything, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    for way in ("attention", "patches", "prompter"):
        if way in ways:
            with torch.no_grad():
                REGION_WAYS[way](model, blank, blank.pixels[None])


def region_rows(
    model: DualEncoder, pixels: UInt8[Tensor, "3 h w"], *, regions: Sequence[NamedRegion], region_as: RegionAs
) -> Float[Tensor, "k d"]:
    """Embeddings of the regions of one image, float32 on the CPU, not normalised.

    Args:
        model: any; see ``check_ways``.
        pixels: of the image at its own size.
        regions: k of it, at least one; the masks of all or of none.
        region_as: the way.
    """
    boxes = np.stack([one.box for one in regions])
    masks = [one.mask for one in regions if one.mask is not None]
    view = region_view(pixels, boxes=boxes, masks=masks or None, spec=model.image_spec)
    crops = torch.empty(0)
    if region_as == "crop":
        spec = model.image_spec.fixed()
        crops = torch.stack([resize_and_crop(cut_box(pixels, box), spec) for box in boxes.tolist()])
    with torch.no_grad():
        return REGION_WAYS[region_as](model, view, crops).float().cpu()


@checked
def classify_regions(
    source: Source,
    *,
    model: DualEncoder,
    head: ZeroShotClassifier,
    regions: RegionFiles,
    ways: Sequence[RegionAs],
    bad: BadRows,
    top: Count = 3,
    abstain: Share = 0.0,
    on_progress: Progress | None = None,
) -> Iterator[RegionLabel]:
    """Name every region of a source's good images, in its order, in each of the ways; images without one have none.

    Args:
        source: of the images.
        model: any.
        head: prepared with the model and the classes.
        regions: of the images.
        ways: how a region is asked about.
        bad: the account of images that are skipped.
        top: classes listed for each region.
        abstain: least confidence for a label to be given.
        on_progress: called with (images done, None).

    Raises:
        InputError: a region that is none, regions of images that are not there, or no good image.
    """
    check_ways(model, ways)
    regions.check(row.key for block in source.blocks() for row in source.read(block))
    done = 0
    for (row,), (pixels,) in originals(source, bad=bad, batch_size=1):
        height, width = int(pixels.shape[1]), int(pixels.shape[2])
        found = regions.of(row.key, size=(height, width))
        for way in ways if found else ():
            scores = head.scores(region_rows(model, pixels, regions=found, region_as=way))
            for one, (label, ranked) in zip(found, named(scores, top=top, abstain=abstain), strict=True):
                x0, y0, x1, y1 = (one.box * (width, height, width, height)).tolist()
                yield RegionLabel(row.key, one.name, (x0, y0, x1, y1), way, label, ranked)
        done += 1
        if on_progress is not None:
            on_progress(done, None)
    if not done:
        raise InputError(f"{source.name}: {bad.nothing_good()}")


def write_region_csv(labels: Sequence[RegionLabel], path: Path, *, raw_csv: bool = False) -> None:
    """Labels as a CSV file, one line for each region and way, written atomically.

    Its columns are ``key``, ``region``, ``region_as``, ``label``, ``confidence``, the box ``x0``, ``y0``, ``x1``,
    ``y1`` in pixels, and for each class listed ``class_i``, ``confidence_i``, ``cosine_i``.

    Args:
        labels: at least one, all with as many classes listed.
        path: of the file.
        raw_csv: write texts that a spreadsheet would run as formulas as they are.
    """
    fixed = ["key", "region", "region_as", "label", "confidence", "x0", "y0", "x1", "y1"]
    with csv_file(path, [*fixed, *ranked_columns(labels[0].ranked)], raw_csv=raw_csv) as table:
        for one in labels:
            box = (f"{end:.6g}" for end in one.box)
            first = one.ranked[0].confidence
            table.write(
                [one.key, one.region, one.region_as, one.label, f"{first:.6f}", *box, *ranked_cells(one.ranked)]
            )
