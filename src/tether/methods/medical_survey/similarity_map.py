"""Where a phrase is in an image: the similarity of each patch, enlarged to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.models.embed import encode_texts
from tether.models.features.decompose import decompose
from tether.models.features.dense import dense_image
from tether.space.heat_maps import grid_of


@dataclass(frozen=True, slots=True)
class SimilarityMap:
    """How similar each place of each image is to each phrase.

    Attributes:
        phrases: the k phrases.
        heat: (b, k, h, w) at the images' size, enlarged bilinearly; neither cut off nor stretched.
        patches: (b, k, rows, columns) as the encoder gives them: cosines with ``tokens``, contributions to the
            image's cosine with ``parts``.
    """

    phrases: tuple[str, ...]
    heat: Float[Tensor, "b k h w"]
    patches: Float[Tensor, "b k r c"]


@checked
def similarity_map(
    model: DualEncoder,
    *,
    images: Tensor,
    phrases: Annotated[Sequence[str], MinLen(1)],
    method: Literal["tokens", "parts"] = "tokens",
    grid: tuple[int, int] | None = None,
) -> SimilarityMap:
    """Compare every patch of images with phrases.

    Patches of a CLIP that was trained on whole images need not mean what lies under them; training with
    ``local_alignment`` makes them. For a model without it, ``parts`` asks what each patch adds to the image's
    embedding, exactly.

    Source: arXiv 2312.07353, on dense tasks.

    Args:
        model: any model that ``tether.load`` gives.
        images: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        phrases: k texts, repeats allowed.
        method: ``tokens`` takes cosines with the patches' own embeddings (``models.features.dense``), ``parts``
            products with their contributions (``models.features.decompose``).
        grid: patches down and across; None takes those that fit the shape of the images.

    Raises:
        UnsupportedModelError: an image tower of another kind.
    """
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: expected (b, 3, h, w) with b >= 1, got {tuple(images.shape)}")
    words = F.normalize(encode_texts(model, phrases), dim=1)
    if method == "parts":
        parts = decompose(model, images, reduce="heads")
        rows = parts.tokens[:, :, parts.class_tokens :].sum(dim=1).float().cpu()
    else:
        with torch.no_grad():
            found = dense_image(model, images.to(model.logit_scale.device))
        assert found.tokens is not None  # they are what it is for
        rows = F.normalize(found.tokens.float(), dim=2).cpu()
    size = (images.shape[2], images.shape[3])
    shape = grid_of(rows.shape[1], size=size) if grid is None else grid
    if shape[0] * shape[1] != rows.shape[1]:
        raise InputError(f"grid: expected {rows.shape[1]} patches, got {shape[0]} x {shape[1]}")
    patches = torch.einsum("bpd,kd->bkp", rows, words).unflatten(2, shape)
    return SimilarityMap(tuple(phrases), F.interpolate(patches, size=size, mode="bilinear"), patches)
