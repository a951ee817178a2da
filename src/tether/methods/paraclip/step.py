"""ParaCLIP's fine-tuning: the text tower alone learns that paraphrases mean the same (arXiv 2402.15120)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.adaptation.finetune.descent import descent, exactly
from tether.adaptation.finetune.towers import freeze_image_tower, tower_parameters
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.ranges import Count, Positive, checked
from tether.core.types import Batch, Loss
from tether.methods.paraclip import ParaphrasePairs
from tether.methods.paraclip.loss import LEAST_ROWS, paraclip_loss
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.training.loop import StepReport
from tether.training.schedules import Cosine

LEARNING_RATE, WEIGHT_DECAY = 1e-5, 0.1  # not published; the sheet's suggestion for a small model
TEXTS = 3
"""Texts of each image in a batch: the caption and both paraphrases."""


class ParaclipStep:
    """One batch of images with three texts each; a ``core.protocols.Step`` for any loop.

    ``batch.image`` are images (b, 3, h, w) or their embeddings (b, d), which never change; ``batch.text`` (3b, l)
    are the captions, then the first, then the second paraphrases, encoded in one forward. ``batch.extra["labels"]``
    (b,), if there, are equal where rows mean the same.
    """

    def __init__(self, *, weights: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Args: weights: see ``paraclip_loss``."""
        self.weights = tuple(weights)

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; terms are its three parts before their weights."""
        assert isinstance(model, Clip | WrappedEncoder)
        if len(batch.text) != TEXTS * len(batch.image):
            raise InputError(f"expected {TEXTS} texts for each of {len(batch.image)} pictures, got {len(batch.text)}")
        image = batch.image
        if image.ndim != 2:
            with torch.no_grad():
                image = model.encode_image(image).pooled
        caption, first, second = model.encode_text(batch.text).pooled.chunk(TEXTS)
        labels = batch.extra.get("labels")
        found = paraclip_loss(
            image.to(caption.dtype),
            caption,
            first,
            second,
            model.logit_scale,
            weights=self.weights,
            labels=labels if isinstance(labels, Tensor) else None,
            gather=gather,
        )
        terms = {"l1": found.l1, "l2": found.l2, "l3": found.l3, "logit_scale": model.logit_scale}
        return Loss(found.total, {name: value.detach() for name, value in terms.items()})


@dataclass(frozen=True, slots=True)
class TextTuned:
    """How a fine-tuning went.

    Attributes:
        steps: that were taken.
        first: terms of the first step.
        last: terms of the last step.
    """

    steps: int
    first: Mapping[str, float]
    last: Mapping[str, float]


@checked
def tune_texts_(
    model: Clip | WrappedEncoder,
    batches: Iterable[Batch],
    *,
    steps: Count,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    learning_rate: Positive = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    temperature: Literal["frozen", "trained"] = "frozen",
    precision: Literal["fp32", "bf16"] = "fp32",
    on_step: Callable[[StepReport], None] | None = None,
) -> TextTuned:
    """Fine-tune the text tower in place on captions and their paraphrases; the image tower stays bit for bit.

    Embeddings of images that were made before stay valid. It runs in eval mode: norm layers keep their statistics,
    dropout is off. The learning rate falls to 0 as a cosine. Some tasks may get worse, which the paper saw too; keep a
    copy and compare.

    Source: arXiv 2402.15120, section 3.2. Rates, steps and whether the temperature learns are not published.

    Args:
        model: any encoder of ``tether.load`` with towers of their own; its frozen parameters stay frozen.
        batches: see ``ParaclipStep``; ``paraphrase_batches`` makes them; at least ``steps``.
        steps: of the run.
        weights: of the three parts; ``(1, 0, 0)`` pairs images with second paraphrases and nothing else.
        learning_rate: at the start.
        weight_decay: on matrices only.
        temperature: ``frozen`` keeps the logit scale, ``trained`` moves it too, below its cap.
        precision: ``bf16`` runs the tower under autocast; logits stay float32.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, no trainable text tower, or a model that does
            not compare by cosine.
        UnsupportedModelError: towers that share parameters.

    Example:
        >>> import torch
        >>> from tether.methods.paraclip import paraphrase_batches, tune_texts_
        >>> from tether.methods.paraclip import ParaphrasePairs, RuleParaphraser
        >>> from tether.models import create
        >>> model, images = create("tiny"), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> captions = ["a picture of a large circle", "there is a tiny ship"]
        >>> pairs = ParaphrasePairs(captions, paraphraser=RuleParaphraser(), seed=0)
        >>> batches = paraphrase_batches(model, pairs, image=images, batch_size=2, generator=torch.Generator())
        >>> done = tune_texts_(model, batches, steps=1)
        >>> done.steps, list(done.first)
        (1, ['l1', 'l2', 'l3', 'logit_scale'])
    """
    if geometry_of(model).name != "clip":
        raise InputError(f"expected a model that compares by cosine, its geometry is {geometry_of(model).name!r}")
    moving = {name: one for name, one in tower_parameters(model, side="text").items() if one.requires_grad}
    if not moving:
        raise InputError("the text tower has no trainable parameter")
    if temperature == "trained":
        moving |= {name: one for name, one in tower_parameters(model, side="scale").items() if one.requires_grad}
    still = [one for name, one in model.named_parameters() if one.requires_grad and name not in moving]
    seen: list[Mapping[str, Tensor]] = []

    def look(report: StepReport) -> None:
        if temperature == "trained":
            model.clamp_logit_scale_()
        seen[1:] = [report.terms]
        if on_step is not None:
            on_step(report)

    with freeze_image_tower(model), eval_mode(model):
        for parameter in still:
            parameter.requires_grad_(False)
        try:
            go = descent(
                model,
                moving,
                step=ParaclipStep(weights=weights),
                schedule=Cosine(),
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                precision=precision,
            )
            go(model, batches=exactly(batches, steps), start=0, steps=steps, on_step=look)
        finally:
            for parameter in still:
                parameter.requires_grad_(True)
    first, last = ({name: float(value) for name, value in terms.items()} for terms in (seen[0], seen[-1]))
    return TextTuned(steps, first, last)


@checked
def paraphrase_batches(
    model: Clip | WrappedEncoder,
    pairs: ParaphrasePairs,
    *,
    image: Float[Tensor, "n d"] | UInt8[Tensor, "n 3 h w"],
    batch_size: int,
    generator: torch.Generator,
    duplicates: Literal["positives", "negatives"] = "positives",
) -> Iterator[Batch]:
    """Batches for ``tune_texts_`` without end, each pass in a new order; the rest of a pass is left out.

    Args:
        model: whose tokenizer reads the texts.
        pairs: captions with their paraphrases; ``row`` of each says which image is its own.
        image: embeddings of the images, made once with this model, or their pixels, encoded again in every step.
        batch_size: rows of a batch, 2 to as many as there are pairs.
        generator: of the order.
        duplicates: rows of which any two texts are equal are ``positives`` of each other, or ``negatives``.
    """
    if not LEAST_ROWS <= batch_size <= len(pairs):
        raise InputError(f"batch_size: expected {LEAST_ROWS} to {len(pairs)}, the number of pairs, got {batch_size}")
    places = torch.tensor([one.row for one in pairs.rows])
    if int(places.max()) >= len(image):
        raise InputError(
            f"image: expected at least {int(places.max()) + 1} rows, one for each caption, got {len(image)}"
        )
    columns = [[getattr(one, name) for one in pairs.rows] for name in ("caption", "first", "second")]
    tokens = model.tokenizer([text for column in columns for text in column]).unflatten(0, (TEXTS, len(pairs)))
    labels = _labels(columns) if duplicates == "positives" else None
    return _batches(image, places, tokens, labels, batch_size=batch_size, generator=generator)


def _batches(
    image: Tensor, places: Tensor, tokens: Tensor, labels: Tensor | None, *, batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    while True:
        order = torch.randperm(len(places), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) == batch_size:
                extra: dict[str, object] = {} if labels is None else {"labels": labels[rows]}
                yield Batch(image[places[rows]], tokens[:, rows].flatten(0, 1), extra)


def _labels(columns: Sequence[Sequence[str]]) -> Tensor:
    """Equal for rows that share a text, directly or through others."""
    parent = list(range(len(columns[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    holder: dict[str, int] = {}
    for column in columns:
        for row, text in enumerate(column):
            first = holder.setdefault(" ".join(text.lower().split()), row)
            parent[root(row)] = root(first)
    return torch.tensor([root(row) for row in range(len(parent))])
