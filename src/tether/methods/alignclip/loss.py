"""AlignCLIP's loss: CLIP's, and within each modality a push away from others, softened where captions are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.clip import batch_labels, clip_loss
from tether.losses.positive_override import own_places, products, replaced_cross_entropy

Sides = Literal["both", "image", "text"]
SEMANTIC = "semantic"
"""Where a batch's extra holds one embedding of each caption's meaning."""


@dataclass(frozen=True, slots=True)
class AlignTerms:
    """What ``align_clip_loss`` gives; all 0-d.

    Attributes:
        total: the sum of the two, to be minimised.
        clip: ``alpha`` times CLIP's two directions, summed.
        intra: ``beta`` times the separation within the sides asked for.
    """

    total: Float[Tensor, ""]
    clip: Float[Tensor, ""]
    intra: Float[Tensor, ""]


@checked
def align_clip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    sem: Float[Tensor, "b e"] | None = None,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 0.5,
    sides: Sides = "both",
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> AlignTerms:
    """``alpha (CE(s I T') + CE(s T I')) + beta (L_image + L_text)`` (arXiv 2406.17639, section 4; released code).

    ``L_image = CE(s G)`` with ``G_ij = w_ij I_i.I_j`` off the diagonal and ``G_ii = I_i.T_i``, the paired similarity;
    ``L_text`` alike. ``w_ij = 1 - cos(sem_i, sem_j)`` multiplies the logit, not the probability: captions that mean
    the same get the logit 0. Without ``sem`` the weights are 1 and the diagonal is that of ``I I'`` itself, which is 1.
    The first part is twice the usual CLIP loss. The b x b tables within a modality are made whole.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        logit_scale: multiplier of the cosines, already exponentiated.
        sem: embeddings of the captions' meaning from a frozen encoder, of any length but 0; they get no gradient.
        alpha: weight of CLIP's two directions.
        beta: weight of the separation.
        sides: which modality is separated; the released script separates ``both``.
        labels: equal for pairs that mean the same: positives of each other, and not pushed apart.
        gather: rows of all processes, ``sem`` among them; None for this process alone.

    Raises:
        InputError: not (b, d) of equal shape, an empty batch, or, on the CPU, rows of
            ``img`` and ``txt`` whose length is not 1 and rows of ``sem`` whose length is 0.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from tether.methods.alignclip import align_clip_loss
        >>> image, text = F.normalize(torch.randn(2, 8, 32), dim=-1)
        >>> meaning = torch.randn(8, 12)  # of the captions, from any sentence encoder
        >>> found = align_clip_loss(image, text, 50.0, sem=meaning)
        >>> bool(torch.isclose(found.total, found.clip + found.intra))
        True
    """
    check_unit_pairs(img, txt)
    return _terms(
        img, txt, logit_scale, sem, alpha=alpha, beta=beta, sides=sides, labels=labels, gather=gather or LOCAL
    )


def _terms(
    img: Tensor,
    txt: Tensor,
    scale: Tensor | float,
    sem: Tensor | None,
    *,
    alpha: float,
    beta: float,
    sides: Sides,
    labels: Tensor | None,
    gather: Gather,
) -> AlignTerms:
    clip = alpha * clip_loss(img, txt, scale, labels=labels, gather=gather, directions="sum")
    weights = None if sem is None else _weights(sem, rows=len(img), gather=gather, dtype=img.dtype)
    offset = gather.rank * len(img)
    apart = None
    if labels is not None:
        apart = labels[:, None] == gather(labels)
    paired = (img * txt).sum(dim=1)
    parts = []
    for side, rows in (("image", img), ("text", txt)):
        if sides not in ("both", side):
            continue
        table = products(rows, gather(rows))
        own = paired
        if weights is None:
            own = (rows * rows).sum(dim=1)
        else:
            table = weights * table
        left_out = apart
        if left_out is not None:
            left_out = left_out & ~own_places(len(rows), keys=table.shape[1], offset=offset, device=rows.device)
        parts.append(replaced_cross_entropy(scale * table, scale * own, offset=offset, left_out=left_out).mean())
    intra = beta * torch.stack(parts).sum()
    return AlignTerms(clip + intra, clip, intra)


def _weights(sem: Tensor, *, rows: int, gather: Gather, dtype: torch.dtype) -> Tensor:
    """``1 - cos`` of each caption of this process with all captions, in [0, 2]."""
    if sem.ndim != 2 or len(sem) != rows or not sem.is_floating_point():
        raise InputError(f"sem: expected floats ({rows}, e), one row for each pair, got {sem.dtype} {tuple(sem.shape)}")
    sem = sem.detach().to(dtype)
    length = torch.linalg.vector_norm(sem, dim=1)
    if sem.device.type == "cpu" and bool((length == 0).any()):
        row = int((length == 0).nonzero()[0])
        raise InputError(f"sem row {row} has length 0: a caption without a meaning has no direction")
    unit = F.normalize(sem, dim=1)
    return 1 - products(unit, gather(unit))


@final
class AlignClipLoss:
    """AlignCLIP's objective. With the model setting ``towers: shared`` it is the paper's method.

    The meanings of the captions are ``batch.extra["semantic"]`` (b, e), which the step ``semantic`` puts there.

    Source: arXiv 2406.17639; defaults of the released code.
    """

    @checked
    def __init__(
        self,
        *,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 0.5,
        sides: Sides = "both",
        weighting: Literal["semantic", "none"] = "semantic",
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> None:
        """Take the settings.

        Args:
            alpha: weight of CLIP's two directions, which are summed.
            beta: weight of the separation within the modalities.
            sides: which modality is separated: ``both``, ``image`` or ``text``.
            weighting: ``semantic`` softens the separation of captions that mean nearly the same, ``none`` does not.
            duplicates: pairs with equal captions are each other's ``negatives``, as published, or ``positives``, which
                are not pushed apart either. What counts as equal is ``batch.extra["labels"]`` (b,), or the tokens where
                there is none.
        """
        self.alpha, self.beta = alpha, beta
        self.sides: Sides = sides
        self.weighting, self.duplicates = weighting, duplicates

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are CLIP's part, the separation and the logit scale.

        Raises:
            InputError: no embeddings of the captions' meaning where they are asked for, or rows that do not fit.
        """
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        sem = None
        if self.weighting == "semantic":
            sem = batch.extra.get(SEMANTIC)
            if not isinstance(sem, Tensor):
                raise InputError(
                    f"align_clip: expected batch.extra[{SEMANTIC!r}] (b, e), got none; use the step 'semantic', or "
                    "weighting='none'"
                )
        found = _terms(
            image,
            text,
            out.logit_scale,
            sem,
            alpha=self.alpha,
            beta=self.beta,
            sides=self.sides,
            labels=batch_labels(batch) if self.duplicates == "positives" else None,
            gather=gather,
        )
        terms = {"clip": found.clip.detach(), "intra": found.intra.detach(), "logit_scale": out.logit_scale.detach()}
        return Loss(found.total, terms)
