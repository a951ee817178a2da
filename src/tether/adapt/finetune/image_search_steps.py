"""The two kinds of steps of a tuning for image search: class margins on images, and texts brought back to images."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.hash_rng import hash_int
from tether.core.ranges import NonNegative, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses import ClipLoss, VocabSampler, caption_labels
from tether.losses.arc_margin import ArcMarginHead, multi_caption_arc_loss
from tether.models.anatomy.find import tower_of
from tether.models.tower_state import image_state
from tether.train.steps.module import StepModule, ViewRows, loss_inside

Reads = Literal["state", "embedding"]
CLASSES = "classes"
"""Name of the ``ArcMarginHead`` among the heads of the step's module."""
LABEL, CAPTIONS = "label", "captions"
"""Where a batch has the (b,) numbers of its classes, and (b, k, d) embeddings of captions, in its extra."""


class ArcMarginStep:
    """Images against the vectors of their classes and, if there are any, against k captions each; a ``Step``.

    ``batch.image`` (b, 3, h, w) are images and ``batch.extra["label"]`` (b,) their classes. Captions are the
    (b * k, l) token ids of ``batch.text``, those of one image after each other, or the (b, k, d) embeddings
    ``batch.extra["captions"]``; without columns or without either there is no second part. Texts have no gradient.

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
        found = module.encode({"image": view})[0]["image"]
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
        captions, alike = self._captions(module, batch)
        if captions is None or not self.caption_weight:
            return Loss(margin, terms)
        other = multi_caption_arc_loss(
            found.pooled, captions.to(found.pooled), scale=head.scale, margin=head.margin, alike=alike
        )
        return Loss(margin + self.caption_weight * other, terms | {"caption_margin": other.detach()})

    @staticmethod
    def _captions(module: StepModule, batch: Batch) -> tuple[Float[Tensor, "b k d"] | None, Int[Tensor, "b k"] | None]:
        """Embeddings of the captions, and numbers that are equal for equal ones."""
        given, rows = batch.extra.get(CAPTIONS), len(batch.image)
        if isinstance(given, Tensor):
            numbers = given.flatten(0, -2).unique(dim=0, return_inverse=True)[1]
            return given, numbers.view(given.shape[:-1])
        if not batch.text.shape[1]:
            return None, None
        if not len(batch.text) or len(batch.text) % rows:
            raise InputError(f"batch.text: expected as many captions for each of {rows} images, got {len(batch.text)}")
        with torch.no_grad():
            found = module.model.encode_text(batch.text).pooled
        return found.unflatten(0, (rows, -1)), caption_labels(batch.text).unflatten(0, (rows, -1))


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
        text = module.encode({"text": ViewRows("text", batch.text)})[0]["text"]
        scale = model.logit_scale.detach()
        out = Encoded(Features(image.to(text.pooled)), text, scale, geometry=geometry_of(model))
        return self._objective(out, batch, gather=gather)
