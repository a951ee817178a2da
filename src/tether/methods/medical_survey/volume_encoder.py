"""Volumes and films through any image tower: their slices are encoded one by one and pooled."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.types import Features

Pooling = Literal["mean", "attention"]


@final
class SliceStackEncoder(EncoderAround):
    """An encoder of stacks of slices; a ``core.protocols.DualEncoder`` whose images are (b, slices, 3, h, w).

    ``mean`` is the mean of the slices' embeddings; the lengths they come with count. ``attention`` weighs them by the
    softmax of a learned direction's product with each slice's unit embedding. It starts at zero, so before training
    both are the same, exactly. A single image (b, 3, h, w) is a stack of one slice and comes out as from the model
    inside.

    Source: arXiv 2312.07353, on volumes; the order of the slices does not count.
    """

    @checked
    def __init__(self, model: DualEncoder, *, pooling: Pooling = "mean", at_once: Count = 64) -> None:
        """Wrap a model.

        Args:
            model: any that ``tether.load`` gives.
            pooling: ``mean`` or ``attention`` over the slices.
            at_once: slices in one forward.
        """
        super().__init__(model)
        self.pooling: Pooling = pooling
        self.at_once = at_once
        scale = model.logit_scale
        self.query = nn.Parameter(scale.new_zeros(model.dim)) if pooling == "attention" else None

    def encode_image(self, image: Tensor, *, mask: Bool[Tensor, "b s"] | None = None) -> Features:
        """Embed stacks.

        Args:
            image: (b, s, 3, h, w) uint8 pixels or normalised floats, or (b, 3, h, w).
            mask: (b, s), True where a slice is one and not padding, for stacks of unequal length.

        Returns:
            ``pooled`` (b, d), and the slices' own embeddings as ``tokens`` (b, s, d) with ``mask``.
        """
        stack = image[:, None] if image.ndim == 4 else image
        if stack.ndim != 5 or 0 in stack.shape[:2]:
            raise InputError(f"image: expected (b, slices, 3, h, w) or (b, 3, h, w), got {tuple(image.shape)}")
        count = stack.shape[:2]
        if mask is None:
            rows = self._rows(stack.flatten(0, 1)).unflatten(0, count)
        else:
            if mask.dtype != torch.bool or tuple(mask.shape) != tuple(count):
                raise InputError(f"mask: expected bool {tuple(count)}, got {mask.dtype} {tuple(mask.shape)}")
            if mask.device.type == "cpu" and not bool(mask.any(dim=1).all()):
                raise InputError(f"mask: stack {int((~mask.any(dim=1)).nonzero()[0])} has no slice")
            real = self._rows(stack[mask])
            rows = real.new_zeros(*count, real.shape[1]).masked_scatter(mask[..., None], real)
        weights = self.weights(rows, mask=mask)
        return Features(torch.einsum("bs,bsd->bd", weights, rows), rows, mask)

    def weights(self, rows: Float[Tensor, "b s d"], *, mask: Bool[Tensor, "b s"] | None = None) -> Float[Tensor, "b s"]:
        """What each slice counts, adding up to 1; ``rows`` are the slices' embeddings."""
        scores = rows.new_zeros(rows.shape[:2]) if self.query is None else F.normalize(rows, dim=2) @ self.query
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return scores.softmax(dim=1)

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """As the model inside does."""
        return self.inside.encode_text(text, mask=mask)

    def _rows(self, slices: Tensor) -> Tensor:
        return torch.cat([self.inside.encode_image(part).pooled for part in slices.split(self.at_once)])
