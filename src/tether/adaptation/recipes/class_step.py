"""The loss of labelled images against the texts of their classes."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.adaptation.recipes.given import Given
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.types import Batch, Loss
from tether.training.steps.module import InsideStep, StepModule, ViewRows, encode_views

LABEL = "label"
"""Where a batch of labelled images has the (b,) numbers of their classes in its extra."""
CROPS = {"image": {"scale": (0.5, 1.0), "flip": 0.5}}
"""Random crops and mirroring, settings of ``data.contents.BatchContents``; arXiv 2109.01134, section 4.1."""


class ClassStep(InsideStep):
    """Cross-entropy of the model's own similarities with one text a class; a ``core.protocols.Step``."""

    def __init__(self, class_text: Float[Tensor, "c d"], *, tokens: Int[Tensor, "c l"] | None = None) -> None:
        """Take the texts.

        Args:
            class_text: row of each class, as points of the model's geometry.
            tokens: of one prompt for each class, which are encoded in every step in their place; None where texts rest.
        """
        self._class_text, self._tokens = class_text, tokens

    @classmethod
    def of(cls, model: DualEncoder, given: Given, *, texts: bool) -> ClassStep:
        """For data of labelled images; with ``texts`` the text side learns, by the first prompt of each class."""
        tokens = model.tokenizer([each[0] for each in given.prompts]) if texts else None
        return cls(given.class_text, tokens=tokens)

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        model, device = module.model, batch.image.device
        views = {"image": ViewRows("image", batch.image)}
        if self._tokens is not None:
            views["text"] = ViewRows("text", self._tokens.to(device))
        found, geometry = encode_views(module, views)[0], geometry_of(model)
        image, text = found["image"].pooled, self._class_text.to(device)
        if self._tokens is not None:
            text = geometry.points(found["text"].pooled)
        logits = model.logit_scale.detach() * geometry.similarity(geometry.points(image), text)
        return class_loss(logits, batch)


def class_loss(logits: Float[Tensor, "b c"], batch: Batch) -> Loss:
    """Cross-entropy with the batch's classes, and the share that is told rightly."""
    labels = batch.extra[LABEL]
    assert isinstance(labels, Tensor)
    right = (logits.detach().argmax(dim=1) == labels).float().mean()
    return Loss(F.cross_entropy(logits, labels), {"accuracy": right})
