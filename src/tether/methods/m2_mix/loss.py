"""Geodesic multi-modal mixup: points between an image and its own text serve as the hardest negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Len
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, NonNegative, Positive, Share, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.clip import batch_labels, clip_loss
from tether.losses.positive_override import own_places, products, replaced_cross_entropy

_OPPOSITE = 1e-6 - 1
"""Below this cosine float32 no longer says on which side of each other two rows lie."""
_WITHIN = 1 - 1e-7
"""Cosines are held in this range, as the slope of the arc cosine is infinite at 1."""


@checked
def geodesic_mix(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], *, lam: Share | Tensor, eps: Positive = 1e-6
) -> Float[Tensor, "b d"]:
    """``[sin(lam f) a + sin((1 - lam) f) b] / sin f`` with ``f = arccos(a.b)``, row by row; of length 1 like its ends.

    ``lam = 1`` is ``a``, the opposite of slerp's usual t. Rows less than ``eps`` apart are mixed on the chord, and
    opposite ones, between which no single arc runs, fall to the nearer end. Gradients flow into both.

    Source: arXiv 2203.03897, equation 4.

    Args:
        a: rows of length 1.
        b: rows of length 1.
        lam: share of ``a``; a number or a 0-d tensor.
        eps: sine of the angle below which the chord is taken.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(f"expected two equal (b, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    cosine = (a * b).sum(dim=1, keepdim=True)
    held = cosine.detach()
    degenerate = ((1 - held.square()).clamp_min(0).sqrt() < eps) | (held < _OPPOSITE)
    # The inner choice keeps degenerate rows out of the quotient, whose gradient would be 0/0 there.
    angle = torch.arccos(torch.where(degenerate, torch.zeros_like(cosine), cosine).clamp(-_WITHIN, _WITHIN))
    arc = (torch.sin(lam * angle) * a + torch.sin((1 - lam) * angle) * b) / torch.sin(angle)
    chord = lam * a + (1 - lam) * b
    length = torch.linalg.vector_norm(torch.where(degenerate, chord, a).detach(), dim=1, keepdim=True)
    straight = torch.where(length > eps, chord / length.clamp_min(eps), a)
    return torch.where(degenerate, straight, arc)


Negatives = Literal["mixed", "original"]
ORDER = ("v", "l", "vl", "m2")
"""Of the mixing shares, one for each term."""


@dataclass(frozen=True, slots=True)
class MixTerms:
    """What ``m2_mix_loss`` gives; all 0-d.

    Attributes:
        total: ``clip`` plus ``share`` times ``mix``, to be minimised.
        clip: CLIP's loss of the pairs.
        mix: the weighted sum of the mixed terms.
        margin: mean cosine of images with others' mixed points minus that with others' texts; above 0 where mixed
            negatives are harder. 0 where m2 has no weight.
    """

    total: Float[Tensor, ""]
    clip: Float[Tensor, ""]
    mix: Float[Tensor, ""]
    margin: Float[Tensor, ""]


@checked
def m2_mix_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    *,
    lam: Annotated[Sequence[Share], Len(4, 4)],
    m2: NonNegative = 0.01,
    v: NonNegative = 0.0,
    l: NonNegative = 0.0,  # noqa: E741 - the paper's name
    vl: NonNegative = 0.0,
    scale: Float[Tensor, ""] | float = 100.0,
    scale_m2: Float[Tensor, ""] | float = 1 / 0.07,
    negatives: Negatives = "mixed",
    share: NonNegative = 1.0,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> MixTerms:
    """CLIP's loss plus ``share (m2 L_m2 + v L_v + l L_l + vl L_vl)`` (arXiv 2203.03897, section 4; released code).

    With ``M = m_lam(I, T)``, the geodesic mix of each pair: ``L_m2 = CE(Z_I) + CE(Z_T)``, a sum, where ``Z_I`` has
    ``I_i.M_j`` off the diagonal and the unmixed ``I_i.T_i`` on it, and ``Z_T`` the same with ``T_i.M_j``, all times
    ``scale_m2``. ``L_v`` mixes each image with that at the mirrored place of the batch, ``L_l`` each text, ``L_vl``
    both by the same share; their target is ``lam`` on the diagonal and ``1 - lam`` on the antidiagonal (for ``L_vl`` 1
    and 1), their logits are times ``scale``, and both directions are averaged. In an odd batch the middle row stays as
    it is. The tables of the mixed terms are made whole.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        lam: shares of the first end, in [0, 1], for v, l, vl and m2; the same on all processes.
        m2: weight of the multi-modal mix.
        v: weight of the mix of images.
        l: weight of the mix of texts.
        vl: weight of the mix of both.
        scale: multiplier of the cosines, already exponentiated.
        scale_m2: that of the multi-modal mix.
        negatives: for v, l and vl, ``original`` keeps the unmixed logits off the diagonal and the antidiagonal.
        share: of the mixed terms, as the schedule has it.
        labels: equal for pairs that mean the same: positives of each other in CLIP's loss, and no negatives in m2's.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: not (b, d) of equal shape, an empty batch, one pair where v, l or vl has a weight, values out of
            range, or, on the CPU, rows whose length is not 1.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from tether.methods.m2_mix import m2_mix_loss
        >>> image, text = F.normalize(torch.randn(2, 16, 32), dim=-1)
        >>> found = m2_mix_loss(image, text, lam=(0.5, 0.5, 0.5, 0.5), m2=0.01)
        >>> bool(found.total > found.clip), round(float((found.total - found.clip) / found.mix), 2)
        (True, 1.0)
    """
    weights = {"v": v, "l": l, "vl": vl, "m2": m2}
    shares = tuple(lam)
    check_unit_pairs(img, txt)
    gather = gather or LOCAL
    if (v or l or vl) and len(img) * gather.world < 2:
        raise InputError("v, l and vl mix different pairs: expected at least 2, got a batch of 1")
    clip = clip_loss(img, txt, scale, labels=labels, gather=gather)
    mix, margin = clip.new_zeros(()), clip.new_zeros(())
    for name, one in zip(ORDER, shares, strict=True):
        if not weights[name]:
            continue
        if name == "m2":
            value, margin = _multi_modal(img, txt, lam=one, scale=scale_m2, labels=labels, gather=gather)
        else:
            value = _mirrored(img, txt, which=name, lam=one, scale=scale, negatives=negatives, gather=gather)
        mix = mix + weights[name] * value
    return MixTerms(clip + share * mix, clip, mix, margin)


def _multi_modal(
    img: Tensor, txt: Tensor, *, lam: float, scale: Tensor | float, labels: Tensor | None, gather: Gather
) -> tuple[Tensor, Tensor]:
    """``CE(Z_I) + CE(Z_T)``, and by how much mixed points are nearer to others' images than their texts."""
    mixed = gather(geodesic_mix(img, txt, lam=lam))
    own, offset = scale * (img * txt).sum(dim=1), gather.rank * len(img)
    left_out = None
    if labels is not None:
        mine = own_places(len(img), keys=len(mixed), offset=offset, device=img.device)
        left_out = (labels[:, None] == gather(labels)) & ~mine
    total = img.new_zeros(())
    for rows in (img, txt):
        logits = scale * products(rows, mixed)
        total = total + replaced_cross_entropy(logits, own, offset=offset, left_out=left_out).mean()
    with torch.no_grad():
        nearer = mixed - gather(txt)
        others = (img.sum(dim=0) * nearer.sum(dim=0)).sum() - (img * nearer[offset : offset + len(img)]).sum()
        margin = others / (len(img) * max(len(mixed) - 1, 1))
    return total, margin


def _mirrored(
    img: Tensor, txt: Tensor, *, which: str, lam: float, scale: Tensor | float, negatives: Negatives, gather: Gather
) -> Tensor:
    """Both directions of a mix with the mirrored place of the whole batch, averaged."""
    own_share, other_share = (1.0, 1.0) if which == "vl" else (lam, 1 - lam)
    offset = gather.rank * len(img)
    sides = [(img, which in ("v", "vl")), (txt, which in ("l", "vl"))]
    mixed = [_with_mirror(rows, lam=lam, gather=gather) if changed else rows for rows, changed in sides]
    every = [gather(rows) for rows in mixed]
    plain = [gather(rows) for rows in (img, txt)] if negatives == "original" else None
    count = len(every[0])
    own = torch.arange(offset, offset + len(img), device=img.device)
    places = torch.arange(len(img), device=img.device)
    total = img.new_zeros(())
    for query, key in ((0, 1), (1, 0)):
        logits = products(mixed[query], every[key])
        if plain is not None:
            mine = own_places(len(img), keys=count, offset=offset, device=img.device)
            opposite = (count - 1 - own)[:, None] == torch.arange(count, device=img.device)
            logits = torch.where(mine | opposite, logits, products((img, txt)[query], plain[key]))
        logits = scale * logits
        wanted = own_share * logits[places, own] + other_share * logits[places, count - 1 - own]
        total = total + ((own_share + other_share) * torch.logsumexp(logits, dim=1) - wanted).mean()
    return total / 2


def _with_mirror(rows: Tensor, *, lam: float, gather: Gather) -> Tensor:
    """This process's rows, each mixed with the one at the mirrored place of the whole batch."""
    every, offset = gather(rows), gather.rank * len(rows)
    return geodesic_mix(rows, every.flip(0)[offset : offset + len(rows)], lam=lam)


@final
class M2MixLoss:
    """m2-Mix and m3-Mix as an objective, for fine-tuning a CLIP whose images and texts lie apart.

    Each step draws one share a term from ``Beta(alpha, alpha)``: the training step gives the chance through ``drawn``
    (an objective that is never ``drawn`` mixes with the shares of draw 0). ``batch.extra["lam"]``, four numbers in the
    order v, l, vl, m2, overrides it. With ``epochs`` the mixed terms fade as ``1 / (epoch + 1)``, epoch from 0.

    With a number for ``tau1`` the model's own scale is not used: train with ``logit_scale: fixed``.

    Source: arXiv 2203.03897, section 4; the released scripts. Their README's variant for OpenCLIP multiplies mixed
    logits by a temperature, a slip that is not followed.
    """

    @checked
    def __init__(
        self,
        *,
        m2: NonNegative = 0.01,
        v: NonNegative = 0.0,
        l: NonNegative = 0.0,  # noqa: E741 - the paper's name
        vl: NonNegative = 0.0,
        alpha_m: Positive = 0.5,
        alpha_u: Positive = 0.5,
        tau1: Positive | None = 0.01,
        tau2: Positive | None = 0.07,
        negatives: Negatives = "mixed",
        epochs: Count | None = None,
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> None:
        """Take the settings.

        Args:
            m2: weight of the multi-modal mix; the scripts try 0.001 to 0.05.
            v: weight of the mix of images.
            l: weight of the mix of texts.
            vl: weight of the mix of both.
            alpha_m: of the Beta distribution of m2's share.
            alpha_u: of those of v, l and vl.
            tau1: temperature of CLIP's loss and of v, l and vl; None takes the model's.
            tau2: temperature of the multi-modal mix; None takes that of CLIP's loss.
            negatives: for v, l and vl, ``original`` keeps the unmixed logits off the diagonal and the antidiagonal.
            epochs: of the run, for the schedule; None keeps the weights throughout.
            duplicates: pairs with equal captions are each other's ``negatives``, as published, or ``positives`` in
                CLIP's loss and no negatives in m2's. What counts as equal is ``batch.extra["labels"]`` (b,), or the
                tokens where there is none.
        """
        self.weights = {"m2": m2, "v": v, "l": l, "vl": vl}
        self.alpha_m, self.alpha_u, self.tau1, self.tau2 = alpha_m, alpha_u, tau1, tau2
        self.negatives: Negatives = negatives
        self.epochs, self.duplicates = epochs, duplicates
        self._share, self._draw = 1.0, 0

    def at(self, share: float) -> M2MixLoss:
        """See core.protocols.Scheduled: the mixed terms at the epoch that ``share`` of the run lies in."""
        epoch = 0 if self.epochs is None else min(int(share * self.epochs), self.epochs - 1)
        return self._with(share=1 / (epoch + 1), draw=self._draw)

    def drawn(self, draw: int) -> M2MixLoss:
        """See core.protocols.Drawing: the same with shares of its own."""
        return self._with(share=self._share, draw=draw)

    def _with(self, *, share: float, draw: int) -> M2MixLoss:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._share, other._draw = share, draw
        return other

    @property
    def lam(self) -> tuple[float, ...]:
        """This draw's shares for v, l, vl and m2."""
        rng = np.random.default_rng(self._draw)
        alphas = (self.alpha_u, self.alpha_u, self.alpha_u, self.alpha_m)
        return tuple(float(rng.beta(alpha, alpha)) for alpha in alphas)

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """CLIP's loss and the mixed terms; terms are both, the margin of m2's negatives, and the logit scale."""
        check_cosine(out)
        scale = out.logit_scale if self.tau1 is None else 1 / self.tau1
        lam = batch.extra.get("lam", self.lam)
        if not isinstance(lam, Sequence):
            raise InputError(f"lam: expected four numbers in batch.extra, got {type(lam).__name__}")
        found = m2_mix_loss(
            unit_rows(out.image),
            unit_rows(out.text),
            lam=lam,
            **self.weights,
            scale=scale,
            scale_m2=scale if self.tau2 is None else 1 / self.tau2,
            negatives=self.negatives,
            share=self._share,
            labels=batch_labels(batch) if self.duplicates == "positives" else None,
            gather=gather,
        )
        terms = {"clip": found.clip, "mix": found.mix, "margin": found.margin, "logit_scale": out.logit_scale}
        return Loss(found.total, {name: value.detach() for name, value in terms.items()})
