"""What models say of boxes of images, by the patches inside and by the crop: which phrase of all says it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.data.boxes import cut_box
from tether.data.images import decode, resize_and_crop
from tether.data.region_views import region_view
from tether.data.regions import RegionColumns
from tether.models.embed import encode_texts
from tether.models.features.dense_regions import Bins, Last, Rows, encode_boxes

_BATCH = 64


@dataclass(frozen=True, slots=True)
class BoxAnswers:
    """Right or wrong for each of n boxes, by cosine with all phrases.

    Attributes:
        patches: by the patches in the box, of the whole image; None of a model that shows none.
        crops: by the box cut out and shown alone.
        chance: what drawing one of the phrases reaches.
    """

    patches: Bool[Tensor, " n"] | None
    crops: Bool[Tensor, " n"]
    chance: float


@torch.no_grad()
@checked
def ask_boxes(
    source: Source,
    *,
    models: Sequence[DualEncoder],
    columns: RegionColumns,
    limit: Count = 500,
    last: Last = "value",
    rows: Rows = "unit",
    bins: Bins = "one",
) -> list[BoxAnswers]:
    """Ask each model for each box with a phrase which of all phrases of the source says it best.

    Args:
        source: of images with boxes and phrases.
        models: any; each reads the images as it prepares them, with the whole of each in view.
        columns: of the boxes and phrases.
        limit: images that are asked about, at most. Rows without a box or an image that can be read are left out.
        last: see ``models.features.dense_regions.Last``.
        rows: see ``models.features.dense_regions.pooled_patches``.
        bins: likewise.

    Returns:
        One for each model; nothing where there are not two different phrases.
    """
    images: list[tuple[Tensor, Tensor]] = []
    said: list[str] = []
    for row in (row for block in source.blocks() for row in source.read(block)):
        if len(images) == limit:
            break
        if row.bad or row.image is None:
            continue
        try:
            pixels = decode(row.image, name=row.key)
            found = columns.read(row, size=(int(pixels.shape[1]), int(pixels.shape[2])))
        except InputError:
            continue
        some = [number for number, phrase in enumerate(found.phrases) if phrase.strip()][: columns.most]
        if some:
            images.append((pixels, torch.from_numpy(found.boxes[some])))
            said += [found.phrases[number] for number in some]
    phrases = list(dict.fromkeys(said))
    if len(phrases) < 2:
        return []
    right = torch.tensor([phrases.index(phrase) for phrase in said])
    answers = []
    for model in models:
        text = F.normalize(encode_texts(model, phrases), dim=1).float().cpu()
        hits: list[Tensor | None] = []
        patches = partial(_by_patches, model, last=last, rows=rows, bins=bins)
        for read in (patches, partial(_by_crops, model)):
            parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
            try:
                found_rows = torch.cat([read(part) for part in parts])
            except UnsupportedModelError:
                hits.append(None)
            else:
                hits.append((F.normalize(found_rows.float().cpu(), dim=1) @ text.T).argmax(dim=1) == right)
        crops = hits[1]
        assert crops is not None  # every model embeds images
        answers.append(BoxAnswers(hits[0], crops, 1 / len(phrases)))
    return answers


def _by_patches(
    model: DualEncoder, images: Sequence[tuple[Tensor, Tensor]], *, last: Last, rows: Rows, bins: Bins
) -> Tensor:
    views = [region_view(pixels, boxes=boxes.numpy(), spec=model.image_spec) for pixels, boxes in images]
    most = max(len(view.boxes) for view in views)
    boxes, valid = torch.zeros(len(views), most, 4), torch.zeros(len(views), most, dtype=torch.bool)
    for place, view in enumerate(views):
        boxes[place, : len(view.boxes)], valid[place, : len(view.boxes)] = view.boxes, True
    device = model.logit_scale.device
    pixels, boxes, valid = (one.to(device) for one in (torch.stack([view.pixels for view in views]), boxes, valid))
    return encode_boxes(model, pixels, boxes, valid=valid, last=last, rows=rows, bins=bins)[valid]


def _by_crops(model: DualEncoder, images: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    spec = model.image_spec.fixed()
    crops = [resize_and_crop(cut_box(pixels, box), spec) for pixels, boxes in images for box in boxes.tolist()]
    return model.encode_image(torch.stack(crops).to(model.logit_scale.device)).pooled
