"""CLIP-IN's joint step: hard-negative quadruples and long captions in one forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Objective
from tether.core.types import Batch, Loss
from tether.losses import clip_loss
from tether.losses.checks import caption_labels, unit_rows
from tether.train.steps.contrastive import ContrastiveStep
from tether.train.steps.hard_negatives import NEGATIVE_IMAGE, NEGATIVE_TEXT, encoded_together, split, twins_of

LONG_IMAGE, LONG_TEXT = "long_image", "long_text"


class ClipInStep:
    """``objective(quadruples) + weight * CLIP(long captions)`` (arXiv 2508.02329, our reading of it).

    The batch is one of quadruples, as for the step ``hard_negatives``, whose extra also holds ``long_image``
    (n, 3, h, w) and ``long_text`` (n, l): any number of pairs of another data set; ``data.side_by_side`` brings them.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        weight: float = 1.0,
        duplicates: Literal["negatives", "positives"] = "negatives",
        keep_patches: float = 1.0,
        full_last: float = 0.0,
    ) -> None:
        """Args: the losses, and how much of a picture is seen.

        objective: of the quadruples; ``symmetric_negatives`` is the paper's.
        steps: length of the run.
        seed: see ``ContrastiveStep``.
        weight: of CLIP's loss on the long captions (>= 0); the paper's value is not known.
        duplicates: long captions with the same tokens are each other's ``negatives``, as in CLIP, or ``positives``;
            those of the quadruples are the objective's affair.
        keep_patches: see ``ContrastiveStep``.
        full_last: see ``ContrastiveStep``.

        Raises:
            InputError: a value outside its range, or another word.
        """
        if duplicates not in ("negatives", "positives"):
            raise InputError(f"duplicates: expected 'negatives' or 'positives', got {duplicates!r}")
        if not weight >= 0:
            raise InputError(f"weight: expected a number of at least 0, got {weight!r}")
        self.inner = ContrastiveStep(objective, steps=steps, seed=seed, keep_patches=keep_patches, full_last=full_last)
        self.weight = weight
        self.duplicates: Literal["negatives", "positives"] = duplicates

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward. The term ``long`` is CLIP's loss, unweighted.

        Raises:
            InputError: a batch without twins, or without long captions that are pairs.
        """
        long_image, long_text = _long_pairs(batch)
        images = [batch.image, twins_of(batch, NEGATIVE_IMAGE), long_image]
        texts = [batch.text, twins_of(batch, NEGATIVE_TEXT), long_text]
        rows = len(batch.image)
        own, far = (self.inner.patches(model, rows=n, step=step, gather=gather) for n in (rows, len(long_image)))
        out = encoded_together(model, images, texts, keep=None if own is None or far is None else [own, own, far])
        image, rest_image = split(out.image, rows=rows)
        text, rest_text = split(out.text, rows=rows)
        assert rest_image is not None and rest_text is not None  # noqa: PT018 - there are as many twins as rows
        twin_image, far_image = split(rest_image, rows=rows)
        twin_text, far_text = split(rest_text, rows=rows)
        assert far_image is not None and far_text is not None  # noqa: PT018 - at least one long pair
        quadruples = replace(out, image=image, text=text, negative_image=twin_image, negative_text=twin_text)
        loss = self.inner.objective_at(step)(quadruples, batch, gather=gather)
        labels = caption_labels(texts[-1]) if self.duplicates == "positives" else None
        long = clip_loss(unit_rows(far_image), unit_rows(far_text), out.logit_scale, labels=labels, gather=gather)
        return Loss(loss.total + self.weight * long, {**loss.terms, "long": long.detach()})


def _long_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    image, text = batch.extra.get(LONG_IMAGE), batch.extra.get(LONG_TEXT)
    if not isinstance(image, Tensor) or not isinstance(text, Tensor):
        raise InputError(
            f"batch.extra: expected {LONG_IMAGE!r} and {LONG_TEXT!r}, got {', '.join(batch.extra) or 'nothing'}; "
            "tether.data.paired_loader brings a second loader's batches under such names"
        )
    if not len(image) or len(image) != len(text):
        got = f"{len(image)} and {len(text)}"
        raise InputError(f"long captions: expected as many pictures as texts, at least one, got {got}")
    return image, text
