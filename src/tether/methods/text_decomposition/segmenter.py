"""Foreground masks from words, without training: what each patch adds to the embedding (arXiv 2310.05916)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.types import Batch
from tether.models.features.decompose import decompose
from tether.space.heat_maps import Segmentation, segment_by_parts
from tether.tasks.classify.prompts import TEMPLATES, checked_templates, classes_of
from tether.tasks.classify.zero_shot import class_weights


class PartsSegmenter:
    """Cuts out what an image's own class comes from; a ``core.protocols.TaskHead``.

    The image is given the class its whole embedding is nearest to. Patches that add more to that class than to the
    others on average are warm, and what is warmer than the mean is foreground. Two classes are the least: with one
    there is nothing to stand out from, and no patch is foreground.

    Source: arXiv 2310.05916, section 5.

    Attributes:
        classes: names, once prepared.
        weights: (c, d) unit rows, once prepared.
    """

    @checked
    def __init__(self, *, templates: Sequence[str] = TEMPLATES["photo"], batch_size: Count = 256) -> None:
        """Choose the templates, and how many prompts go into one forward."""
        self.templates = checked_templates(templates, where="templates")
        self.batch_size = batch_size
        self.classes: tuple[str, ...] = ()
        self.weights: Float[Tensor, "c d"] = torch.empty(0, 0)
        self._model: DualEncoder | None = None

    def prepare(
        self, model: DualEncoder, prompts: Sequence[str], *, support: Iterable[Batch] | None = None
    ) -> PartsSegmenter:
        """Encode the classes once.

        Args:
            model: any model that ``tether.load`` gives whose image tower ``models.features.decompose`` can take apart.
            prompts: class names.
            support: must be None, as nothing is learnt.

        Returns:
            This head.
        """
        if support is not None:
            raise InputError("support: this head learns nothing from images; expected None")
        self.classes = classes_of(list(prompts))
        self.weights = class_weights(model, self.classes, templates=self.templates, batch_size=self.batch_size)
        self._model = model
        return self

    def predict(self, image: Tensor) -> Segmentation:
        """Class, heat and mask of (b, 3, h, w) images, uint8 or normalised floats, at the images' size.

        Raises:
            UnsupportedModelError: an image tower that cannot be taken apart.
        """
        if self._model is None:
            raise InputError("PartsSegmenter: prepare(model, classes) comes before predict")
        parts = decompose(self._model, image, reduce="heads")
        height, width = image.shape[2:]
        return segment_by_parts(parts, weights=self.weights, size=(height, width))
