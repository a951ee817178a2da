"""Regions taught without labels: by a frozen teacher's labels over a pool of concepts, or by crops of the regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Positive, checked
from tether.losses.boxes import Over, share

Towards = Literal["patch", "cls", "both"]
"""What a region's patches are held to: the mean patch of its crop, the crop's own embedding, or by halves both."""


@dataclass(frozen=True, slots=True)
class ConceptLabels:
    """What a teacher says of n regions.

    Attributes:
        probs: (n, c) over the concepts.
        index: (n,) the likeliest concept.
        keep: (n,) whether the region is learnt from.
        confident: (n,) whether the teacher is sure enough; where it is of none, all valid ones are kept.
    """

    probs: Float[Tensor, "n c"]
    index: Int[Tensor, " n"]
    keep: Bool[Tensor, " n"]
    confident: Bool[Tensor, " n"]


@torch.no_grad()
@checked
def concept_labels(
    regions: Float[Tensor, "n d"],
    concepts: Float[Tensor, "c d"],
    *,
    temperature: Positive | Tensor = 0.01,
    threshold: Annotated[float, Ge(0), Lt(1)] = 0.1,
    valid: Bool[Tensor, " n"] | None = None,
) -> ConceptLabels:
    """Labels of regions by a teacher: the softmax over its cosines with concepts (RegionCLIP, arXiv 2112.09106).

    A region counts whose likeliest concept is above the threshold; if there is none, all count, as in the released
    code. A small CLIP has flat labels at the paper's temperature of 0.01: take its own, 1 / logit scale, and a
    threshold well above 1 / c.

    Args:
        regions: of the teacher, of any length above 0.
        concepts: the teacher's texts, at least 2.
        temperature: of the softmax, above 0.
        threshold: below 1.
        valid: which rows are regions; the others are not kept.

    Raises:
        InputError: shapes that do not fit, or fewer than 2 concepts.

    Example:
        >>> import torch
        >>> from tether.losses import concept_labels
        >>> labels = concept_labels(torch.tensor([[1.0, 0.1], [1.0, 1.0]]), torch.eye(2), threshold=0.6)
        >>> labels.index.tolist(), labels.keep.tolist()
        ([0, 0], [True, False])
    """
    _check_pool(regions, concepts)
    probs = (_cosines(regions, concepts) / temperature).softmax(dim=1)
    most, index = probs.max(dim=1)
    own = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
    if own.dtype != torch.bool or own.shape != index.shape:
        raise InputError(f"valid: expected bool {tuple(index.shape)}, got {own.dtype} {tuple(own.shape)}")
    confident = (most > threshold) & own
    return ConceptLabels(probs, index, torch.where(confident.any(), confident, own), confident)


@checked
def concept_distill_loss(
    regions: Float[Tensor, "n d"],
    concepts: Float[Tensor, "c d"],
    labels: ConceptLabels,
    *,
    temperature: Positive | Tensor = 0.01,
    over: Over = "processes",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Mean over the kept regions of the KL divergence of the student's softmax from the teacher's labels.

    RegionCLIP's distillation (arXiv 2112.09106), by log-softmax, so it stays finite at any temperature. 0 without a
    kept region.

    Args:
        regions: of the student, of any length above 0.
        concepts: the student's texts.
        labels: as ``concept_labels`` gives them, over as many concepts.
        temperature: of the student, above 0.
        over: what the sum is divided by: see ``losses.boxes.Over``.
        gather: counts of all processes; None for this process alone.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.losses import concept_distill_loss, concept_labels
        >>> teacher = concept_labels(torch.eye(3)[:2], torch.eye(3))
        >>> concept_distill_loss(torch.eye(3)[:2], torch.eye(3), teacher).item() < 1e-6
        True
    """
    _check_pool(regions, concepts)
    if labels.probs.shape != (len(regions), len(concepts)):
        expected, got = (len(regions), len(concepts)), tuple(labels.probs.shape)
        raise InputError(f"labels: expected those of {expected[0]} regions over {expected[1]} concepts, got {got}")
    with torch.autocast(regions.device.type, enabled=False):
        said = (_cosines(regions, concepts) / temperature).log_softmax(dim=1)
        probs = labels.probs.to(said)
        each = (torch.xlogy(probs, probs) - probs * said).sum(dim=1)
        count = share(labels.keep.sum(), like=said, over=over, gather=gather or LOCAL)
        return torch.where(labels.keep, each, 0.0).sum() / count


