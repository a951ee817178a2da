"""Contrastive training with hard negatives: the batch's own captions and pictures, and their twins, in one forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Objective
from tether.core.types import Batch, Encoded, Features, Loss
from tether.train.steps.contrastive import ContrastiveStep, encoded

NEGATIVE_IMAGE, NEGATIVE_TEXT = "negative_image", "negative_text"


class HardNegativeStep:
    """The contrastive step for batches whose rows have twins (NegCLIP, TripletCLIP 2411.02545, CLIP-IN 2508.02329).

    ``batch.extra["negative_text"]`` (b, l) and, if there are any, ``["negative_image"]`` (b, 3, h, w) go through the
    same towers in the same forward; the objective finds them in ``Encoded``. With twins in both modalities a step costs
    about twice as much as one of plain CLIP with the same batch. Where pictures show only some of their patches, a twin
    shows the same ones.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        roles: Literal["together", "in_turn"] = "together",
        keep_patches: float = 1.0,
        full_last: float = 0.0,
    ) -> None:
        """Args: the loss, who plays the positive, and how much of a picture is seen.

        objective: the loss, such as ``triplet_clip``.
        steps: length of the run.
        seed: see ``ContrastiveStep``.
        roles: ``together`` gives the objective all there is. ``in_turn`` shows it the pairs and their negative captions
            at even steps, the twins with the pairs' captions as negatives at odd ones: half the pictures, and with the
            objective ``neg_clip`` TripletCLIP's two terms by turns.
        keep_patches: see ``ContrastiveStep``.
        full_last: see ``ContrastiveStep``.

        Raises:
            InputError: another word, or a value outside its range.
        """
        if roles not in ("together", "in_turn"):
            raise InputError(f"roles: expected 'together' or 'in_turn', got {roles!r}")
        self.inner = ContrastiveStep(objective, steps=steps, seed=seed, keep_patches=keep_patches, full_last=full_last)
        self.roles = roles

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward.

        Raises:
            InputError: a batch without hard negative captions, with ``in_turn`` also one without pictures, or twins
                that are not one for each row.
        """
        batch = self._cast(batch, step=step)
        out = self.encode(model, batch, step=step, gather=gather)
        return self.inner.objective_at(step)(out, batch, gather=gather)

    def encode(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Encoded:
        """Pairs and twins as the objective will see them, from one forward."""
        texts = [batch.text, twins_of(batch, NEGATIVE_TEXT)]
        images = [batch.image, twins_of(batch, NEGATIVE_IMAGE)] if NEGATIVE_IMAGE in batch.extra else [batch.image]
        keep = self.inner.patches(model, rows=len(batch.image), step=step, gather=gather)
        out = encoded_together(model, images, texts, keep=None if keep is None else [keep] * len(images))
        image, other_image = split(out.image, rows=len(batch.image))
        text, other_text = split(out.text, rows=len(batch.text))
        return replace(out, image=image, text=text, negative_image=other_image, negative_text=other_text)

    def _cast(self, batch: Batch, *, step: int) -> Batch:
        """Who plays which role at this step."""
        if self.roles == "together":
            return batch
        images, texts = twins_of(batch, NEGATIVE_IMAGE), twins_of(batch, NEGATIVE_TEXT)
        others = {name: value for name, value in batch.extra.items() if name != NEGATIVE_IMAGE}
        if step % 2 == 0:
            return Batch(batch.image, batch.text, others)
        if "labels" in others and "negative_labels" in others:
            others |= {"labels": others["negative_labels"], "negative_labels": others["labels"]}
        return Batch(images, texts, {**others, NEGATIVE_TEXT: batch.text})


def encoded_together(
    model: nn.Module, images: list[Tensor], texts: list[Tensor], *, keep: list[Tensor] | None
) -> Encoded:
    """Several batches of pictures and texts below each other, from one forward.

    Args:
        model: a (wrapped) PairForward.
        images: (b, 3, h, w) each.
        texts: (b, l) token ids each.
        keep: for each batch of pictures the patches that are seen, or None for all.
    """
    pictures = torch.cat(images)
    seen = None if keep is None else torch.cat(keep).to(pictures.device, non_blocking=True)
    return encoded(model(pictures, joined_texts(texts), seen))


def twins_of(batch: Batch, name: str) -> Tensor:
    """The hard negatives of a batch, as they came.

    Raises:
        InputError: there are none, or not one for each row.
    """
    found = batch.extra.get(name)
    if not isinstance(found, Tensor):
        raise InputError(
            f"batch.extra[{name!r}]: expected hard negatives, got {type(found).__name__}; every row of the source must "
            f"have {name!r} in its meta, as those of scene_twins do"
        )
    if len(found) != len(batch.image):
        raise InputError(f"batch.extra[{name!r}]: expected {len(batch.image)}, one for each row, got {len(found)}")
    return found


def joined_texts(texts: list[Tensor]) -> Tensor:
    """Token ids of several batches below each other, (sum of b, longest l), zero after the end tokens."""
    width = max(text.shape[1] for text in texts)
    return torch.cat([F.pad(text, (0, width - text.shape[1])) for text in texts])


def split(features: Features, *, rows: int) -> tuple[Features, Features | None]:
    """The first ``rows`` rows, with what the tower tells besides, and the others, or None where there are none."""
    pooled = features.pooled
    others = Features(pooled[rows:]) if len(pooled) > rows else None
    return Features(pooled[:rows], extra=features.extra), others
