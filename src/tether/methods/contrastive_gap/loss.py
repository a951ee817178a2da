"""CLIP's loss with alignment and uniformity, which spread both modalities over the sphere and close their gap."""

from __future__ import annotations

from typing import Literal, final

from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, Positive, checked
from tether.core.types import Batch, Encoded, Loss
from tether.core.uniformity import cross_uniformity, uniformity
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.clip import ClipLoss, batch_labels


@final
class ContrastiveGapLoss:
    """``contrastive L_clip + uniform (U(I) + U(T)) / 2 + align A(I, T) + cross_uniform X(I, T)`` on unit rows.

    With ``U(X) = log mean_{i<j} exp(-t ||x_i - x_j||^2)``, ``A = mean ||I_i - T_i||^2`` and
    ``X = log mean_{i!=j} exp(-t ||I_i - T_j||^2)``. The defaults are the paper's CUA; ``cross_uniform=1`` is CUAXU.
    Repelling all cross pairs is also satisfied by two opposite clusters, so CUAXU can widen the gap: see the guide.

    Uniformity looks at the rows of one batch, those of all processes included; with ``accumulate`` at those of each
    batch alone. The added terms are of order 1 to 3 while CLIP's loss at a scale of 100 can be near 0, so late in a run
    they lead.

    Source: arXiv 2405.18570; the weights of the released code.

    Example:
        >>> import torch
        >>> from tether.core.gather import LOCAL
        >>> from tether.core.types import Batch
        >>> from tether.methods.contrastive_gap import ContrastiveGapLoss
        >>> from tether.models import create
        >>> model = create("tiny")
        >>> batch = Batch(torch.rand(3, 3, 32, 32), model.tokenizer(["a red star", "a moon", "the sun"]))
        >>> loss = ContrastiveGapLoss()(model(batch.image, batch.text), batch, gather=LOCAL)
        >>> list(loss.terms)
        ['logit_scale', 'clip', 'uniform', 'align']
    """

    @checked
    def __init__(
        self,
        *,
        uniform: NonNegative = 1.0,
        align: NonNegative = 1.0,
        cross_uniform: NonNegative = 0.0,
        contrastive: NonNegative = 1.0,
        t: Positive = 2.0,
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> None:
        """Take the settings.

        Args:
            uniform: weight of the two uniformities' mean.
            align: weight of the pairs' mean squared distance.
            cross_uniform: weight of the potential between images and others' texts.
            contrastive: weight of CLIP's loss.
            t: sharpness of the potentials.
            duplicates: pairs with equal captions are each other's ``negatives``, as published, or ``positives``: then
                they share CLIP's target and no uniformity pushes their texts apart, nor one's image from the other's
                text. What counts as equal is ``batch.extra["labels"]`` (b,), or the tokens where there is none.
        """
        weights = {"uniform": uniform, "align": align, "cross_uniform": cross_uniform, "contrastive": contrastive}
        if not any(weights.values()):
            raise InputError(f"expected a weight above 0 among {', '.join(weights)}, got none")
        self.uniform, self.align, self.cross_uniform, self.contrastive = uniform, align, cross_uniform, contrastive
        self.t, self.duplicates = t, duplicates
        self._clip = ClipLoss(duplicates=duplicates)

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The weighted sum; terms are the parts that have a weight, unweighted, and the logit scale.

        Raises:
            InputError: a single pair where a uniformity has a weight.
        """
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        if (self.uniform or self.cross_uniform) and len(image) * gather.world < 2:
            raise InputError("uniformity needs at least 2 pairs, got a batch of 1")
        labels = batch_labels(batch) if self.duplicates == "positives" else None
        weighted: list[Tensor] = []
        terms = {"logit_scale": out.logit_scale.detach()}

        def add(name: str, weight: float, value: Tensor) -> None:
            weighted.append(weight * value)
            terms[name] = value.detach()

        if self.contrastive:
            add("clip", self.contrastive, self._clip(out, batch, gather=gather).total)
        if self.uniform:
            even = [
                uniformity(image, t=self.t, gather=gather),
                uniformity(text, t=self.t, labels=labels, gather=gather),
            ]
            add("uniform", self.uniform, (even[0] + even[1]) / 2)
        if self.align:
            add("align", self.align, (image - text).square().sum(dim=1).mean())
        if self.cross_uniform:
            across = cross_uniformity(image, text, t=self.t, labels=labels, gather=gather)
            add("cross_uniform", self.cross_uniform, across)
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return Loss(total, terms)
