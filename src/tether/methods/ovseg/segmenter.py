"""OVSeg: pieces of an image are named by what a CLIP says of each piece alone, together with its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, Share, checked
from tether.methods.ovseg.mask_classes import combine, pixel_scores
from tether.methods.ovseg.mask_prompts import encode_masked
from tether.methods.ovseg.masked_crops import MaskedCrop, check_masks, masked_crop
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.find import tower_of
from tether.models.towers.vision.mask_prompt_stem import prompts_of
from tether.tasks.segment.segmenter import DenseSegmenter

Proposer = Callable[[UInt8[Tensor, "3 h w"]], Bool[Tensor, "q h w"]]
"""An image to masks that have no names yet, of its size; they may overlap."""
AT_ONCE = 64
"""Crops in one forward."""
LONGEST = 512
"""Most pixels of a side at which masks of a proposer are laid over each other."""


class OvsegSegmenter(DenseSegmenter):
    """Names pieces: the rest of the image is blank when a CLIP is asked what one is.

    Pieces are the connected places of one class in the map of ``values``, or come from a proposer. Each has the
    classes of its patches, and those of its masked crop; the two are combined (``mask_classes.combine``). What is in
    no piece has the classes of its patches. A model with mask prompts is shown where the crop is blank.

    The paper's masks and their first classes come from a MaskFormer that is trained with labels; here they come from
    the patches.

    Source: arXiv 2210.04150, section 3 and released code.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.ovseg import OvsegSegmenter
        >>> segmenter = OvsegSegmenter().prepare(create("tiny").eval(), ["road", "sky"])
        >>> (masks,) = segmenter.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> masks.size
        (50, 120)
    """

    @checked
    def __init__(
        self,
        *,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
        weight: Share = 0.7,
        prompts: Literal["own", "none"] = "own",
        pieces: Count = 32,
        piece: Share = 0.005,
        proposer: Proposer | None = None,
    ) -> None:
        """Choose how pieces are named; the first five settings are those of ``DenseSegmenter``.

        Args:
            templates: see there.
            temperature: see there.
            background: see there.
            least: see there.
            batch_size: see there.
            weight: of the crops against the patches.
            prompts: the model's ``own`` mask prompts, if it has some, or ``none``.
            pieces: of an image that are looked at, the largest.
            piece: least share of the image that a piece has.
            proposer: in place of the pieces; from Python alone.
        """
        super().__init__(
            templates=templates, temperature=temperature, background=background, least=least, batch_size=batch_size
        )
        self.weight, self.prompts, self.pieces, self.piece, self.proposer = weight, prompts, pieces, piece, proposer

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        own = {name: getattr(self, name) for name in ("weight", "prompts", "pieces", "piece")}
        name = None if self.proposer is None else getattr(self.proposer, "__qualname__", type(self.proposer).__name__)
        return {**super().settings(), **own, "proposer": name}

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``; of a network of convolutions the places of its last map."""
        path = DensePath() if tower_of(model).sealed is None else None
        tokens = dense_image(model, image, path=path).tokens
        assert tokens is not None  # dense_image gives them
        return tokens

    @torch.no_grad()
    def refine(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "t q s"]:
        """Logarithms of the probabilities of the classes, after pieces were named."""
        probs = scores.float().softmax(dim=0)
        masks = self._pieces(probs) if self.proposer is None else self._proposed(image)
        if not len(masks):
            return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
        size = (masks.shape[1], masks.shape[2])
        if tuple(probs.shape[1:]) != size:
            probs = F.interpolate(probs[None], size, mode="bilinear")[0]
        cover = masks.to(probs.dtype)
        area = cover.sum(dim=(1, 2)).clamp_min(torch.finfo(probs.dtype).tiny)
        own = torch.einsum("qhw,thw->qt", cover, probs) / area[:, None]
        crops = [_crop(image, mask, spec=self._model().image_spec) for mask in masks]
        valid = torch.tensor([crop is not None for crop in crops])
        said = self._named([crop for crop in crops if crop is not None])
        found = pixel_scores(combine(own, said, weight=self.weight, valid=valid), cover)
        total = found.sum(dim=0, keepdim=True)
        found = torch.where(total > 0, found / total.clamp_min(torch.finfo(found.dtype).tiny), probs)
        return found.clamp_min(torch.finfo(found.dtype).tiny).log()

    def _model(self) -> DualEncoder:
        return next(iter(self._models.values()))[0]

    def _named(self, crops: Sequence[MaskedCrop]) -> Float[Tensor, "v t"]:
        """Probabilities of the texts for crops."""
        model, rows = self._model(), []
        told = self.prompts == "own" and prompts_of(cast(nn.Module, model)) is not None
        for start in range(0, len(crops), AT_ONCE):
            some = crops[start : start + AT_ONCE]
            pixels = torch.stack([crop.pixels for crop in some]).to(model.logit_scale.device)
            if told:
                inside = torch.stack([crop.mask for crop in some]).to(pixels.device)
                rows.append(encode_masked(model, pixels, mask=inside).pooled)
            else:
                rows.append(model.encode_image(pixels).pooled)
        if not rows:
            return torch.zeros(0, len(self.rows))
        return self.logits(torch.cat(rows)[None])[0].float().softmax(dim=1).cpu()

    def _pieces(self, probs: Float[Tensor, "t r c"]) -> Bool[Tensor, "q r c"]:
        """The connected places of each class, the largest first."""
        from scipy import ndimage

        best, found = probs.argmax(dim=0).numpy(), []
        for number in np.unique(best):
            apart, count = ndimage.label(best == number)
            found += [apart == piece for piece in range(1, count + 1)]
        found = sorted(found, key=lambda mask: -int(mask.sum()))[: self.pieces]
        kept = [mask for mask in found if mask.sum() >= self.piece * best.size]
        return torch.from_numpy(np.stack(kept)) if kept else torch.zeros(0, *best.shape, dtype=torch.bool)

    def _proposed(self, image: UInt8[Tensor, "3 h w"]) -> Bool[Tensor, "q h w"]:
        """The proposer's masks, smaller where they are large.

        Raises:
            InputError: masks that are not the image's.
        """
        assert self.proposer is not None
        masks = self.proposer(image).cpu()
        check_masks(image, masks)
        longest = max(masks.shape[1:])
        if longest <= LONGEST or not len(masks):
            return masks
        size = [max(1, round(side * LONGEST / longest)) for side in masks.shape[1:]]
        return F.interpolate(masks[None].float(), size, mode="area")[0] >= 0.5


def _crop(image: UInt8[Tensor, "3 h w"], mask: Bool[Tensor, "r c"], *, spec: Any) -> MaskedCrop | None:
    """What lies under a mask of any resolution; None where that is not one pixel."""
    down, across = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    if not len(down):
        return None
    ends = []
    for places, side, cells in ((down, image.shape[1], mask.shape[0]), (across, image.shape[2], mask.shape[1])):
        first, last = int(places[0]), int(places[-1]) + 1
        ends.append((first * side // cells, -(-last * side // cells), first, last))
    (top, bottom, row, rows), (left, right, column, columns) = ends
    part = mask[row:rows, column:columns]
    inside = F.interpolate(part[None, None].float(), (bottom - top, right - left), mode="nearest")[0, 0] > 0
    if not inside.any():
        return None
    fill = tuple(255 * value for value in spec.mean)
    return masked_crop(image[:, top:bottom, left:right], inside, fill=fill, size=spec.size)
