"""Images as an encoder sees them, with gradient to the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import ImageSpec


def as_images(shown: Float[Tensor, "b 3 h w"], *, spec: ImageSpec) -> Float[Tensor, "b 3 i j"]:
    """Images in -1 to 1 as a model takes them, with gradient: cut at the ends, at its size, normalised.

    Args:
        shown: of any size; another aspect is squashed.
        spec: of the model.
    """
    shown = shown.clamp(-1, 1).add(1).div(2)
    if tuple(shown.shape[2:]) != tuple(spec.size):
        shown = F.interpolate(shown, size=spec.size, mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(value).to(shown).view(3, 1, 1) for value in (spec.mean, spec.std))
    return (shown - mean) / std


def seen_by(image: Float[Tensor, "b 3 h w"], *, spec: ImageSpec) -> Float[Tensor, "b 3 i j"]:
    """``as_images`` of images in 0 to 1."""
    return as_images(image * 2 - 1, spec=spec)


def unit_images(model: DualEncoder, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    """Unit embeddings of images in 0 to 1, of any size, with gradient to them."""
    return model.encode_image(seen_by(image, spec=model.image_spec)).unit
