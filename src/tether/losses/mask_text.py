"""Masks against the texts of their classes: each matched mask is drawn to one of its class's prompts (MTA-CLIP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, PositiveSingle, checked
from tether.core.types import MaskPrediction
from tether.losses.boxes import Over, share
from tether.losses.checks import check_unit_lengths
from tether.losses.masks import MaskTerms, mask_loss, masks_at, match_masks

Negatives = Literal["separate", "mix"]
"""Which prompts of other classes a mask is kept from: those of the same number as its own, or all."""


def mask_text_similarity(
    masks: Float[Tensor, "b q d"], texts: Float[Tensor, "k p d"], *, temperature: float
) -> Float[Tensor, "b q k p"]:
    """Cosines of masks with the p prompts of k classes, by the temperature, in float32 or wider; both are unit rows.

    Raises:
        InputError: shapes that do not fit, no class or no prompt, or on the CPU a row whose length is not 1.
    """
    if masks.ndim != 3 or texts.ndim != 3 or masks.shape[2] != texts.shape[2] or 0 in texts.shape:
        raise InputError(
            "expected masks (b, q, d) and texts (classes, prompts, d), at least one of each, got "
            f"{tuple(masks.shape)} and {tuple(texts.shape)}"
        )
    for name, rows in (("masks", masks), ("texts", texts)):
        check_unit_lengths(rows.flatten(0, 1), name=name)
    with torch.autocast(masks.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(masks.dtype, texts.dtype), torch.float32)
        return torch.einsum("bqd,kpd->bqkp", masks.to(dtype), texts.to(dtype)) / temperature


@checked
def mask_text_logits(
    masks: Float[Tensor, "b q d"], texts: Float[Tensor, "k p d"], *, temperature: PositiveSingle = 0.07
) -> Float[Tensor, "b q k"]:
    """How much each mask is like each class: its best prompt's cosine by the temperature.

    Raises:
        InputError: as ``mask_text_loss``.
    """
    return mask_text_similarity(masks, texts, temperature=temperature).amax(dim=3)


def best_prompts(similarity: Float[Tensor, "b q k p"], labels: Integer[Tensor, "b q"]) -> Int[Tensor, "b q"]:
    """The prompt of its own class that each mask is most like, of equals the first; -1 where ``labels`` is below 0."""
    own = labels.long().clamp(min=0)[..., None, None].expand(*labels.shape, 1, similarity.shape[3])
    return torch.where(labels >= 0, similarity.detach().gather(2, own)[:, :, 0].argmax(dim=2), -1)


@checked
def mask_text_loss(
    masks: Float[Tensor, "b q d"],
    texts: Float[Tensor, "k p d"],
    labels: Integer[Tensor, "b q"],
    *,
    negatives: Negatives = "separate",
    temperature: PositiveSingle = 0.07,
    over: Over = "process",
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """Cross-entropy of each matched mask's cosines with class texts, towards the nearest prompt of its own class.

    The choice of the prompt has no gradient. ``mix`` leaves the other prompts of the own class out; whether the paper
    does is not known. With one prompt a class both kinds are the same.

    Source: MTA-CLIP (arXiv 2407.21654), whose code is not public.

    Args:
        masks: unit rows, those of masks without a match too.
        texts: unit rows of each class's prompts.
        labels: class of each mask's match; below 0 for masks without one, which take no part.
        negatives: ``separate``: the other classes' prompts of the same number; ``mix``: all their prompts.
        temperature: cosines are divided by it.
        over: what the sum is divided by: this process's matched masks, or those of all processes.
        gather: counts of all processes.

    Returns:
        The mean over matched masks; 0 where there is none.

    Raises:
        InputError: shapes that do not fit, no class, no prompt, or on the CPU a class that there is not, or a row whose
            length is not 1.

    Example:
        >>> import torch
        >>> from tether.losses.mask_text import mask_text_loss
        >>> texts = torch.eye(4).view(2, 2, 4)  # two classes of two prompts
        >>> masks, labels = torch.eye(4)[None, [1, 2]], torch.tensor([[0, 1]])
        >>> round(mask_text_loss(masks, texts, labels, negatives="mix", temperature=1.0).item(), 4)
        0.5514
    """
    similarity = mask_text_similarity(masks, texts, temperature=temperature)
    if labels.shape != masks.shape[:2]:
        raise InputError(f"labels: expected {tuple(masks.shape[:2])}, got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= len(texts):
        raise InputError(f"labels: expected classes 0 to {len(texts) - 1}, or -1 for none, got {int(labels.max())}")
    best = best_prompts(similarity, labels)
    matched = labels >= 0
    rows, own, prompt = similarity[matched], labels[matched].long(), best[matched]
    each = torch.arange(len(rows), device=rows.device)
    positive = rows[each, own, prompt]
    if negatives == "separate":
        against = rows[each, :, prompt]
    else:
        others = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        others[each, own] = True
        others[each, own, prompt] = False
        against = rows.masked_fill(others, -torch.inf).flatten(1)
    total = (against.logsumexp(dim=1) - positive).sum()
    return total / share(matched.sum(), like=total, over=over, gather=gather)


@dataclass(frozen=True, slots=True)
class MtaTerms:
    """What ``mta_loss`` gives; all 0-d but the last.

    Attributes:
        total: all parts, weighed.
        similarity: see ``mask_text_loss``.
        layers: what each layer's masks give, the last one's last.
    """

    total: Float[Tensor, ""]
    similarity: Float[Tensor, ""]
    layers: tuple[MaskTerms, ...]


@checked
def mta_loss(
    found: MaskPrediction,
    texts: Float[Tensor, "k p d"],
    masks: Tensor,
    labels: Integer[Tensor, "b t"],
    *,
    valid: Bool[Tensor, "b t"] | None = None,
    negatives: Negatives = "separate",
    temperature: PositiveSingle = 0.07,
    similarity: NonNegative = 1.0,
    label: NonNegative = 2.0,
    bce: NonNegative = 5.0,
    dice: NonNegative = 5.0,
    no_object: NonNegative = 0.1,
    over: Over = "process",
    gather: Gather = LOCAL,
) -> MtaTerms:
    """``similarity * mask_text_loss`` of the last layer, and ``mask_loss`` of every layer, each matched anew.

    The texts of the contrast are those that were given, not those that the decoder's layers have changed, so that masks
    stay comparable with texts of the encoder; which of the two the paper takes is not known.

    Args:
        found: what a ``MaskTextDecoder`` with classes gives.
        texts: (k, p, d) unit rows of the class prompts.
        masks: (b, t, h, w) bool true masks of any size.
        labels: class of each.
        valid: where there is one; None takes all that are not empty.
        negatives: see ``mask_text_loss``.
        temperature: see ``mask_text_loss``.
        similarity: weight of ``mask_text_loss``.
        label: see ``masks.mask_loss``.
        bce: see ``masks.mask_loss``.
        dice: see ``masks.mask_loss``.
        no_object: see ``masks.mask_loss``.
        over: what sums are divided by.
        gather: counts of all processes.

    Raises:
        InputError: a decoder without classes or of others than the texts, or as ``mask_loss`` and ``mask_text_loss``.
    """
    if found.classes is None or found.classes.shape[-1] != len(texts) + 1:
        got = None if found.classes is None else found.classes.shape[-1]
        raise InputError(f"expected logits of {len(texts)} classes and of no object from the decoder, got {got}")
    goal = masks_at(masks, (found.logits.shape[3], found.logits.shape[4]))
    terms, match = [], None
    for logits, classes in zip(found.logits, found.classes, strict=True):
        match = match_masks(
            logits,
            goal,
            class_logits=classes,
            labels=labels,
            valid=valid,
            label=label,
            bce=bce,
            dice=dice,
        )
        terms.append(
            mask_loss(
                logits,
                goal,
                class_logits=classes,
                labels=labels,
                valid=valid,
                match=match,
                label=label,
                bce=bce,
                dice=dice,
                no_object=no_object,
                over=over,
                gather=gather,
            )
        )
    assert match is not None  # there is at least one layer
    own = torch.where(match >= 0, labels.long().gather(1, match.clamp(min=0)), -1) if labels.shape[1] else match
    like = mask_text_loss(
        torch.nn.functional.normalize(found.rows[-1], dim=2),
        texts,
        own,
        negatives=negatives,
        temperature=temperature,
        over=over,
        gather=gather,
    )
    total = similarity * like + torch.stack([one.total for one in terms]).sum()
    return MtaTerms(total, like, tuple(terms))
