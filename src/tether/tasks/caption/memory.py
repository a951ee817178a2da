"""What a text-only captioner is told: noisy copies of a text's embedding, or an image's with those of its regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Number, Positive, Whole, checked
from tether.models.features.attention_maps import attention_maps, maps_and_stream
from tether.models.features.find import anatomy_of
from tether.models.features.pooling import TokenPooling

Over = Literal["weights", "logarithms"]
Variance = NonNegative | Literal["auto"]
NOISE_ENERGY = 0.5
"""D times the variance of the noise: a length of 0.7 beside a unit row. MacCap's is 8 (0.016 for 512 numbers)."""


def noise_variance(variance: float | Literal["auto"], *, dim: int) -> float:
    """The variance of each number; ``auto`` is 0.5 / D, which keeps the noise's length whatever the width."""
    return NOISE_ENERGY / dim if variance == "auto" else variance


@checked
def noisy_copies(
    rows: Float[Tensor, "b *k d"],
    k: Count,
    *,
    variance: Variance = "auto",
    generator: torch.Generator | None = None,
    noise: Float[Tensor, "b k d"] | None = None,
) -> Float[Tensor, "b k d"]:
    """Unit copies of rows with Gaussian noise of its own on each (MacCap, arXiv 2401.02347, section 3.2).

    Args:
        rows: (b, d), each copied k times, or (b, k, d), which stand for their copies.
        k: copies.
        variance: of each number's noise, see ``noise_variance``; without noise rows are only scaled to length 1.
        generator: of the noise, on the CPU; needed where it is neither given nor 0.
        noise: standard normal numbers in place of drawn ones.

    Raises:
        InputError: rows or noise of another shape, or nothing to draw with.

    Example:
        >>> import torch
        >>> from tether.tasks.caption import noisy_copies
        >>> copies = noisy_copies(torch.randn(2, 64), 5, generator=torch.Generator().manual_seed(0))
        >>> copies.shape, bool(torch.allclose(copies.norm(dim=2), torch.ones(2, 5)))
        (torch.Size([2, 5, 64]), True)
    """
    copies = rows[:, None].expand(-1, k, -1) if rows.ndim == 2 else rows
    if copies.ndim != 3 or copies.shape[1] != k or (noise is not None and noise.shape != copies.shape):
        got = (tuple(rows.shape), None if noise is None else tuple(noise.shape))
        raise InputError(f"rows: expected (b, d) or (b, {k}, d), and noise (b, {k}, d) if any, got {got}")
    scale = noise_variance(variance, dim=copies.shape[2]) ** 0.5
    if scale and noise is None:
        if generator is None:
            raise InputError("generator: expected one, or noise, for nothing is drawn from the global one")
        noise = torch.randn(copies.shape, generator=generator)
    return F.normalize(copies if noise is None or not scale else copies + scale * noise.to(copies), dim=2)


