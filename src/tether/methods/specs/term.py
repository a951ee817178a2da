"""The two hinges of SPECS on captions that grow by a true and by a false detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.methods.specs.loss import SpecsLoss
from tether.training.terms.term import Term, TermInputs


class DetailHinges(Term):
    """``SpecsLoss`` without its contrast (arXiv 2509.03897), on a view with ``rewrite: growing``.

    The texts cost four times as much as the captions alone.

    Its state is the adaptive margin. With several batches in one step each begins with the margin of the step's
    beginning, and the last one's is kept.
    """

    @checked
    def __init__(
        self,
        *,
        image: str = "image",
        text: str = "text",
        growing: str = "growing",
        lambda_detail: NonNegative = 8.0,
        lambda_neg: NonNegative = 0.8,
        margin: NonNegative | None = None,
    ) -> None:
        """Take the views and the weights.

        Args:
            image: view of the images.
            text: view of the whole captions.
            growing: view of the texts made of them.
            lambda_detail: see ``SpecsLoss``.
            lambda_neg: see ``SpecsLoss``.
            margin: see ``SpecsLoss``; in logits.
        """
        self.views = {"image": image, "text": text, "growing": growing}
        self.loss = SpecsLoss(lambda_contrast=0.0, lambda_detail=lambda_detail, lambda_neg=lambda_neg, margin=margin)
        self._step, self._before = -1, self.loss.margin.clone()

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: a view of growing captions that is none.
        """
        if step == self._step:
            self.loss.margin.copy_(self._before)
        else:
            self._step, self._before = step, self.loss.margin.clone()
        image, whole, grown = (seen.views[name] for name in self.views.values())
        if "valid" not in grown.about:
            raise InputError(f"details: expected a view with rewrite: growing, got {self.views['growing']!r}")
        base, detail, negative = grown.features.pooled.chunk(3)
        hinges = self.loss(
            image.features.pooled,
            caption=whole.features.pooled,
            base=base,
            detail=detail,
            neg=negative,
            logit_scale=seen.logit_scale,
            valid=grown.about["valid"],
            gather=gather,
        )
        terms = {"detail": hinges.detail.detach(), "margin": hinges.margin}
        terms["with_detail"] = grown.about["valid"].float().mean()
        return Loss(hinges.detail, terms), Loss(hinges.negative, {"negative": hinges.negative.detach()})

    def state_dict(self) -> dict[str, Any]:
        """The margin."""
        return dict(self.loss.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        self.loss.load_state_dict(state)
        self._step = -1
