"""Error norm truncation: tokens where a model is sure of something else count as noise (ENT, arXiv 2310.00840)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Decay, Whole, checked
from tether.core.runtime_protocol import ByAttributes

Normalize = Literal["tokens", "kept", "sum"]
LARGEST = math.sqrt(2)
"""Error norm of a model that is sure of a wrong class."""
PIECE = 1 << 22
"""Probabilities that exist at a time: 16 MiB in float32."""


@dataclass(frozen=True, slots=True)
class TruncatedLoss:
    """A loss with noisy tokens left out.

    Attributes:
        loss: 0-d, to be minimised.
        nll: 0-d sum of the negative log-likelihoods of the tokens that were kept; detached.
        dropped: True where a token's loss was set to zero, shaped like the targets; never at padding.
        share: 0-d share of the tokens, without padding, that were dropped.
        tokens: 0-d number of tokens without padding.
    """

    loss: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    dropped: Bool[Tensor, "*places"]
    share: Float[Tensor, ""]
    tokens: Int[Tensor, ""]


def error_norm(
    logits: Float[Tensor, "*places classes"], targets: Int[Tensor, "*places"], *, ignore_index: int = -100
) -> Float[Tensor, "*places"]:
    """Length of the difference between the predicted distribution and the right answer's, in [0, sqrt 2].

    About 1 for a uniform guess, 0 for a sure and right one, sqrt 2 for a sure and wrong one; 0 at padding. It carries
    no gradient. Half precision is widened to float32, and never more than a piece of the distribution is stored.

    Source: arXiv 2310.00840, section 3.

    Args:
        logits: raw scores of every class at every place.
        targets: class of each place, or ``ignore_index``.
        ignore_index: what stands at padding; it may be a class number.
    """
    _check(logits, targets, ignore_index)
    rows, labels = logits.detach().flatten(0, -2), targets.flatten()
    real = labels != ignore_index
    safe = labels.where(real, 0)[:, None]
    wide = torch.promote_types(rows.dtype, torch.float32)
    norms = torch.empty(len(rows), dtype=wide, device=rows.device)
    height = max(1, PIECE // max(1, rows.shape[1]))
    for start in range(0, len(rows), height):
        span = slice(start, start + height)
        # (1 - p_y)^2 + sum of the others' squares: exact for sure tokens, where 1 - 2 p_y + sum p^2 would cancel.
        difference = rows[span].softmax(dim=1, dtype=wide)
        difference.scatter_add_(1, safe[span], difference.new_full((1, 1), -1.0).expand(len(difference), 1))
        norms[span] = torch.linalg.vector_norm(difference, dim=1)
    return norms.masked_fill_(~real, 0.0).reshape(targets.shape)


@final
class ENTLoss:
    """Cross-entropy without the tokens whose error norm marks them as noise.

    The score is the error norm of the very logits that are trained on. Dropped tokens count as zero in the loss, and
    unless ``normalize`` says otherwise they still count in the divisor, so dropping also makes the step smaller, as in
    the paper's code. It keeps no state: the step is an argument.

    Source: arXiv 2310.00840, section 3, and its released fairseq criterion. With data-parallel processes each drops
    its own share; a ``fraction`` of a small batch is a noisy limit.

    Example:
        >>> import torch
        >>> from tether.methods.ent import ENTLoss
        >>> logits = torch.zeros(1, 4, 5)
        >>> logits[..., 0] = 10.0  # the model is sure of class 0 everywhere
        >>> found = ENTLoss(threshold=1.2)(logits, torch.tensor([[0, 0, 0, 3]]), step=0)
        >>> round(float(found.share), 2), bool(found.loss < 0.01)  # the token that looks like noise is dropped
        (0.25, True)
    """

    @checked
    def __init__(
        self,
        *,
        threshold: Annotated[float, Gt(0), Le(LARGEST)] | None = None,
        fraction: Decay | None = None,
        start_step: Whole = 0,
        label_smoothing: Decay = 0.0,
        normalize: Normalize = "tokens",
        ignore_index: int = -100,
    ) -> None:
        """Take the settings; exactly one of ``threshold`` and ``fraction``.

        Args:
            threshold: drop tokens with a larger error norm, at most sqrt 2; 1.2 to 1.4 for large models, 1.0 to 1.1
                for small ones.
            fraction: drop about this share of the batch, padding counted in; ties are kept.
            start_step: first step that drops anything; before, a model's error norms say nothing.
            label_smoothing: spread over the wrong classes as fairseq does.
            normalize: what the sum is divided by: all ``tokens``, those that were ``kept``, or nothing (``sum``).
            ignore_index: what stands at padding.

        Raises:
            InputError: both or neither limit.
        """
        if (threshold is None) == (fraction is None):
            raise InputError(
                f"expected exactly one of threshold and fraction, got threshold={threshold!r}, fraction={fraction!r}"
            )
        self.threshold, self.fraction, self.start_step = threshold, fraction, start_step
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        self.normalize: Normalize = normalize

    def __call__(
        self, logits: Float[Tensor, "*places classes"], targets: Int[Tensor, "*places"], *, step: int | None
    ) -> TruncatedLoss:
        """The loss of one batch.

        Args:
            logits: raw scores; half precision is widened to float32.
            targets: class of each place, or ``ignore_index``.
            step: of the training, from 0; None evaluates: nothing is dropped.
        """
        _check(logits, targets, self.ignore_index)
        real = targets != self.ignore_index
        dropped = torch.zeros_like(real)
        if step is not None and step >= self.start_step:
            norms = error_norm(logits, targets, ignore_index=self.ignore_index)
            dropped = (norms > self._limit(norms)) & real
        kept = real & ~dropped
        log_p = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        nll = -log_p.gather(-1, targets.where(real, 0)[..., None])[..., 0].where(kept, 0.0)
        each = nll
        if self.label_smoothing > 0:
            spread = self.label_smoothing / (logits.shape[-1] - 1)
            others = -log_p.sum(dim=-1).where(kept, 0.0)
            each = (1 - self.label_smoothing - spread) * nll + spread * others
        tokens = real.sum()
        total = each.sum()
        if self.normalize != "sum":
            total = total / (tokens if self.normalize == "tokens" else kept.sum()).clamp(min=1)
        return TruncatedLoss(
            loss=total,
            nll=nll.detach().sum(),
            dropped=dropped,
            share=dropped.sum() / tokens.clamp(min=1),
            tokens=tokens,
        )

    def _limit(self, norms: Tensor) -> Tensor | float:
        if self.threshold is not None or self.fraction is None:
            return LARGEST if self.threshold is None else self.threshold
        place = int(self.fraction * norms.numel())  # rounded down: the largest norm itself when that is 0
        return norms.flatten().topk(place + 1).values[place]


def _check(logits: Tensor, targets: Tensor, ignore_index: int) -> None:
    if logits.ndim < 2 or logits.shape[:-1] != targets.shape or 0 in logits.shape:
        raise InputError(
            f"expected logits (..., classes) and targets (...), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if not logits.is_floating_point() or targets.dtype != torch.int64:
        raise InputError(f"expected float logits and int64 targets, got {logits.dtype} and {targets.dtype}")
    if logits.shape[-1] < 2:
        raise InputError(f"logits: expected at least two classes, got {tuple(logits.shape)}")
    if targets.device.type == "cpu":
        bad = (targets != ignore_index) & ((targets < 0) | (targets >= logits.shape[-1]))
        if bool(bad.any()):
            raise InputError(
                f"targets: expected classes 0..{logits.shape[-1] - 1} or {ignore_index}, got {int(targets[bad][0])}"
            )


@runtime_checkable
class HasLogits(Protocol, metaclass=ByAttributes):
    """What a transformers causal language model returns."""

    @property
    def logits(self) -> Tensor:
        """(b, l, classes)."""
        ...


@final
class CausalENT:
    """Shifts labels by one place and calls an ``ENTLoss``; pass it to ``Trainer(compute_loss_func=...)``.

    Logits without gradient are taken as evaluation, where nothing is dropped. The sum is divided by the Trainer's own
    count of tokens, so gradient accumulation gives the loss of the whole batch; with ``normalize="kept"`` each slice's
    mean over its kept tokens is weighted by its share of the tokens.
    """

    def __init__(self, loss: ENTLoss, *, step: Callable[[], int]) -> None:
        """Take the loss and where the step is read.

        Args:
            loss: with any setting; its ``ignore_index`` must be that of the labels (-100).
            step: gives the number of optimiser steps done, such as ``lambda: trainer.state.global_step``.
        """
        self.loss, self.step = loss, step

    def __call__(
        self,
        outputs: HasLogits | Mapping[str, Tensor],
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss of one forward pass.

        Args:
            outputs: of the model, with ``logits`` (b, l, classes).
            labels: (b, l) ids; the one at place i + 1 is predicted at place i.
            num_items_in_batch: tokens of the whole step, as the Trainer counts them; None for those of this call.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
        if logits.shape[:-1] != labels.shape:
            raise InputError(
                f"expected logits (b, l, classes) and labels (b, l), got {tuple(logits.shape)}, {tuple(labels.shape)}"
            )
        following = F.pad(labels, (0, 1), value=self.loss.ignore_index)[:, 1:].contiguous()
        found = self.loss(logits, following, step=self.step() if logits.requires_grad else None)
        if num_items_in_batch is None or self.loss.normalize == "sum":
            return found.loss
        return found.loss * found.tokens / num_items_in_batch
