"""ENT for next-token prediction, in the form in which a transformers Trainer takes a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, final, runtime_checkable

import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.losses.error_norm_truncation import ENTLoss


@runtime_checkable
class HasLogits(Protocol):
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

        Raises:
            InputError: shapes that do not fit.
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