@checked
def region_cosine_loss(
    regions: Float[Tensor, "*places d"],
    targets: Float[Tensor, "*places d"],
    *,
    valid: Bool[Tensor, "*places"] | None = None,
    targets_learn: Literal["no", "yes"] = "no",
    over: Over = "processes",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """One minus the mean cosine of regions and what they are held to; 0 where there is no region.

    CLIPSelf (arXiv 2310.01403): what a dense map says in a box against what a frozen CLIP says of its crop.

    Args:
        regions: of any length above 0.
        targets: of the same regions.
        valid: which places are regions; None takes all.
        targets_learn: whether the targets get gradient, too.
        over: what the sum is divided by: see ``losses.boxes.Over``; CLIPSelf's release takes each process's own.
        gather: counts of all processes; None for this process alone.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.losses import region_cosine_loss
        >>> rows = torch.eye(2)
        >>> region_cosine_loss(rows, rows.flip(0)).item()
        1.0
    """
    if regions.ndim < 2 or regions.shape != targets.shape:
        got = f"{tuple(regions.shape)} and {tuple(targets.shape)}"
        raise InputError(f"expected regions and targets (..., d) alike, got {got}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != regions.shape[:-1]):
        raise InputError(f"valid: expected bool {tuple(regions.shape[:-1])}, got {valid.dtype} {tuple(valid.shape)}")
    own = torch.ones_like(regions[..., 0], dtype=torch.bool) if valid is None else valid
    wanted = targets if targets_learn == "yes" else targets.detach()
    with torch.autocast(regions.device.type, enabled=False):
        ours, theirs = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (regions, wanted))
        both = [torch.where(own[..., None], one, 1.0) for one in (ours, theirs)]  # no gradient of rows of zeros
        apart = torch.where(own, 1 - F.cosine_similarity(*both, dim=-1), 0.0)
        return apart.sum() / share(own.sum(), like=apart, over=over, gather=gather or LOCAL)


@checked
def patch_distill_loss(
    regions: Float[Tensor, "*places d"],
    patches: Float[Tensor, "*places n d"],
    pooled: Float[Tensor, "*places d"],
    *,
    target: Towards = "patch",
    valid: Bool[Tensor, "*places"] | None = None,
    targets_learn: Literal["no", "yes"] = "no",
    over: Over = "processes",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Patches of a region in the whole image against its crop (FarSLIP, arXiv 2511.14901); 0 without a region.

    Args:
        regions: of the whole image's patches.
        patches: of each crop, not normalised: long ones weigh more in their mean.
        pooled: the crops' own embeddings.
        target: see ``Towards``: ``roi2pooled``, ``roi2cls`` and ``combined`` in the release.
        valid: see ``region_cosine_loss``.
        targets_learn: ``yes`` where the same network makes both sides ("active" in the release).
        over: see ``region_cosine_loss``.
        gather: likewise.

    Raises:
        InputError: shapes that do not fit.
    """
    if patches.ndim < 3 or patches.shape[:-2] != regions.shape[:-1] or not patches.shape[-2]:
        got = f"{tuple(patches.shape)} for {tuple(regions.shape)}"
        raise InputError(f"patches: expected (..., n, d) of each region, n of at least 1, got {got}")
    targets = {"patch": [patches.mean(dim=-2)], "cls": [pooled], "both": [patches.mean(dim=-2), pooled]}[target]
    losses = [
        region_cosine_loss(regions, one, valid=valid, targets_learn=targets_learn, over=over, gather=gather)
        for one in targets
    ]
    return torch.stack(losses).mean()


def _cosines(regions: Tensor, concepts: Tensor) -> Tensor:
    with torch.autocast(regions.device.type, enabled=False):
        rows = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in (regions, concepts)]
        unit = [F.normalize(one, dim=1) for one in rows]
        return unit[0] @ unit[1].to(unit[0]).T


def _check_pool(regions: Tensor, concepts: Tensor) -> None:
    if regions.ndim != 2 or concepts.ndim != 2 or regions.shape[1] != concepts.shape[1]:
        got = f"{tuple(regions.shape)} and {tuple(concepts.shape)}"
        raise InputError(f"expected regions (n, d) and concepts (c, d), got {got}")
    if len(concepts) < 2:
        raise InputError(f"concepts: expected at least 2, got {len(concepts)}")
