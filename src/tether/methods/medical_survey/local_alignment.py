"""Words and the parts of an image they name: a local loss beside the global one (the GLoRIA family)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.protocols import Objective
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses.clip import ClipLoss, Directions
from tether.losses.siglip import SigLipLoss

BLOCK_BYTES = 64 << 20
"""Size of one table of a block of reports against all images, words and regions."""

_PLAIN_EXP = 40.0
"""Up to this sharpness the exponential of a share is far from overflow in float32."""

_INNER: Mapping[str, type[Objective]] = {"clip": ClipLoss, "siglip": SigLipLoss}


@checked
def local_similarity(
    regions: Float[Tensor, "b p d"],
    *,
    words: Float[Tensor, "n w d"],
    real: Bool[Tensor, "n w"],
    temp1: Positive = 4.0,
    temp2: Positive = 5.0,
    attention: Literal["cosine", "dot"] = "cosine",
    block: Count | None = None,
) -> Float[Tensor, "b n"]:
    """How well each image's parts answer the words of each report: ``log sum_w exp(temp2 cos(c_w, w))``.

    For image i and report j: ``a_wr`` is the softmax over the report's words of ``w . r``, then the softmax over the
    regions of ``temp1 a_wr``; the context ``c_w = sum_r a_wr r`` is what the word sees of the image. The table of
    b x n x words x regions is made for a block of reports at a time, and made again in the backward.

    Source: arXiv 2312.07353, multi-scale alignment, with the constants of the GLoRIA family; the weighted regions are
    the raw ones, and words that are not real take no part in either softmax.

    Args:
        regions: parts of each image, of any length but 0.
        words: of each report, of any length but 0 where they are real.
        real: True where a word is one and not padding; at least one in each row.
        temp1: sharpness of the attention over regions.
        temp2: sharpness of the maximum over words.
        attention: the first softmax is over ``cosine`` similarities, or over ``dot`` products as in GLoRIA's release.
        block: reports at once; None takes as many as fit into 64 MB.
    """
    regions, words = _wide(regions, words)
    if regions.ndim != 3 or words.ndim != 3 or regions.shape[2] != words.shape[2] or 0 in regions.shape:
        raise InputError(
            f"expected regions (b, p, d) and words (n, w, d), got {tuple(regions.shape)} and {tuple(words.shape)}"
        )
    if tuple(real.shape) != tuple(words.shape[:2]) or real.dtype != torch.bool:
        raise InputError(f"real: expected bool {tuple(words.shape[:2])}, got {real.dtype} {tuple(real.shape)}")
    if real.device.type == "cpu" and bool((~real.any(dim=1)).any()):
        raise InputError(f"report {int((~real.any(dim=1)).nonzero()[0])}: expected at least one real word, got none")
    size = _block_rows(regions, words) if block is None else block

    def part(some: Tensor, which: Tensor) -> Tensor:
        return _block(regions, some, which, temp1=temp1, temp2=temp2, attention=attention)

    if size >= len(words):
        return part(words, real)
    again = torch.is_grad_enabled() and (regions.requires_grad or words.requires_grad)
    pieces = zip(words.split(size), real.split(size), strict=True)
    found = [checkpoint(part, *piece, use_reentrant=False) if again else part(*piece) for piece in pieces]
    return torch.cat(found, dim=1)  # pyrefly: ignore[bad-argument-type] - checkpoint is untyped


def _block(
    regions: Tensor, words: Tensor, real: Tensor, *, temp1: float, temp2: float, attention: str
) -> Float[Tensor, "b n"]:
    with torch.autocast(regions.device.type, enabled=False):
        queries, keys = (
            (F.normalize(words, dim=-1), F.normalize(regions, dim=-1)) if attention == "cosine" else (words, regions)
        )
        found = (queries.flatten(0, 1) @ keys.mT).unflatten(1, words.shape[:2])
        shares = found.masked_fill(~real[:, :, None], -math.inf).softmax(dim=2)
        # Only the direction of a context counts, so its weights need not add up to 1 where they stay in range.
        weights = (temp1 * shares).exp() if temp1 <= _PLAIN_EXP else (temp1 * shares).softmax(dim=3)
        # The context itself is never made: its product with the word is a sum of products with regions, its length a
        # quadratic form of the regions' own products.
        lengths = torch.linalg.vector_norm(regions, dim=-1)[:, None, None]
        products = found * lengths if attention == "cosine" else found / _lengths(words)[:, :, None]
        squares = (weights * (weights.flatten(1, 2) @ (regions @ regions.mT)).view_as(weights)).sum(dim=-1)
        # Where regions cancel the form is rounding alone: below what rounding leaves, no length is known.
        exact = torch.finfo(squares.dtype)
        reach = (weights.flatten(1, 2).detach() @ lengths.detach().flatten(1)[:, :, None]).view_as(squares)
        least = (exact.eps**0.5 * reach).square().clamp(min=exact.tiny)
        answers = ((weights * products).sum(dim=-1) / squares.maximum(least).sqrt()).clamp(-1, 1)
        return (temp2 * answers).masked_fill(~real, -math.inf).logsumexp(dim=2)


def _lengths(words: Tensor) -> Tensor:
    """Of each word, 1 for padding of zeros."""
    length = torch.linalg.vector_norm(words, dim=-1)
    return torch.where(length > 0, length, 1.0)


@checked
def local_alignment_loss(
    regions: Float[Tensor, "b p d"],
    *,
    words: Float[Tensor, "b w d"],
    real: Bool[Tensor, "b w"],
    temp1: Positive = 4.0,
    temp2: Positive = 5.0,
    temp3: Positive = 10.0,
    attention: Literal["cosine", "dot"] = "cosine",
    directions: Directions = "mean",
    block: Count | None = None,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of ``temp3`` times ``local_similarity``; report i belongs to image i.

    With ``gather`` each process compares its images with all reports and its reports with all images, so the mean
    over processes is the loss of the whole batch.

    Args:
        regions: parts of each image.
        words: of each report.
        real: True where a word is one.
        temp1: see ``local_similarity``.
        temp2: see ``local_similarity``.
        temp3: multiplier of the similarities.
        attention: see ``local_similarity``.
        directions: ``mean`` or ``sum`` of both, or one of them.
        block: see ``local_similarity``.
        gather: rows of all processes; None for this process alone. Regions must be as many on every process.
    """
    if len(regions) != len(words):
        raise InputError(f"expected one report for each picture, got {len(regions)} pictures and {len(words)} reports")
    gather = gather or LOCAL
    settings: dict[str, Any] = {"temp1": temp1, "temp2": temp2, "attention": attention, "block": block}
    target = torch.arange(len(regions), device=regions.device) + gather.rank * len(regions)
    if gather.world == 1:
        rows = local_similarity(regions, words=words, real=real, **settings)
        columns = rows.T
    else:
        words, real = _gathered_width(words, real, gather=gather)
        rows = local_similarity(regions, words=gather(words), real=gather(real.byte()).bool(), **settings)
        columns = local_similarity(gather(regions), words=words, real=real, **settings).T
    if directions == "image_to_text":
        return F.cross_entropy(temp3 * rows, target)
    if directions == "text_to_image":
        return F.cross_entropy(temp3 * columns, target)
    total = F.cross_entropy(temp3 * rows, target) + F.cross_entropy(temp3 * columns, target)
    return total / 2 if directions == "mean" else total


