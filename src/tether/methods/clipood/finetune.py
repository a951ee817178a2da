"""CLIPood's recipe: the image tower fine-tuned on labelled images, then averaged over its whole way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.finetune.descent import descent, exactly
from tether.adaptation.finetune.towers import image_parameters
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.types import Batch, Loss
from tether.data.labelled import LABEL
from tether.methods.clipood.beta_moving_average import BETA, BetaMovingAverage
from tether.methods.clipood.loss import MARGIN, MarginMetricSoftmax
from tether.models.embed import encode_texts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.steps.module import InsideStep, StepModule, ViewRows, encode_views

TEMPLATE = "a photo of a {}."  # released engine.py
LEARNING_RATE, WEIGHT_DECAY = 5e-6, 0.1  # released main.py


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuning left behind.

    Attributes:
        model: a copy of the encoder with the averaged weights, frozen, in eval mode: the one to use.
        accuracy: share of the last batch's images that were told rightly before its step.
        average: the average itself, for its state.
    """

    model: nn.Module
    accuracy: float
    average: BetaMovingAverage


def class_texts(
    model: Clip | WrappedEncoder, classes: Sequence[str], *, template: str = TEMPLATE
) -> Float[Tensor, "c d"]:
    """Unit embeddings of class names in a sentence, underscores read as spaces, on the model's device."""
    if template.count("{}") != 1:
        raise InputError(f"template: expected exactly one {{}}, got {template!r}")
    texts = encode_texts(model, [template.replace("{}", name.replace("_", " ")) for name in classes])
    return F.normalize(texts, dim=-1).to(model.logit_scale.device)


class MarginStep(InsideStep):
    """The margin metric softmax of a batch of images with ``label`` in its extra; a ``core.protocols.Step``."""

    def __init__(self, loss: MarginMetricSoftmax) -> None:
        """Args: loss: with its classes."""
        self._loss = loss

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        image, labels = encode_views(module, {"image": ViewRows("image", batch.image)})[0]["image"], batch.extra[LABEL]
        assert isinstance(labels, Tensor)
        return self._loss(image.pooled, labels=labels)


@checked
def tune_images_(
    model: Clip | WrappedEncoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    class_text: Float[Tensor, "c d"],
    steps: Count,
    margin: NonNegative = MARGIN,
    logit_scale: Positive | None = None,
    beta: float = BETA,
    learning_rate: Positive = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    precision: Literal["fp32", "bf16"] = "fp32",
    on_step: Callable[[StepReport], None] | None = None,
) -> Tuned:
    """Fine-tune the image tower on labelled images; texts and logit scale stay, so any class can be asked later.

    The model given ends with the weights of the last step, which forget more; use the averaged copy that is returned.
    It runs in eval mode: norm layers keep their statistics, dropout is off, parameters learn all the same. The
    learning rate falls to 0 as a cosine.

    Source: arXiv 2302.00864, section 4, and the released ``train``. Only matrices decay here; in the release
    everything does. The release goes through 20 epochs of 500 steps of 36 images, cropped and mirrored at random.

    Args:
        model: any encoder of ``tether.load``; its frozen parameters stay frozen.
        batches: pairs of (b, 3, h, w) uint8 pixels, or normalised floats, and (b,) labels; at least ``steps``.
        class_text: see ``class_texts`` and ``MarginMetricSoftmax``.
        steps: of the run.
        margin: see ``MarginMetricSoftmax``.
        logit_scale: the model's own if None.
        beta: see ``beta_weights``.
        learning_rate: at the start.
        weight_decay: on matrices only.
        precision: ``bf16`` runs the tower under autocast.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, or what the loss refuses.
    """
    scale = float(model.logit_scale.detach()) if logit_scale is None else logit_scale
    step = MarginStep(MarginMetricSoftmax(class_text.to(model.logit_scale.device), margin=margin, logit_scale=scale))
    moving = image_parameters(model)
    average = BetaMovingAverage(model, total_steps=steps, beta=beta, only=list(moving))
    # What an image does not reach has no gradient, and AdamW leaves that alone, decay included.
    go = descent(
        model,
        moving,
        step=step,
        schedule=Cosine(),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        precision=precision,
    )
    seen: list[Tensor] = []

    def look(report: StepReport) -> None:
        average.update_()
        seen[:] = [report.terms["accuracy"]]
        if on_step is not None:
            on_step(report)

    with eval_mode(model):
        go(StepModule(model), batches=map(_as_batch, exactly(batches, steps)), start=0, steps=steps, on_step=look)
    return Tuned(average.model, float(seen[0]), average)


def _as_batch(pair: tuple[Tensor, Tensor]) -> Batch:
    image, labels = pair
    return Batch(image, torch.empty(len(image), 0, dtype=torch.int64), {LABEL: labels})
