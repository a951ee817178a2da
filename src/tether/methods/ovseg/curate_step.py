"""A step of a recipe: write which mask fits each noun of a row's captions, for what learns from masked regions."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Number, Positive, checked
from tether.data.curate.engine.step import IMAGE, column_of, images_of
from tether.data.images import decode
from tether.methods.ovseg.mask_pairs import NounRows, mine_pairs, nouns_of
from tether.methods.ovseg.masked_crops import check_masks
from tether.tasks.curate.lazy_encoder import Backbone


class MaskPairs:
    """Adds a mask, its box and a noun of the captions for each noun, as the recipe ``masked_crops`` reads them.

    A column of the pool holds masks without names, from any program that proposes some: a list of PNG files, not 0
    inside, or one PNG file whose value k is mask k, of the image's size. Each noun gets the mask whose masked crop the
    model finds most like it. Nothing says that any fits, so look at some; ``least`` leaves out the worst. A row without
    nouns or masks, or whose image or masks cannot be read, gets empty lists.

    Source: OVSeg (arXiv 2210.04150), section 3.3.
    """

    @checked
    def __init__(
        self,
        *,
        model: str,
        proposals: str = "proposals",
        least: Number | None = None,
        expand: Positive = 1.0,
        boxes: str = "boxes",
        phrases: str = "phrases",
        masks: str = "masks",
        device: str = "cpu",
    ) -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            proposals: column of the masks to choose from.
            least: nouns whose best mask has a lower cosine are left out.
            expand: see ``methods.ovseg.masked_crops.masked_crops``.
            boxes: new column, x0, y0, x1, y1 in shares of the image.
            phrases: new column of the nouns.
            masks: new column of PNG files, white inside.
            device: of the model.

        Raises:
            InputError: two columns of one name.
        """
        if len({proposals, boxes, phrases, masks, IMAGE}) < 5:
            raise InputError(f"columns: expected different names, got {proposals}, {boxes}, {phrases}, {masks}")
        self.columns: tuple[str, ...] = (IMAGE, proposals)
        self.least, self.expand = least, expand
        self.adds = pa.schema(
            [
                (boxes, pa.list_(pa.list_(pa.float64()))),
                (phrases, pa.list_(pa.string())),
                (masks, pa.list_(pa.binary())),
            ]
        )
        self.backbone = Backbone(model, device=device)

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords and the model's digest."""
        boxes, phrases, masks = self.adds.names
        return {
            "model": self.backbone.name,
            "model_digest": self.backbone.digest,
            "proposals": self.columns[1],
            "least": self.least,
            "expand": self.expand,
            "boxes": boxes,
            "phrases": phrases,
            "masks": masks,
        }

    def columns_of(self, rows: pa.RecordBatch, texts: pa.ListArray) -> pa.RecordBatch:
        """See ColumnStep."""
        given = zip(images_of(rows), column_of(rows, self.columns[1]), texts, strict=True)
        found = [self._of_row(image.as_py(), proposals.as_py(), said.as_py()) for image, proposals, said in given]
        arrays = [pa.array([row[place] for row in found], field.type) for place, field in enumerate(self.adds)]
        return pa.record_batch(arrays, schema=self.adds)

    def _of_row(
        self, image: bytes | None, proposals: Any, said: list[str] | None
    ) -> tuple[list[list[float]], list[str], list[bytes]]:
        nouns = tuple(dict.fromkeys(noun for text in said or () for noun in nouns_of(text)))
        if image is None or not proposals or not nouns:
            return [], [], []
        try:
            pixels, masks = decode(image), _masks_of(proposals)
            check_masks(pixels, masks)
        except InputError:
            return [], [], []
        model = self.backbone.model
        pairs = list(
            mine_pairs(
                [pixels],
                [""],
                [masks],
                model=model,
                nouns=lambda _: nouns,
                least=self.least,
                expand=self.expand,
                known=_noun_rows(model),
            )
        )
        chosen = [masks[pair.proposal].numpy() for pair in pairs]
        return [_box(mask) for mask in chosen], [pair.noun for pair in pairs], [_png(mask) for mask in chosen]


@functools.lru_cache(maxsize=2)
def _noun_rows(model: DualEncoder) -> NounRows:
    """Of a model, for all rows of a pool; not kept in the step, which travels to other processes."""
    return NounRows(model)


def _masks_of(given: Any) -> Bool[Tensor, "q h w"]:
    """Masks of a list of files, or of one file that numbers them."""
    if isinstance(given, bytes):
        values = decode(given)[0]
        return values == torch.arange(1, int(values.max()) + 1)[:, None, None]
    if not isinstance(given, list) or not all(isinstance(one, bytes) for one in given):
        raise InputError(f"expected PNG files, got {type(given).__name__}")
    masks = [decode(one)[0] != 0 for one in given]
    if len({tuple(mask.shape) for mask in masks}) > 1:
        raise InputError("expected masks of one size")
    return torch.stack(masks)


def _box(mask: Bool[np.ndarray, "h w"]) -> list[float]:
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return [across[0] / width, down[0] / height, (across[-1] + 1) / width, (down[-1] + 1) / height]


def _png(mask: Bool[np.ndarray, "h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()
