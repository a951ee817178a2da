"""A model's patches learn to say what the model itself says of crops: CLIPSelf, arXiv 2310.01403."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.types import Batch, Loss, Regions
from tether.data.region_proposals import cut_regions, enlarged, random_grids, sized_boxes
from tether.losses.region_distill import region_cosine_loss
from tether.models.features.dense_regions import Last, dense_patches, pooled_patches
from tether.training.steps.module import InsideStep, StepModule

Where = Literal["grid", "boxes"]


class NoRegionWarning(UserWarning):
    """A batch has no region to learn from; its loss is 0."""


class SelfDistillStep(InsideStep):
    """One minus the mean cosine of what the patches in a box say and what a frozen model says of its crop.

    No texts, labels or boxes are needed: a random grid on each image will do. Images may be larger than the model reads
    them; then crops are sharper. Everything after the last block must rest, or images leave the texts.

    Example:
        >>> import torch
        >>> from tether.adaptation.distill import SelfDistillStep
        >>> from tether.core.gather import LOCAL
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> from tether.models.towers.frozen_copy import frozen_copy
        >>> from tether.training.steps.module import StepModule
        >>> model = create("tiny").eval()
        >>> images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)  # twice the model's size
        >>> step = SelfDistillStep(frozen_copy(model))
        >>> bool(step(StepModule(model), Batch(images, torch.empty(2, 0)), step=0, gather=LOCAL).total > 0)
        True
    """

    @checked
    def __init__(
        self,
        teacher: DualEncoder,
        *,
        where: Where = "grid",
        max_split: Count = 6,
        most: Count = 20,
        enlarge: Annotated[float, Ge(1)] = 1.5,
        last: Last = "value",
        seed: int = 0,
    ) -> None:
        """Take the settings.

        Args:
            teacher: reads the crops at its own size; frozen, in eval mode, in the model's joint space.
            where: cells of a random ``grid``, or ``boxes``: the batch's ``regions`` (their phrases are not read).
            max_split: of the grid, see ``random_grids``.
            most: regions of an image.
            enlarge: of ``boxes``, how many times as wide and high the crop is.
            last: see ``models.features.dense_regions.Last``.
            seed: of the grids.
        """
        self.teacher, self.where, self.max_split, self.most = teacher, where, max_split, most
        self.enlarge, self.seed = enlarge, seed
        self.last: Last = last

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep.

        Raises:
            InputError: pixels that are none, or no regions in the batch where ``where`` is ``boxes``.
        """
        model = cast(DualEncoder, module.model)
        boxes, valid = self._regions(batch, step=step, gather=gather)
        crop = boxes if self.where == "grid" else enlarged(boxes, factor=self.enlarge)
        size = self.teacher.image_spec.fixed().size
        crops = cut_regions(batch.image, crop, valid=valid, size=size)
        image = at_size(batch.image, model)
        tokens = dense_patches(model, image, last=self.last).tokens
        assert tokens is not None  # dense_image gives them
        regions = pooled_patches(model, tokens, boxes, image=image, valid=valid)
        targets = torch.zeros_like(regions)
        if len(crops):
            with torch.no_grad():
                targets[valid] = read_in_parts(self.teacher, crops).to(targets)
        else:
            warnings.warn("a batch without regions: its loss is 0", NoRegionWarning, stacklevel=2)
        loss = region_cosine_loss(regions, targets, valid=valid, over="process", gather=gather)
        return Loss(loss, {"regions": valid.sum().float()})

    def _regions(
        self, batch: Batch, *, step: int, gather: Gather
    ) -> tuple[Float[Tensor, "b m 4"], Bool[Tensor, "b m"]]:
        rows, device = len(batch.image), batch.image.device
        if self.where == "boxes":
            regions = batch.extra.get("regions")
            if not isinstance(regions, Regions):
                raise InputError(
                    f"batch.extra: expected 'regions', got {', '.join(batch.extra) or 'nothing'}; the loader's "
                    "contents bring them: BatchContents(regions={'most': 20, 'boxes': COLUMN})"
                )
            height, width = batch.image.shape[2:]
            return sized_boxes(regions.boxes, valid=regions.valid, size=(height, width))
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="grids") >> 1)
        drawn = random_grids(rows * gather.world, generator=generator, max_split=self.max_split, most=self.most)
        mine = slice(gather.rank * rows, (gather.rank + 1) * rows)
        boxes, valid = (one[mine].to(device, non_blocking=True) for one in drawn)
        return boxes, valid


def at_size(image: Tensor, model: DualEncoder) -> Tensor:
    """Images (b, 3, h, w) at the size that a model reads.

    Raises:
        InputError: no images, or floats, which say nothing of where their pixels came from, of another size.
    """
    size = model.image_spec.fixed().size
    if image.ndim != 4 or image.shape[1] != 3 or not len(image):
        raise InputError(f"image: expected (b, 3, h, w), got {tuple(image.shape)}")
    if tuple(image.shape[2:]) == size:
        return image
    resized = F.interpolate(image.float(), size, mode="bicubic", antialias=True)
    return resized if image.is_floating_point() else resized.round().clamp(0, 255).to(image.dtype)


def read_in_parts(model: DualEncoder, images: Tensor, *, rows: int = 256) -> Float[Tensor, "n d"]:
    """Embeddings of many crops, so many at once."""
    return torch.cat([model.encode_image(part).pooled for part in images.split(rows)])
