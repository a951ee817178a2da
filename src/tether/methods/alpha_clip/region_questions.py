"""What a model answers about the regions of images: with no mask, with their crops, and with alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.data.boxes import cut_box
from tether.data.images import decode, resize_and_crop
from tether.data.region_views import region_view
from tether.data.regions import RegionColumns
from tether.models.embed import encode_texts
from tether.models.encoders.region_tower import alpha_from_mask, encode_regions
from tether.models.towers.vision.alpha_stem import stem_of


@dataclass(frozen=True, slots=True)
class RegionAnswers:
    """Right or wrong, one entry for each of n regions, of p pairs of them for ``follows``.

    Attributes:
        unmasked: the model before, asked with the whole image.
        cropped: the model before, asked with the crop of the region's box.
        masked: the model after, asked with the region as alpha.
        follows: whether the model after, between the phrases of two regions of an image, takes each one's own when it
            is given its mask; of the first two with different phrases.
        chance: what drawing one of the phrases reaches.
    """

    unmasked: Bool[Tensor, " n"]
    cropped: Bool[Tensor, " n"]
    masked: Bool[Tensor, " n"]
    follows: Bool[Tensor, " p"]
    chance: float


@torch.no_grad()
@checked
def ask_regions(
    source: Source, *, before: DualEncoder, after: DualEncoder, columns: RegionColumns, limit: Count = 500
) -> RegionAnswers | None:
    """Ask for each region which of all phrases of the source says it best, by cosine.

    Args:
        source: of images with regions and phrases.
        before: any model.
        after: one that takes alpha.
        columns: of the regions.
        limit: images that are asked about, at most. Rows without a region or an image that can be read are left out.

    Returns:
        None where there are not two different phrases.

    Raises:
        InputError: ``after`` takes no alpha.
    """
    stem = stem_of(cast(nn.Module, after))
    if stem is None:
        raise InputError("regions: expected a model that takes alpha")
    rows: dict[str, list[Tensor]] = {"unmasked": [], "cropped": [], "masked": []}
    said: list[list[str]] = []
    for row in (row for block in source.blocks() for row in source.read(block)):
        if len(said) == limit:
            break
        if row.bad or row.image is None:
            continue
        try:
            pixels = decode(row.image, name=row.key)
            size = int(pixels.shape[1]), int(pixels.shape[2])
            found = columns.read(row, size=size)
            some = [number for number, phrase in enumerate(found.phrases) if phrase.strip()][: columns.most]
            masks = None if found.masks is None else [columns.mask(found, number, size=size) for number in some]
        except InputError:
            continue
        if not some:
            continue
        boxes = found.boxes[some]
        view = region_view(pixels, boxes=boxes, masks=masks, spec=before.image_spec)
        spec, device = before.image_spec.fixed(), before.logit_scale.device
        crops = torch.stack([resize_and_crop(cut_box(pixels, box), spec) for box in boxes.tolist()])
        whole = before.encode_image(view.pixels[None].to(device)).unit
        alpha = alpha_from_mask(view.masks, size=(view.masks.shape[1], view.masks.shape[2]), **stem.settings)
        images = view.pixels.expand(len(some), -1, -1, -1).to(device)
        rows["unmasked"].append(whole.expand(len(some), -1))
        rows["cropped"].append(before.encode_image(crops.to(device)).unit)
        rows["masked"].append(F.normalize(encode_regions(after, images, alpha=alpha.to(device)), dim=1))
        said.append([found.phrases[number] for number in some])
    phrases = list(dict.fromkeys(phrase for some in said for phrase in some))
    if len(phrases) < 2:
        return None
    number = {phrase: place for place, phrase in enumerate(phrases)}
    right = torch.tensor([number[phrase] for some in said for phrase in some])
    texts = [F.normalize(encode_texts(model, phrases), dim=1) for model in (before, after)]
    cosines = {name: torch.cat(found).float().cpu() @ texts[name == "masked"].T for name, found in rows.items()}
    hits = {name: found.argmax(dim=1) == right for name, found in cosines.items()}
    follows, first = [], 0
    for some in said:
        other = next((place for place, phrase in enumerate(some) if phrase != some[0]), None)
        if other is not None:
            two = [number[some[0]], number[some[other]]]
            between = cosines["masked"][[first, first + other]][:, two]
            follows.append(bool((between.argmax(dim=1) == torch.arange(2)).all()))
        first += len(some)
    return RegionAnswers(**hits, follows=torch.tensor(follows, dtype=torch.bool), chance=1 / len(phrases))