@checked
def region_features(
    attn: Float[Tensor, "b *h n n"],
    tokens: Float[Tensor, "b n d"],
    *,
    k: Count = 10,
    temperature: Positive = 1.0,
    over: Over = "weights",
    row: Float[Tensor, "b n"] | None = None,
) -> tuple[Float[Tensor, "b k d"], Int[Tensor, "b k"]]:
    """Unit features of the regions around the tokens that an image's class token attends to most.

    A region is a mean of all tokens, weighted by a softmax of what its own token attends to. As released that is a
    softmax of weights that add up to 1 already, so nearly uniform; ``over="logarithms"`` takes their logarithms and
    follows the attention, and a temperature below 1 sharpens either.

    Source: MacCap (arXiv 2401.02347, section 3.3) and its released ``MacCap.py``.

    Args:
        attn: attention of the last block, of each head or their mean; row 0 is the class token's.
        tokens: of the last block in the joint space, as they shall be added up: unit rows in the release.
        k: regions; more than there are tokens are as many as tokens. The class token may be among them.
        temperature: of the softmax.
        over: what it is taken of.
        row: (b, n) what chooses the tokens in place of row 0, for towers without a class token.

    Returns:
        The regions, the most attended first, ties to the first token; and the numbers of their tokens.

    Raises:
        InputError: attention, tokens or row that do not fit.

    Example:
        >>> import torch
        >>> from tether.tasks.caption import region_features
        >>> attn = torch.rand(2, 4, 17, 17).softmax(-1)
        >>> regions, ids = region_features(attn, torch.randn(2, 17, 8), k=3)
        >>> regions.shape, ids.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 3]))
    """
    attn = attn.mean(1) if attn.ndim == 4 else attn
    count = (*tokens.shape[:2], tokens.shape[1])
    if tokens.ndim != 3 or tuple(attn.shape) != count or (row is not None and row.shape != tokens.shape[:2]):
        raise InputError(
            f"attn: expected {count} for tokens {tuple(tokens.shape)} and a row (b, n) if any, got {tuple(attn.shape)} "
            f"and {None if row is None else tuple(row.shape)}"
        )
    chosen = attn[:, 0] if row is None else row
    ids = chosen.argsort(dim=1, descending=True, stable=True)[:, :k]
    rows = attn.gather(1, ids[..., None].expand(-1, -1, attn.shape[2]))
    if over == "logarithms":
        rows = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    weights = (rows / temperature).softmax(dim=2).to(tokens.dtype)
    return F.normalize(weights @ tokens, dim=2), ids


@checked
def mix(
    image: Float[Tensor, "b d"], regions: Float[Tensor, "b k d"], *, weight: Number = 1.0
) -> Float[Tensor, "b k d"]:
    """The image's unit row plus each of its regions', the published memory before noise."""
    return image[:, None] + weight * regions


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """What was read of images, float32.

    Attributes:
        image: (b, d) unit embeddings.
        regions: (b, k, d) unit rows of regions, or None where there are none.
    """

    image: Float[Tensor, "b d"]
    regions: Float[Tensor, "b k d"] | None = None


def why_no_regions(model: DualEncoder) -> str | None:
    """Why an image tower shows no regions, in a sentence; None where it does. It reads one grey image."""
    height, width = model.image_spec.fixed().size
    try:
        read_images(model, torch.zeros(1, 3, height, width), k=1)
    except UnsupportedModelError as error:
        return f"The image embedding alone is told, without regions: {error}."
    return None


@torch.no_grad()
@checked
def read_images(
    model: DualEncoder,
    images: Tensor,
    *,
    k: Whole = 10,
    temperature: Positive = 1.0,
    over: Over = "weights",
) -> ImageRows:
    """Embeddings and regions of (b, 3, h, w) images, float32 whatever the model's precision.

    Args:
        model: any model that ``tether.load`` gives, in eval mode.
        images: uint8 pixels at the model's size or normalised floats.
        k: regions; 0 reads none, of any model.
        temperature: see ``region_features``.
        over: see ``region_features``.

    Raises:
        UnsupportedModelError: a tower without attention, with a reason of ``models.refusals``.
        InputError: the model is in training mode.
    """
    images = images.to(model.logit_scale.device)
    if not k:
        return ImageRows(F.normalize(model.encode_image(images).pooled.float(), dim=1))
    maps, stream = maps_and_stream(model, images, rows="all", layers=[-1])
    tower, attn = anatomy_of(model, "image"), maps[:, 0].float().mean(1)
    if isinstance(tower.pooling, TokenPooling):
        row = stream.layout.read(attn)
    else:  # no token asks for all
        row = attention_maps(model, images, layers=[-1])[:, 0].float().mean(1)
    tokens = F.normalize(tower.read_tokens(stream).float(), dim=2)
    regions, _ = region_features(attn, tokens, k=k, temperature=temperature, over=over, row=row)
    return ImageRows(F.normalize(tower.read_out(stream).float(), dim=1), regions)
