"""Fine-tuning for SPECS: whole captions against pictures, and captions that grow by a true and by a false detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import Objective, Tokenizer
from tether.core.types import Batch, Features, Loss
from tether.data.segments import Words, draw_triplet, split_caption
from tether.losses.specs import SpecsLoss
from tether.train.steps.contrastive import ContrastiveStep, PairForward
from tether.train.steps.hard_negatives import joined_texts

TEXTS = "texts"
"""Where a batch keeps its captions as words."""


class SpecsStep:
    """The contrastive step, and the two hinges of SPECS on captions cut into pieces (arXiv 2509.03897).

    Each caption of the batch is split where its clauses end; a random cut gives the base, the next piece of its own the
    true detail, a piece of another caption of the batch the false one. All go through the text tower in one forward,
    so texts cost four times as much. Captions of one piece, and details that the tokenizer cut off, count in the
    contrast alone. Its state is the adaptive margin.

    With several batches in one step each begins with the margin of the step's beginning, and the last one's is kept.

    The contrast is the run's objective; the release's is ``{name: clip, directions: text_to_image}``.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        lambda_contrast: float = 1.0,
        lambda_detail: float = 8.0,
        lambda_neg: float = 0.8,
        margin: float | None = None,
        shuffled_first: float = 0.9,
        keep_patches: float = 1.0,
        full_last: float = 0.0,
    ) -> None:
        """Args: the loss, the weights, and how the false details look.

        objective: the contrast.
        steps: length of the run.
        seed: of the cuts and false details, which depend on (seed, step, process), and see ``ContrastiveStep``.
        lambda_contrast: weight of the objective (>= 0).
        lambda_detail: see ``SpecsLoss``.
        lambda_neg: see ``SpecsLoss``.
        margin: see ``SpecsLoss``; in logits.
        shuffled_first: first share of the run whose false details have their words shuffled, in [0, 1]; the rest keeps
            them in order (released code).
        keep_patches: see ``ContrastiveStep``.
        full_last: see ``ContrastiveStep``.

        Raises:
            InputError: a value outside its range.
        """
        if not 0 <= shuffled_first <= 1:
            raise InputError(f"shuffled_first: expected a share in [0, 1], got {shuffled_first!r}")
        self.inner = ContrastiveStep(objective, steps=steps, seed=seed, keep_patches=keep_patches, full_last=full_last)
        SpecsLoss(lambda_contrast=lambda_contrast)  # refuses a weight out of range
        self.contrast, self.seed = lambda_contrast, seed
        self.loss = SpecsLoss(lambda_contrast=0.0, lambda_detail=lambda_detail, lambda_neg=lambda_neg, margin=margin)
        self.kept_from = round(steps * shuffled_first)
        self._step, self._before = -1, self.loss.margin.clone()

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward.

        Raises:
            InputError: a batch that does not have its captions as words.
        """
        captions = batch.extra.get(TEXTS)
        if not isinstance(captions, Sequence) or len(captions) != len(batch.text):
            raise InputError(
                f"batch.extra[{TEXTS!r}]: expected the {len(batch.text)} captions as words, got {captions!r}"
            )
        if step == self._step:
            self.loss.margin.copy_(self._before)
        else:
            self._step, self._before = step, self.loss.margin.clone()
        words: Words = "shuffled" if step < self.kept_from else "kept"
        seed = hash_int(f"{step} of process {gather.rank}", seed=self.seed, salt="specs")
        texts, valid = self._texts(model, batch, captions, words=words, rng=np.random.default_rng(seed))
        out = self.inner.encode(model, replace(batch, text=texts), step=step, gather=gather)
        whole, base, detail, negative = out.text.pooled.chunk(4)
        out = replace(out, text=Features(whole, extra=out.text.extra))
        contrast = self.inner.objective_at(step)(out, batch, gather=gather)
        hinges = self.loss(
            out.image.pooled,
            caption=whole,
            base=base,
            detail=detail,
            neg=negative,
            logit_scale=out.logit_scale,
            valid=valid,
            gather=gather,
        )
        terms = {"detail": hinges.detail.detach(), "negative": hinges.negative.detach(), "margin": hinges.margin}
        terms["with_detail"] = valid.float().mean()
        total = self.contrast * contrast.total + hinges.detail + hinges.negative
        return Loss(total.to(contrast.total.dtype), {**contrast.terms, **terms})

    def _texts(
        self, model: nn.Module, batch: Batch, captions: Sequence[str], *, words: Words, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Token ids of captions, bases, details and negatives below each other, and which rows have them."""
        segments = [split_caption(caption) for caption in captions]
        found = [draw_triplet(segments, row, rng=rng, words=words) for row in range(len(captions))]
        columns = (
            [
                caption if triplet is None else getattr(triplet, name)
                for caption, triplet in zip(captions, found, strict=True)
            ]
            for name in ("base", "detail", "negative")
        )
        tokenizer = _tokenizer(model)
        cut = joined_texts([tokenizer(column) for column in columns])
        short, longer, wrong = cut.chunk(3)
        differ = (short != longer).any(dim=1) & (short != wrong).any(dim=1)
        valid = differ & torch.tensor([triplet is not None for triplet in found])
        # All is made on the CPU, so that the accelerator is never waited for.
        texts, valid = (one.to(batch.text.device, non_blocking=True) for one in (cut, valid))
        return joined_texts([batch.text, texts]), valid

    def state_dict(self) -> dict[str, Any]:
        """The margin."""
        return dict(self.loss.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        self.loss.load_state_dict(state)
        self._step = -1


def _tokenizer(model: nn.Module) -> Tokenizer:
    return next(module.model for module in model.modules() if isinstance(module, PairForward)).tokenizer
