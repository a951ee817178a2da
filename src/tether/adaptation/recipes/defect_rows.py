"""Images with defects as rows in memory: what a frozen encoder reads of them once, with labels and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.adaptation.recipes.given import Progress
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data.defect_truths import DefectTruths, mask_at
from tether.data.labelled import label_of
from tether.models.composed.cached import CachedEncoder

BATCH = 8
"""Images in one forward."""


@dataclass(frozen=True, slots=True)
class DefectRows:
    """What prompts and adapters learn from; it lies in memory, of ViT-L/14 at 518 pixels 4.5 MB an image.

    Attributes:
        rows: (n, w) of the reader, float32.
        labels: (n,) 1 for a defective image.
        masks: (n, h, w) True where it is, at the reader's size.
        masked: (n,) whether that is known.
        products: names of the things that images show; empty names where nobody asked.
    """

    rows: Float[Tensor, "n w"]
    labels: Int[Tensor, " n"]
    masks: Bool[Tensor, "n h w"]
    masked: Bool[Tensor, " n"]
    products: tuple[str, ...] = ()

    def tensors(self) -> Mapping[str, Tensor]:
        """As ``training.tensor_batches.TensorBatches`` takes them."""
        return {"image": self.rows, "label": self.labels, "mask": self.masks, "masked": self.masked}


def read_defects(
    reader: DualEncoder,
    source: Source,
    truths: DefectTruths,
    *,
    product: str | None = None,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> DefectRows:
    """Embed the images of which something is known; rows lie in the feature cache.

    Args:
        reader: whose rows are kept, and whose size masks get, by the nearest of their pixels.
        source: of images; those of which nothing is known are left out.
        truths: what is known of them.
        product: column that says which thing an image shows, or None.
        workers: threads that decode.
        on_progress: called with (images done, None).

    Raises:
        InputError: no normal or no defective image, a mask that cannot be read, or an image without a product.
    """
    size, found = reader.image_spec.size, list[Tensor]()
    labels, masks, masked, without = list[int](), list[Tensor](), list[bool](), 0
    products = list[str]()
    cached = CachedEncoder(reader, sides=("image",))
    for rows, image in cached.rows_of(source, batch_size=BATCH, workers=workers, on_progress=on_progress):
        known = [truths.read(row) for row in rows]
        some = [number for number, truth in enumerate(known) if truth is not None]
        without += len(rows) - len(some)
        found.append(image[some])
        for row, truth in zip(rows, known, strict=True):
            if truth is not None:
                products.append(_product(row, product))
                labels.append(int(truth.defective))
                masked.append(truth.mask is not None)
                mask = torch.zeros(size) if truth.mask is None else torch.from_numpy(mask_at(truth.mask, size))
                masks.append(mask.bool())
    defective = sum(labels)
    if not 0 < defective < len(labels):
        rest = f", and {without} of which nothing is known" if without else ""
        raise InputError(
            f"{source.name}: expected normal images and defective ones, got {len(labels) - defective} normal and "
            f"{defective} defective{rest}; masks are black for normal images, and an image without one has a label"
        )
    return DefectRows(torch.cat(found), torch.tensor(labels), torch.stack(masks), torch.tensor(masked), tuple(products))


def _product(row: Row, column: str | None) -> str:
    name = "" if column is None else label_of(row, column)
    if name is None:
        raise InputError(f"{row.key}: expected which thing it shows in column {column!r}, got nothing")
    return name
