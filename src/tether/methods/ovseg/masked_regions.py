"""The regions of a source as masked crops in memory, each with its phrase."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.ranges import Count, checked
from tether.data.boxes import window_of
from tether.data.images import decode
from tether.data.regions import MOST_MASK_PIXELS, RegionColumns
from tether.methods.ovseg.masked_crops import Fill, masked_crop


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPhrases:
    """Masked crops and what is in them.

    Attributes:
        crops: blank outside of the masks.
        masks: True inside.
        labels: number of each one's phrase.
        phrases: different ones.
    """

    crops: UInt8[Tensor, "n 3 h w"]
    masks: Bool[Tensor, "n h w"]
    labels: Int[Tensor, " n"]
    phrases: tuple[str, ...]


@checked
def masked_regions(
    source: Source,
    *,
    columns: RegionColumns,
    size: tuple[Count, Count],
    fill: Fill = "mean",
    limit: Count | None = None,
) -> MaskedPhrases:
    """Cut the regions of a source out of its original pixels.

    Args:
        source: of images with regions and phrases. Rows that cannot be read, and regions without a phrase, are left
            out; so are regions after the first ``most`` of the columns.
        columns: of the regions; without masks a box is one.
        size: height and width of the crops.
        fill: colour outside of a mask, see ``masked_crops``.
        limit: images, at most.

    Raises:
        InputError: not one region; it names the first row that could not be read, where there is one.

    Example:
        >>> import numpy as np
        >>> from tether.core.types import Row
        >>> from tether.data.regions import RegionColumns
        >>> from tether.methods.ovseg.masked_regions import masked_regions
        >>> class Pictures:
        ...     name = "pictures"
        ...     def blocks(self):
        ...         return [0]
        ...     def read(self, block):
        ...         meta = {"boxes": [[0.0, 0.0, 0.5, 1.0]], "phrases": ["a wall"]}
        ...         yield Row("0", np.zeros((8, 8, 3), dtype=np.uint8), meta=meta)
        >>> found = masked_regions(Pictures(), columns=RegionColumns(most=4, phrases="phrases"), size=(4, 4))
        >>> found.crops.shape, found.phrases
        (torch.Size([1, 3, 4, 4]), ('a wall',))
    """
    crops: list[Tensor] = []
    masks: list[Tensor] = []
    said: list[str] = []
    images, first = 0, ""
    for row in (row for block in source.blocks() for row in source.read(block)):
        if images == limit:
            break
        if row.bad or row.image is None:
            continue
        try:
            pixels = decode(row.image, name=row.key)
            height, width = int(pixels.shape[1]), int(pixels.shape[2])
            found = columns.read(row, size=(height, width))
            wanted = [at for at, phrase in enumerate(found.phrases) if phrase.strip()][: columns.most]
            if len(wanted) * height * width > MOST_MASK_PIXELS:
                need = f"{len(wanted)} regions of {height} x {width} pixels"
                raise InputError(f"{row.key}: {need}; at most {MOST_MASK_PIXELS:,} pixels are read; lower `most`")
            if isinstance(found.masks, bytes):  # one file for all regions, which is decoded once
                found = replace(found, masks=decode(found.masks, name=row.key)[0].numpy())
            for number in wanted:
                if found.masks is None:
                    x0, y0, x1, y1 = found.boxes[number].tolist()
                    box = [x0 * width, y0 * height, x1 * width, y1 * height]
                    left, top, right, bottom = window_of(box, size=(height, width))
                    mask = torch.zeros(height, width, dtype=torch.bool)
                    mask[top:bottom, left:right] = True
                else:
                    mask = torch.from_numpy(columns.mask(found, number, size=(height, width)))
                one = masked_crop(pixels, mask, fill=fill, size=size)
                crops.append(one.pixels)
                masks.append(one.mask)
                said.append(found.phrases[number])
        except InputError as error:
            first = first or f"; {error}"
            continue
        images += 1
    if not crops:
        raise InputError(f"{source.name}: expected regions with phrases, got none{first}")
    phrases = tuple(dict.fromkeys(said))
    numbers = {phrase: number for number, phrase in enumerate(phrases)}
    labels = torch.tensor([numbers[phrase] for phrase in said])
    return MaskedPhrases(torch.stack(crops), torch.stack(masks), labels, phrases)
