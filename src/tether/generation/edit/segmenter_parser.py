"""Parts of images by words: a segmenter's soft maps, with gradient to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.generation.edit.kept_parts import PartMaps, stacked_maps
from tether.generation.seen import seen_by
from tether.tasks.segment.segmenter import DenseSegmenter


class SegmenterParser:
    """Finds parts with a segmenter that compares patches with words: what may change, what is kept, and all as pose.

    The whole image is squashed to the model's size, and maps are enlarged between patches, so that they are as coarse
    as the model's patches; masks of your own are sharper.

    Example:
        >>> import torch
        >>> from tether.generation import SegmenterParser
        >>> from tether.models import create
        >>> from tether.tasks.segment.maskclip import ValueSegmenter
        >>> model = create("tiny").eval()
        >>> segmenter = ValueSegmenter().prepare(model, ["clothes", "a face", "a wall"])
        >>> parts = SegmenterParser(segmenter, model, body=["clothes"], head=["a face"])(torch.rand(2, 3, 64, 48))
        >>> parts.head.shape, parts.pose.shape
        (torch.Size([2, 1, 64, 48]), torch.Size([2, 3, 64, 48]))
    """

    def __init__(
        self, segmenter: DenseSegmenter, model: DualEncoder, *, body: Sequence[str], head: Sequence[str] = ()
    ) -> None:
        """Take a segmenter that has been prepared.

        Args:
            segmenter: knows its classes, without words for a background.
            model: that it was prepared with.
            body: names of its classes that a text may change.
            head: those that are kept and pasted back.

        Raises:
            InputError: a segmenter without classes, with a background of its own, or a name that it does not know.
        """
        if not segmenter.classes or len(segmenter.rows) != len(segmenter.classes):
            raise InputError(
                f"segmenter: expected one with a text for each class and no background, got classes "
                f"{list(segmenter.classes)!r:.200} and {len(segmenter.rows)} texts"
            )
        for name in (*body, *head):
            if name not in segmenter.classes:
                raise InputError(f"body, head: expected some of {', '.join(segmenter.classes)}, got {name!r}")
        self.segmenter, self.model = segmenter, model
        self._body, self._head = (tuple(map(segmenter.classes.index, some)) for some in (body, head))
        stacked_maps(torch.zeros(1, len(segmenter.classes), 1, 1), body=self._body, head=self._head)
        _, self._grid = segmenter.looks()

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> PartMaps:
        """Of images in 0 to 1."""
        shown = seen_by(image, spec=self.model.image_spec)
        scores = self.segmenter.scores(self.model, shown).softmax(dim=2)
        coarse = scores.transpose(1, 2).unflatten(2, self._grid)
        maps = F.interpolate(coarse, size=(image.shape[2], image.shape[3]), mode="bilinear", align_corners=False)
        return stacked_maps(maps.to(image), body=self._body, head=self._head)