@final
class LocalAlignmentLoss:
    """A global objective, and words beside the parts of the image that they name.

    ``out.image.tokens`` (b, p, d) and ``out.text.tokens`` (b, w, d) are parts and words in the joint space, where
    ``out.text.mask`` says which words are real; the step ``{name: contrastive, want: tokens}`` brings them.

    Source: arXiv 2312.07353; its values of the GLoRIA family.
    """

    @checked
    def __init__(
        self,
        *,
        temp1: Positive = 4.0,
        temp2: Positive = 5.0,
        temp3: Positive = 10.0,
        weight: NonNegative = 1.0,
        attention: Literal["cosine", "dot"] = "cosine",
        inner: Objective | str | Mapping[str, Any] = "clip",
        block: Count | None = None,
    ) -> None:
        """Take the settings.

        Args:
            temp1: sharpness of the attention over regions.
            temp2: sharpness of the maximum over words.
            temp3: multiplier of the similarities.
            weight: of the local loss beside the global one.
            attention: the first softmax is over ``cosine`` similarities or ``dot`` products.
            inner: the global objective, or its name or settings as in a recipe.
            block: reports at once; None takes as many as fit into 64 MB.
        """
        self.inner: Objective = (
            build(inner, _INNER, where="local_alignment: inner") if isinstance(inner, (str, Mapping)) else inner
        )
        self.temp1, self.temp2, self.temp3, self.weight = temp1, temp2, temp3, weight
        self.attention: Literal["cosine", "dot"] = attention
        self.block = block

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The sum of both; terms are the global objective's and ``local``, unweighted.

        Raises:
            InputError: an encoder's outputs without tokens, or as the inner objective.
        """
        loss = self.inner(out, batch, gather=gather)
        regions, words = _tokens(out.image, side="image"), _tokens(out.text, side="text")
        real = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        if out.text.mask is not None:
            real = out.text.mask
        local = local_alignment_loss(
            regions,
            words=words,
            real=real,
            temp1=self.temp1,
            temp2=self.temp2,
            temp3=self.temp3,
            attention=self.attention,
            block=self.block,
            gather=gather,
        )
        return Loss(loss.total + self.weight * local, {**loss.terms, "local": local.detach()})


def _tokens(features: Features, *, side: str) -> Tensor:
    if features.tokens is None:
        raise InputError(
            f"local_alignment: the {side} side has no tokens; use the step {{name: contrastive, want: tokens}}"
        )
    return features.tokens


def _wide(regions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(regions.dtype, words.dtype), torch.float32)
    return regions.to(dtype), words.to(dtype)


def _block_rows(regions: Tensor, words: Tensor) -> int:
    one = len(regions) * words.shape[1] * regions.shape[1] * regions.element_size()
    return max(1, BLOCK_BYTES // max(1, one))


def _gathered_width(words: Tensor, real: Tensor, *, gather: Gather) -> tuple[Tensor, Tensor]:
    """The same with padding up to the longest report of any process, as only equal shapes can be gathered."""
    widest = int(gather(torch.tensor([words.shape[1]], device=words.device)).max())
    more = widest - words.shape[1]
    return F.pad(words, (0, 0, 0, more)), F.pad(real, (0, more))
