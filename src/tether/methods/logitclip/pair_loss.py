"""LogitClip for contrastive objectives: each row of similarities is capped before its softmax or sigmoid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Objective
from tether.core.ranges import Limit, checked
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import Batch, Encoded, Loss
from tether.losses.clip import ClipLoss, RowEdit
from tether.losses.siglip import SigLipLoss
from tether.methods.logitclip.loss import EPS, Order, clip_factors
from tether.methods.logitclip.row_norms import row_norms


@runtime_checkable
class RowObjective(Protocol, metaclass=ByAttributes):
    """An objective whose rows of logits can be changed as a whole; ``ClipLoss`` and ``SigLipLoss`` are."""

    def edited(self, out: Encoded, batch: Batch, *, gather: Gather, edit: RowEdit) -> Loss:
        """The loss with every row of logits edited."""
        ...


_INNER: Mapping[str, type] = {"clip": ClipLoss, "siglip": SigLipLoss}


@checked
def clip_rows(
    queries: Float[Tensor, "b d"], *, keys: Float[Tensor, "n d"], tau: Limit, p: Order = 2.0
) -> Float[Tensor, "b d"]:
    """Queries scaled so that ``queries @ keys.T`` equals ``clip_logits`` of the unscaled product, without making it.

    Source: arXiv 2212.04055, section 3, with the similarities to all keys as the logits of a query. Gradients are exact
    for queries and keys.

    Args:
        queries: rows with the logit scale multiplied in.
        keys: all candidates.
        tau: largest norm that is left alone.
        p: order of the norm, 1 to infinity.
    """
    return queries * _factors(queries, keys, tau=tau, p=p)


def _factors(queries: Tensor, keys: Tensor, *, tau: float, p: float) -> Tensor:
    return clip_factors(row_norms(queries, keys=keys, p=p) + EPS, tau=tau)


@final
class LogitClip:
    """A contrastive objective whose logits are capped, so that one mismatched pair can cost only so much.

    The logits of an image are its similarities to all texts times the logit scale (for SigLIP plus the bias); those of
    a text are its similarities to all images. Each direction clips its own: rows for image to text, columns for text
    to image. SigLIP has one loss for each image, so there only rows are clipped. The B x B matrix is never made, and
    with ``gather`` a row counts the texts of all processes.

    The p-norm of a row grows with the batch (for p = 2 as its square root), so ``tau`` belongs to a batch size; with
    ``p = inf`` it does not. A clipped row no longer feels the logit scale: do not multiply by a temperature afterwards.

    Source: arXiv 2212.04055, section 3, which clips the logits of a classifier.
    """

    @checked
    def __init__(
        self, *, inner: Objective | str | Mapping[str, Any] = "clip", tau: Limit = 40.0, p: Order = 2.0
    ) -> None:
        """Take the settings.

        Args:
            inner: the objective, or its name or settings as in a recipe: ``{name: clip, label_smoothing: 0.1}``.
            tau: largest norm that is left alone.
            p: order of the norm, 1 to infinity.

        Raises:
            InputError: an objective whose logits cannot be reached.
        """
        part = build(inner, _INNER, where="logit_clip: inner") if isinstance(inner, (str, Mapping)) else inner
        if not isinstance(part, RowObjective):
            raise InputError(
                f"logit_clip: inner: cannot reach the logits of {type(part).__name__}; known: {', '.join(_INNER)}"
            )
        self.inner: RowObjective = part
        self.tau, self.p = tau, p

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The inner loss on clipped logits; its terms, and ``clipped``, the share of this process's rows."""
        shares: list[Tensor] = []

        def edit(queries: Tensor, keys: Tensor) -> Tensor:
            factors = _factors(queries, keys, tau=self.tau, p=self.p)
            shares.append((factors.detach() < 1).float().mean())
            return queries * factors

        loss = self.inner.edited(out, batch, gather=gather, edit=edit)
        return Loss(loss.total, {**loss.terms, "clipped": torch.stack(shares).mean()})
