"""Embeddings of images of which only some patches are looked at, for every vision transformer."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.features.find import anatomy_of
from tether.models.towers.clip import Clip


def encode_patches(model: DualEncoder, image: Tensor, *, keep: Int[Tensor, "b k"]) -> Features:
    """Embed images as ``encode_image`` does, from the patches in ``keep`` alone; the blocks never see the others.

    Args:
        model: any model of ``tether.load`` whose image tower is a vision transformer; see
            ``models.features.find.anatomy_of``.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        keep: (b, k) indices of patches, row by row from the top left; see ``towers.patch_selection.TOKEN_CHOICES``.

    Returns:
        ``pooled`` (b, d), with gradient. With every patch kept it is that of ``encode_image``.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.kept_patches import encode_patches
        >>> keep = torch.tensor([[0, 5, 9], [1, 2, 15]])
        >>> encode_patches(create("tiny").eval(), torch.rand(2, 3, 32, 32), keep=keep).pooled.shape
        torch.Size([2, 64])
    """
    if isinstance(model, Clip):
        return model.encode_image(image, keep=keep)
    tower = anatomy_of(model)
    stream = tower.run(tower.embed_some(image, keep=keep))
    return Features(tower.read_out(stream), extra=stream.extra)
