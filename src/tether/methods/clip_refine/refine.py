"""The short stage of CLIP-Refine: a model, its frozen former self, and an eye on the length of the embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tether.adaptation.finetune.descent import descent
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.ranges import Count, Decay, Positive, checked
from tether.core.types import Batch, Encoded, Loss
from tether.methods.clip_refine.step import ClipRefineLoss
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.train_mode import eval_mode
from tether.training.loop import StepReport
from tether.training.schedules import Constant
from tether.training.steps.module import InsideStep, StepModule, ViewRows, encode_views

LEARNING_RATE, WEIGHT_DECAY = 1e-6, 0.1  # released config/01_post-pre-training/clip-refine.yaml
LEAST_LENGTH = 0.5
"""Share of the first step's length of the embeddings below which the stage stops."""
_CHECK_EVERY = 10  # steps between two looks at the length, so that an accelerator is not waited for in every step


class RefineStep(InsideStep):
    """Both models see the batch, and the loss compares them; a ``core.protocols.Step`` for any loop.

    Its state is where the loss's generator stands. The old model is made anew from the weights that the stage began
    with, so keep those.
    """

    @checked
    def __init__(
        self,
        loss: ClipRefineLoss,
        *,
        teacher: Clip | WrappedEncoder | None,
        steps: int | None = None,
        decay: Literal["none", "linear"] = "none",
    ) -> None:
        """Take what a step needs.

        Args:
            loss: with its weights.
            teacher: the old model, frozen; None where ``lambda_kd`` is 0.
            steps: of the stage; only a decay needs them.
            decay: ``linear`` takes the weight of the random features to 0 at the last step.

        Raises:
            InputError: a linear decay without steps.
        """
        if decay == "linear" and (steps is None or steps < 1):
            raise InputError(f"steps: a linear decay needs at least 1, got {steps!r}")
        self.loss, self.teacher, self._steps, self._decay = loss, teacher, steps, decay

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        views = {"image": ViewRows("image", batch.image), "text": ViewRows("text", batch.text)}
        (image, text), model = encode_views(module, views)[0].values(), module.model
        student = Encoded(image, text, model.logit_scale, model.logit_bias, geometry=geometry_of(model))
        old = None
        if self.teacher is not None:
            with torch.no_grad(), torch.autocast(batch.image.device.type, enabled=False):
                image, text = self.teacher.encode_image(batch.image), self.teacher.encode_text(batch.text)
            old = Encoded(image, text, student.logit_scale.detach())
        share = 1.0
        if self._decay == "linear" and self._steps is not None:
            share = max(0.0, 1 - (step + 1) / self._steps)  # the release counts steps from 1
        return self.loss(student, teacher=old, gather=gather, rand_share=share)

    def state_dict(self) -> dict[str, Any]:
        """That of the loss."""
        return self.loss.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        self.loss.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class Refined:
    """How a stage went.

    Attributes:
        steps: that were taken.
        ended: ``done``, or ``shrunk`` when the embeddings became too short.
        first_length: mean length of the embeddings in the first step.
        last_length: in the last step that was looked at.
    """

    steps: int
    ended: Literal["done", "shrunk"]
    first_length: float
    last_length: float


@checked
def refine_(
    model: Clip | WrappedEncoder,
    batches: Iterable[Batch],
    *,
    loss: ClipRefineLoss | None = None,
    steps: Count | None = None,
    learning_rate: Positive = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    decay: Literal["none", "linear"] = "none",
    least_length: Decay = LEAST_LENGTH,
    precision: Literal["fp32", "bf16"] = "fp32",
    micro_batch: int | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Refined:
    """Refine a trained model in place, on a few batches of pairs, against a frozen copy of itself.

    Both models are in eval mode: dropout is off and batch norms keep their statistics. Afterwards the model is in
    the mode it was in. With all three weights of the loss at 0 nothing happens, not even weight decay.

    Source: arXiv 2504.12717, section 4.1: one epoch of COCO captions, batches of 512. It stops when the embeddings
    have lost half of their length, which the release does not look at.

    Args:
        model: any encoder of ``tether.load``; its frozen parameters stay frozen.
        batches: pairs; ``data.loader.Loader`` makes them.
        loss: ``ClipRefineLoss()`` if None.
        steps: at most so many; None takes every batch, which must then end.
        learning_rate: constant.
        weight_decay: on matrices only.
        decay: see ``RefineStep``; ``linear`` needs ``steps``.
        least_length: stop when the mean length of the embeddings is below this share of the first step's, in [0, 1);
            it is looked at in every tenth step. 0 never stops.
        precision: ``bf16`` runs the learning model under autocast; the old one stays in float32.
        micro_batch: pairs encoded at once; same loss, less memory.
        on_step: called after each step.

    Returns:
        How it went; the model itself has changed.

    Raises:
        InputError: a value outside its range, or no batch at all.
    """
    loss = ClipRefineLoss() if loss is None else loss
    idle = loss.lambda_rand == loss.lambda_kd == loss.lambda_cont == 0
    teacher = frozen_copy(model) if loss.lambda_kd > 0 else None
    step = RefineStep(loss, teacher=teacher, steps=steps, decay=decay)
    moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    go = descent(
        model,
        moving,
        step=step,
        schedule=Constant(),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        precision=precision,
    )
    forward = StepModule(model, micro_batch=micro_batch)
    lengths: list[Tensor] = []

    def look(report: StepReport) -> None:
        if loss.lambda_cont > 0:  # else nothing has moved the scale, and it may be above the cap by design
            model.clamp_logit_scale_()
        lengths.append(report.terms["length"])
        if on_step is not None:
            on_step(report)

    ended: Literal["done", "shrunk"] = "done"
    with eval_mode(forward):
        for number, batch in enumerate(() if idle else itertools.islice(batches, steps)):
            go(forward, batches=iter((batch,)), start=number, steps=number + 1, on_step=look)
            if number % _CHECK_EVERY == 0 and float(lengths[-1]) < least_length * float(lengths[0]):
                ended = "shrunk"
                break
    if not lengths:
        if idle:
            return Refined(0, "done", float("nan"), float("nan"))
        raise InputError("batches: expected at least one, got none")
    return Refined(len(lengths), ended, float(lengths[0]), float(lengths[-1]))
