"""Patches chosen by a text, and hidden patches rebuilt: the local parts of SyCoCa, from image to text and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Decay, Positive, checked

Pixel = Literal["mse", "l1"]


@dataclass(frozen=True, slots=True)
class PatchChoice:
    """Which patches of each image are looked at, and which are hidden.

    Attributes:
        keep: (b, n) those that a caption is told from.
        masked: (b, n) those that are hidden and rebuilt.
        score: (b, n) what they were chosen by, without gradient.
    """

    keep: Bool[Tensor, "b n"]
    masked: Bool[Tensor, "b n"]
    score: Float[Tensor, "b n"]


def patch_scores(patch: Float[Tensor, "b n d"], text: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
    """The cosine of each patch and its image's text, in float32 at least, without gradient.

    Raises:
        InputError: other widths, or other numbers of images and texts.
    """
    if len(patch) != len(text) or patch.shape[2] != text.shape[1]:
        raise InputError(
            f"text: expected {(len(patch), patch.shape[2])}, one row of the patches' width for each image, got "
            f"{tuple(text.shape)}"
        )
    wide = torch.promote_types(patch.dtype, torch.float32)
    rows, words = F.normalize(patch.detach().to(wide), dim=2), F.normalize(text.detach().to(wide), dim=1)
    return torch.einsum("bnd,bd->bn", rows, words)


@checked
def choose_patches(score: Float[Tensor, "b n"], *, drop: Decay = 0.5, mask: Decay = 0.5) -> PatchChoice:
    """Keep the patches of highest score, and hide those of highest score; of equal ones the first.

    Args:
        score: of each patch, cosines or noise.
        drop: the ``n - int(n * drop)`` best are kept.
        mask: the ``int(n * mask)`` best are hidden.
    """
    count = score.shape[1]
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return PatchChoice(rank < count - int(count * drop), rank < int(count * mask), score.detach())


@checked
def attentive_select(
    patch: Float[Tensor, "b n d"], text: Float[Tensor, "b d"], *, drop: Decay = 0.5, mask: Decay = 0.5
) -> PatchChoice:
    """Choose patches by how similar they are to the text (SyCoCa, arXiv 2401.02137, attentive masking).

    What the text speaks of is what its caption is told from, and what must be rebuilt with its help. No code of the
    paper was found; the score, the shares and that the most similar patches are hidden are our reading.

    Args:
        patch: of the image, in the joint space.
        text: the embedding of its caption.
        drop: share of the patches that the caption is not told from.
        mask: share of the patches that are hidden.

    Raises:
        InputError: other widths, or other numbers of images and texts.

    Example:
        >>> import torch
        >>> from tether.methods.sycoca.masked_patches import attentive_select
        >>> patch, text = torch.tensor([[[1.0, 0], [0, 1], [1, 1], [1, 0]]]), torch.tensor([[2.0, 0]])
        >>> found = attentive_select(patch, text, drop=0.25, mask=0.25)
        >>> found.keep.tolist(), found.masked.tolist()
        ([[True, False, True, True]], [[True, False, False, False]])
    """
    return choose_patches(patch_scores(patch, text), drop=drop, mask=mask)


@checked
def patch_pixels(
    image: Tensor, *, patch: tuple[int, int], norm: Literal["patch", "none"] = "patch", eps: Positive = 1e-6
) -> Float[Tensor, "b n p"]:
    """The pixels of each patch in a row, patches row by row from the top left; what no whole patch covers is left out.

    Args:
        image: (b, 3, h, w) uint8, which are brought to 0 to 1, or floats.
        patch: height and width of one.
        norm: ``patch`` brings each to mean 0 and variance 1, as MAE does (arXiv 2111.06377, section 4).
        eps: added to the variance, so that a patch of one colour is zeros.
    """
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image
    rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
    cut = pixels[:, :, : rows * patch[0], : columns * patch[1]]
    found = cut.unflatten(3, (columns, patch[1])).unflatten(2, (rows, patch[0])).permute(0, 2, 4, 3, 5, 1)
    found = found.flatten(3).flatten(1, 2)
    if norm == "none":
        return found
    spread, mean = torch.var_mean(found, dim=2, keepdim=True)
    return (found - mean) / (spread + eps).sqrt()


@checked
def masked_patch_loss(
    predicted: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    masked: Bool[Tensor, "b n"],
    *,
    pixel: Pixel = "mse",
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """The error of the hidden patches' pixels, the mean over all hidden patches of the whole batch; 0 without any.

    Args:
        predicted: pixels of each patch.
        target: what they are.
        masked: which patches were hidden.
        pixel: ``mse``, the mean squared difference of a patch's pixels, or ``l1``, the mean absolute one.
        gather: counts of all processes.

    Raises:
        InputError: other shapes.
    """
    if predicted.shape != target.shape or masked.shape != target.shape[:2]:
        got = f"{tuple(predicted.shape)}, {tuple(target.shape)} and {tuple(masked.shape)}"
        raise InputError(f"expected predicted and target (b, n, p) and masked (b, n), got {got}")
    off = torch.where(masked[..., None], predicted - target, 0.0)
    each = (off**2 if pixel == "mse" else off.abs()).mean(dim=2)
    return each.sum() * gather.world / gather(masked.sum()[None]).sum().clamp(min=1)
