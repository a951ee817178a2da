"""Another text tower for a trained encoder: a frozen embedder behind an adapter, in the two stages of ProCLIP."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.adapt.finetune.descent import descent, eval_mode, exactly
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.protocols import ModelEdit
from tether.core.ranges import Count, Decay, NonNegative, Positive, checked
from tether.core.types import Batch, Features, Loss
from tether.losses import clip_loss, proclip_loss
from tether.losses.checks import unit_rows
from tether.models.build_open_clip import seeded
from tether.models.composed.compose import open_tower
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.embedder_tower import EmbedderTexts, TextEmbedder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.dual import Clip
from tether.models.frozen_copy import frozen_copy
from tether.models.text.embedder import EXPANSION, Few
from tether.models.wrapped_encoders import WrappedEncoder
from tether.train.ema import MovingEncoder
from tether.train.locked_towers import kept_where_resting
from tether.train.loop import StepReport
from tether.train.schedules import Cosine

EMA = 0.999
"""Momentum of the teacher; the paper's is not known."""
LEARNING_RATE, WEIGHT_DECAY = 1e-5, 0.05  # not published


@checked
def swap_text(
    model: Clip | WrappedEncoder,
    embedder: str | Mapping[str, Any] | TextSide | TextEmbedder,
    *,
    expansion: Few = EXPANSION,
    blocks: Few = 1,
) -> ComposedEncoder:
    """The images of one encoder and the texts of another embedder, whose adapter knows nothing yet.

    The new encoder has copies of the image tower and the logit scale; ``distil_text(..., loss="proclip")`` teaches its
    adapter what the old text tower knew, and ``tune_swapped_`` goes on with pairs. The embedder rests, so what it gives
    is computed once and kept.

    Source: ProCLIP (arXiv 2510.18795).

    Args:
        model: any encoder of ``tether.load`` with towers of their own that compares by cosine; it stays as it is.
        embedder: a text tower as ``compose`` takes it (a folder of transformers or sentence-transformers, or a model of
            which the text side is taken: ``starter`` is all-MiniLM-L6-v2), a tower, or any object with
            ``embed(texts)``. With the last the new encoder works, but cannot be saved.
        expansion: see ``EmbedderAdapter``.
        blocks: see ``EmbedderAdapter``.

    Raises:
        InputError: towers that share their blocks, another geometry, or what is no text tower.

    Example:
        >>> import torch
        >>> from tether.adapt.distill import distil_text, swap_text
        >>> from tether.models import create
        >>> class Letters:
        ...     def embed(self, texts):
        ...         return [[float(text.count(letter)) for letter in "abcdefgh"] for text in texts]
        >>> old = create("tiny")
        >>> new, chance = swap_text(old, Letters()), torch.Generator().manual_seed(0)
        >>> texts = ["a bag", "a cab", "a deaf chef"]
        >>> done = distil_text(new, teacher=old, texts=texts, loss="proclip", steps=20, generator=chance)
        >>> done.before < done.after, new.encode_text(new.tokenizer(["a bed"])).pooled.shape
        (True, torch.Size([1, 64]))
    """
    if geometry_of(model).name != "clip":
        raise InputError(f"expected a model that compares by cosine, its geometry is {geometry_of(model).name!r}")
    image = cast(ImageSide, dual_tower(copy.deepcopy(model), "image"))
    own = model.config["image_map"] if isinstance(model, ComposedEncoder) else {"kind": "none"}
    texts = _text_tower(embedder)
    texts.lock_("locked")
    adapter = {"kind": "embedder", "width": texts.width, "dim": model.dim, "expansion": expansion, "blocks": blocks}
    with seeded():
        made = ComposedEncoder(
            image, texts, image_map={"width": image.width, "dim": model.dim, **own}, text_map=adapter
        )
    if isinstance(model, ComposedEncoder):
        made.parts.image_map.load_state_dict(model.parts.image_map.state_dict())
    with torch.no_grad():
        made.parts.logit_scale.copy_(model.logit_scale.log())
    return made.to(model.logit_scale.device).eval()


def _text_tower(embedder: str | Mapping[str, Any] | TextSide | TextEmbedder) -> TextSide:
    if isinstance(embedder, TextSide):
        return copy.deepcopy(embedder)
    if isinstance(embedder, (Clip, WrappedEncoder)):
        return cast(TextSide, dual_tower(copy.deepcopy(embedder), "text"))
    if isinstance(embedder, TextEmbedder):
        return EmbedderTexts(embedder)
    return cast(TextSide, open_tower(embedder, "text"))


