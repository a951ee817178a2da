"""What tuning for image search is made of: class margins on images, and texts brought back to images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.hash_rng import hash_int
from tether.core.ranges import NonNegative, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses import ClipLoss, VocabSampler, caption_labels
from tether.methods.retrieval_align.loss import ArcMarginHead, multi_caption_arc_loss
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import tower_of
from tether.models.features.penultimate import image_state
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.training.steps.module import StepModule, ViewRows, encode_views, loss_inside

Reads = Literal["state", "embedding"]
Encoder = Clip | WrappedEncoder
CLASSES = "classes"
"""Name of the ``ArcMarginHead`` among the heads of the step's module."""
LABEL, CAPTIONS = "label", "captions"
"""Where a batch has the (b,) numbers of its classes, and (b, k, d) embeddings of captions, in its extra."""


class ArcMarginStep:
    """Images against the vectors of their classes and, if there are any, against k captions each; a ``Step``.

    ``batch.image`` (b, 3, h, w) are images, ``batch.extra["label"]`` (b,) their classes. ``batch.extra["captions"]``,
    needed unless ``caption_weight`` is 0, are (b, k, l) token ids, or (b, k, d) embeddings by the model's text side.
    Texts have no gradient.

    Source: arXiv 2409.01936; without captions it is that paper's GPR-FT, with them MCIP.
    """

    @checked
    def __init__(
        self,
        *,
        reads: Reads = "embedding",
        caption_weight: NonNegative = 1.0,
        sampler: VocabSampler | None = None,
        seed: int = 0,
    ) -> None:
        """Take the settings.

        Args:
            reads: the class vectors look at the joint ``embedding`` of an image, or at the ``state`` of its tower that
                it is projected from, which leaves the projection as it is.
            caption_weight: of the second part.
            sampler: draws the classes that a step looks at; None looks at all.
            seed: of these draws, one for each step.
        """
        self.reads, self.caption_weight, self.sampler, self.seed = reads, caption_weight, sampler, seed

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; terms are its parts and ``accuracy``, without the margin."""
        del gather
        return loss_inside(model, self._loss, batch, step=step)

    def _loss(self, module: StepModule, batch: Batch, *, step: int) -> Loss:
        view = ViewRows("image", batch.image, want="state" if self.reads == "state" else "pooled")
        found = encode_views(module, {"image": view})[0]["image"]
        row = found.pooled if self.reads == "embedding" or found.tokens is None else found.tokens[:, 0]
        head, labels = module.heads[CLASSES], batch.extra.get(LABEL)
        assert isinstance(head, ArcMarginHead)
        if not isinstance(labels, Tensor):
            raise InputError(f"batch.extra: expected {LABEL!r}, the class of each image, got {sorted(batch.extra)}")
        classes, places = None, labels
        if self.sampler is not None:
            generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="classes") >> 1)
            some = self.sampler(labels.cpu(), generator=generator)
            classes, places = some.classes.to(labels.device), some.labels.to(labels.device)
        margin = head.loss(row, labels=places, classes=classes)
        with torch.no_grad():
            right = (head(row, classes=classes).argmax(dim=1) == places).float().mean()
        terms = {"class_margin": margin.detach(), "accuracy": right}
        if not self.caption_weight:
            return Loss(margin, terms)
        given = batch.extra.get(CAPTIONS)
        if not isinstance(given, Tensor):
            raise InputError(f"batch.extra: expected {CAPTIONS!r}, some of each image, got {sorted(batch.extra)}")
        other = multi_caption_arc_loss(
            found.pooled, *_captions(module, given, rows=len(labels)), scale=head.scale, margin=head.margin
        )
        return Loss(margin + self.caption_weight * other, terms | {"caption_margin": other.detach()})


def _captions(module: StepModule, given: Tensor, *, rows: int) -> tuple[Float[Tensor, "b k d"], Int[Tensor, "b k"]]:
    """Embeddings of captions, and numbers that are equal for equal ones."""
    if given.ndim != 3 or len(given) != rows or not given.shape[1]:
        raise InputError(f"captions: expected ({rows}, k, ...) with k >= 1, got {tuple(given.shape)}")
    flat = given.flatten(0, 1)
    if given.is_floating_point():
        numbers = flat.unique(dim=0, return_inverse=True)[1]
    else:
        numbers = caption_labels(flat)
        with torch.no_grad():
            flat = module.model.encode_text(flat).pooled
    return flat.unflatten(0, given.shape[:2]), numbers.unflatten(0, given.shape[:2])


class RealignStep:
    """Texts are brought to the images that stand: symmetric InfoNCE, in which images have no gradient; a ``Step``.

    Pairs whose captions are equal are each other's positives.

    Source: Re-A of arXiv 2409.01936.
    """

    def __init__(self, *, projector: Literal["rests", "moves"] = "rests") -> None:
        """Args: projector: whether what projects images into the joint space learns, too."""
        self.projector, self._objective = projector, ClipLoss(duplicates="positives")

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch of pairs; ``batch.image`` may be (b, d) embeddings where the projector rests."""
        del step
        return loss_inside(model, self._loss, batch, gather=gather)

    def _loss(self, module: StepModule, batch: Batch, *, gather: Gather) -> Loss:
        model, image = module.model, batch.image
        if self.projector == "moves":
            with torch.no_grad():
                state = image_state(model, image).tokens
            assert state is not None  # image_state gives it
            image = tower_of(model).project(state[:, 0])
        elif image.ndim != 2:
            with torch.no_grad():
                image = model.encode_image(image).pooled
        text = encode_views(module, {"text": ViewRows("text", batch.text)})[0]["text"]
        scale = model.logit_scale.detach()
        out = Encoded(Features(image.to(text.pooled)), text, scale, geometry=geometry_of(model))
        return self._objective(out, batch, gather=gather)


def state_parameters(model: Encoder, image: Mapping[str, nn.Parameter]) -> tuple[dict[str, nn.Parameter], int]:
    """Which of an image side's parameters come before the projection into the joint space, and the width there.

    Args:
        model: any encoder of ``tether.load``.
        image: what an image's embedding depends on, by name; all must be able to move.

    Returns:
        Nothing and 0 for a tower that does not show what it projects.
    """
    size, device = model.image_spec.fixed().size, model.logit_scale.device
    blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    try:
        with eval_mode(model), torch.enable_grad():
            state = image_state(model, blank).tokens
    except UnsupportedModelError:
        return {}, 0
    assert state is not None  # image_state gives it
    found = torch.autograd.grad(state.sum(), list(image.values()), allow_unused=True)
    reached = {name: one for (name, one), grad in zip(image.items(), found, strict=True) if grad is not None}
    return reached, state.shape[-1]
