"""Patches as they leave the tower, and MaskCLIP's, which take their own values in the last block."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.models.features.dense import DensePath, dense_tokens
from tether.tasks.segment.segmenter import DenseSegmenter


class TokenSegmenter(DenseSegmenter):
    """The patches as they leave the tower; the one way for networks of convolutions, whose last map they are.

    In a vision transformer that was trained on whole images the last blocks mix patches, so that many no longer say
    what is in their place; ``ValueSegmenter`` undoes it.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.tasks.segment import TokenSegmenter
        >>> segmenter = TokenSegmenter().prepare(create("tiny").eval(), ["road", "sky"])
        >>> (masks,) = segmenter.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> masks.size
        (50, 120)
    """

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``."""
        return dense_tokens(model, image)


class ValueSegmenter(DenseSegmenter):
    """MaskCLIP: in the last block a patch takes its own value alone, so that it says what is in its place.

    Source: arXiv 2112.01071, section 3.2, with the residual and the feed-forward net as in arXiv 2312.12359.
    """

    looks_inside = True
    path = DensePath()

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``."""
        return dense_tokens(model, image, path=self.path)
