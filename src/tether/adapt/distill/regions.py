"""An image tower learns from a teacher that looked at the regions and read the captions: DCLIP, arXiv 2505.21549."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tether.adapt.distill.region_teacher import RegionTargets
from tether.adapt.finetune.descent import descent, eval_mode, exactly
from tether.adapt.finetune.towers import image_parameters, tower_parameters
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, Share, checked
from tether.core.types import Batch, Loss
from tether.losses import dclip_loss
from tether.models.dual import Clip
from tether.models.wrapped_encoders import WrappedEncoder
from tether.train.loop import StepReport
from tether.train.schedules import Cosine

LEARNING_RATE, WEIGHT_DECAY = 1e-5, 0.01  # not published


class DclipStep:
    """Images against the rows of a table; a ``core.protocols.Step`` for any loop.

    ``batch.extra`` has ``keys`` and ``texts``, which say whose rows they are, as ``data.loader.Loader`` gives them.
    """

    @checked
    def __init__(self, targets: RegionTargets, *, alpha: Share = 0.5) -> None:
        """Args: targets: on the model's device. alpha: see ``dclip_loss``."""
        self.targets, self.alpha = targets, alpha

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; terms are its two parts before their weights."""
        assert isinstance(model, Clip | WrappedEncoder)
        keys, texts = batch.extra.get("keys"), batch.extra.get("texts")
        if not isinstance(keys, Sequence) or not isinstance(texts, Sequence):
            raise InputError(f"batch: expected keys and texts in its extra, got {sorted(batch.extra)}")
        pairs = list(zip(map(str, keys), map(str, texts), strict=True))
        for pair in pairs:
            if pair not in self.targets.place:
                raise InputError(f"{pair[0]}: the teacher was not asked for this image with the text {pair[1]!r:.100}")
        device = model.logit_scale.device
        rows = torch.tensor([self.targets.place[pair] for pair in pairs], device=device)
        numbers: dict[str, int] = {}
        labels = torch.tensor([numbers.setdefault(text, len(numbers)) for _, text in pairs], device=device)
        found = dclip_loss(
            model.encode_image(batch.image).pooled,
            self.targets.text[rows],
            self.targets.image[rows],
            model.logit_scale.detach(),
            alpha=self.alpha,
            labels=labels,
            gather=gather,
        )
        return Loss(found.total, {"contrastive": found.contrastive.detach(), "cosine": found.cosine.detach()})


@dataclass(frozen=True, slots=True)
class RegionTuned:
    """How a distillation went.

    Attributes:
        steps: that were taken.
        first: terms of the first step.
        last: terms of the last step.
        retention: what ``measure`` said afterwards over what it said before; None without it.
    """

    steps: int
    first: Mapping[str, float]
    last: Mapping[str, float]
    retention: float | None


@checked
def distil_regions_(
    model: Clip | WrappedEncoder,
    batches: Iterable[Batch],
    *,
    targets: RegionTargets,
    steps: Count,
    alpha: Share = 0.5,
    learning_rate: Positive = LEARNING_RATE,
    weight_decay: NonNegative = WEIGHT_DECAY,
    precision: Literal["fp32", "bf16"] = "fp32",
    measure: Callable[[DualEncoder], float] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> RegionTuned:
    """Tune the image tower in place on ``dclip_loss``; texts and logit scale stay bit for bit.

    It runs in eval mode: norm layers keep their statistics, dropout is off. The learning rate falls to 0 as a cosine.
    What comes out is as fast as the model was.

    Source: DCLIP (arXiv 2505.21549), which reports 94 % of zero-shot accuracy kept. Its rates and alpha are not known.

    Args:
        model: any encoder of ``tether.load`` with towers of their own that compares by cosine.
        batches: of a ``data.loader.Loader`` over the source that the teacher saw, at least ``steps``.
        targets: what ``region_targets`` gave.
        steps: of the run.
        alpha: see ``dclip_loss``.
        learning_rate: at the start.
        weight_decay: on matrices only.
        precision: ``bf16`` runs the tower under autocast; the loss stays float32.
        measure: from a model to its zero-shot accuracy, for ``retention``.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, a pair that the teacher was not asked for, no trainable image tower,
            another geometry, or an accuracy of 0 before.
        UnsupportedModelError: towers that share parameters.
    """
    if geometry_of(model).name != "clip":
        raise InputError(f"expected a model that compares by cosine, its geometry is {geometry_of(model).name!r}")
    moving, words = image_parameters(model), tower_parameters(model, side="text")
    if shared := [name for name in moving if name in words]:
        raise UnsupportedModelError(
            f"expected a text tower of its own, but the towers share {len(shared)} parameters, among them {shared[0]}"
        )
    before = None if measure is None else float(measure(model))
    if before is not None and not before > 0:
        raise InputError(f"measure: expected an accuracy above 0 before the distillation, got {before}")
    seen: list[Mapping[str, Tensor]] = []

    def look(report: StepReport) -> None:
        seen[1:] = [report.terms]
        if on_step is not None:
            on_step(report)

    go = descent(
        model,
        moving,
        step=DclipStep(targets, alpha=alpha),
        schedule=Cosine(),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        precision=precision,
    )
    with eval_mode(model):
        go(model, batches=exactly(batches, steps), start=0, steps=steps, on_step=look)
    first, last = ({name: float(value) for name, value in terms.items()} for terms in (seen[0], seen[-1]))
    kept = None if measure is None or before is None else float(measure(model)) / before
    return RegionTuned(steps, first, last, kept)