class ProclipStep:
    """CLIP's loss, and an image tower that is held to its own past; a ``core.protocols.Step`` for any loop.

    The text tower's rows come from the cache where it rests. ``batch.extra["labels"]`` (b,), if there, are equal where
    captions mean the same. Its teacher trails the image tower and its map by one update after each step, or stays what
    they were.
    """

    @checked
    def __init__(
        self,
        model: ComposedEncoder,
        *,
        steps: Count,
        weight: NonNegative = 1.0,
        ema: Decay | None = EMA,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        """Look at the model before its first step.

        Args:
            model: that is trained.
            steps: of the run.
            weight: lambda of the paper, of the distillation; no value is published.
            ema: momentum of the teacher, as in the paper; None keeps the first model, as the released code does.
            reduction: of the distillation, see ``proclip_loss``.
        """
        self.weight, self.reduction = weight, reduction
        parts = model.parts
        side = nn.Sequential(parts.image, parts.image_map)
        self._moving = None if ema is None else MovingEncoder(side, momentum=ema, steps=steps)
        self.teacher = frozen_copy(side) if self._moving is None else self._moving.model
        self._texts = kept_where_resting(model)

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; terms are CLIP's, the two of the distillation, and the logit scale."""
        assert isinstance(model, ComposedEncoder)
        pixels = model.pixels(batch.image)
        image = Features(model.parts.image_map(model.parts.image(pixels)))
        text, labels = self._texts.encode_text(batch.text), batch.extra.get("labels")
        contrastive = clip_loss(
            unit_rows(image),
            unit_rows(text),
            model.logit_scale,
            labels=labels if isinstance(labels, Tensor) else None,
            gather=gather,
        )
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            past = self.teacher(pixels)
        held = proclip_loss(image.pooled, past, reduction=self.reduction)
        terms = {"contrastive": contrastive, "instance": held.instance, "structure": held.structure}
        terms = {name: value.detach() for name, value in (terms | {"logit_scale": model.logit_scale}).items()}
        return Loss(contrastive + self.weight * held.total, terms)

    def see_start(self, model: nn.Module) -> None:
        """See core.protocols.Taught."""

    def follow_(self, *, step: int) -> None:
        """See core.protocols.Taught."""
        if self._moving is not None:
            self._moving.update_(step=step)

    def teacher_tensors(self) -> dict[str, Tensor]:
        """See core.protocols.Taught."""
        return {} if self._moving is None else self._moving.tensors()

    def load_teacher_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See core.protocols.Taught."""
        if self._moving is not None:
            self._moving.load(dict(tensors))


@dataclass(frozen=True, slots=True)
class SwapTuned:
    """How a tuning went.

    Attributes:
        steps: that were taken.
        first: terms of the first step.
        last: terms of the last step.
        kept: mean cosine of the last batch's image embeddings, after the last step, and those of the model before.
    """

    steps: int
    first: Mapping[str, float]
    last: Mapping[str, float]
    kept: float


@checked
def tune_swapped_(
    model: ComposedEncoder,
    batches: Iterable[Batch],
    *,
    steps: Count,
    weight: NonNegative = 1.0,
    ema: Decay | None = EMA,
    reduction: Literal["mean", "sum"] = "mean",
    edit: ModelEdit | None = None,
    learning_rate: Positive = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    precision: Literal["fp32", "bf16"] = "fp32",
    on_step: Callable[[StepReport], None] | None = None,
) -> SwapTuned:
    r"""Tune the image tower and both maps in place on pairs, while the image tower is held to its own past.

    It runs in eval mode: norm layers keep their statistics, dropout is off. The learning rate falls to 0 as a cosine,
    and the logit scale stays in [1, 100]. What rests, such as the embedder, stays bit for bit.

    Source: ProCLIP (arXiv 2510.18795), second stage; rates and the weight are not published.

    Args:
        model: of ``swap_text``, after ``distil_text``; or any composed encoder.
        batches: pairs of at least 2 rows, at least ``steps``; ``data.loader.Loader`` makes them.
        steps: of the run.
        weight: see ``ProclipStep``.
        ema: see ``ProclipStep``.
        reduction: see ``ProclipStep``.
        edit: tune by this, and merge it at the end: the release has ``Lora(rank=32, alpha=32, dropout=0.1,
            targets=r"^model\.image\.")`` on the image tower's attention. None tunes all that does not rest.
        learning_rate: at the start.
        weight_decay: on matrices only.
        precision: ``bf16`` runs the towers under autocast; losses and the teacher stay float32.
        on_step: called after each step.

    Raises:
        InputError: fewer batches than steps, or nothing to train.
    """
    before = frozen_copy(nn.Sequential(model.parts.image, model.parts.image_map))
    if edit is not None:
        edit.apply_(model)
    moving = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if not moving:
        raise InputError("model: all of its parameters rest")
    seen: list[Mapping[str, Tensor]] = []
    last: list[Batch] = []

    def look(report: StepReport) -> None:
        model.clamp_logit_scale_()
        seen[1:] = [report.terms]
        if on_step is not None:
            on_step(report)

    def watched() -> Iterable[Batch]:
        for batch in exactly(batches, steps):
            last[:] = [batch]
            yield batch

    with eval_mode(model):
        try:
            step = ProclipStep(model, steps=steps, weight=weight, ema=ema, reduction=reduction)
            go = descent(
                model,
                moving,
                step=step,
                schedule=Cosine(),
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                precision=precision,
            )
            go(model, batches=iter(watched()), start=0, steps=steps, on_step=look)
        finally:
            if edit is not None:
                edit.merge_(model)
        with torch.no_grad():
            pixels = model.pixels(last[0].image.to(model.logit_scale.device))
            past, now = before(pixels), model.encode_image(pixels).pooled
    first, end = ({name: float(value) for name, value in terms.items()} for terms in (seen[0], seen[-1]))
    return SwapTuned(steps, first, end, float(F.cosine_similarity(past, now.to(past.dtype)).mean()))
