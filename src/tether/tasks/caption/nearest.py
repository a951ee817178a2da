"""Captions that somebody wrote already: the nearest of given sentences, against which written ones are to be held."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts
from tether.tasks.caption.text_only import Captioned
from tether.tasks.caption.training import check_captions


class NearestCaptions:
    """Gives each image the sentences whose embeddings are nearest to its own.

    A captioner that was learnt from sentences must be better than this to be worth its cost.

    Attributes:
        texts: different sentences.

    Example:
        >>> import tether, torch
        >>> from tether.tasks.caption import NearestCaptions
        >>> nearest = NearestCaptions(tether.load("tiny", random_weights=True), ["a red ball", "a blue cube"])
        >>> found = nearest(torch.randn(3, 64), top=2)
        >>> len(found), found[0].score >= found[0].candidates[1][1]
        (3, True)
    """

    def __init__(self, model: DualEncoder, texts: Sequence[str]) -> None:
        """Embed the sentences once; their rows are kept in the feature cache.

        Raises:
            InputError: none, or empty ones.
            UnsupportedModelError: an encoder that does not compare by cosine.
        """
        if (found := geometry_of(model)).name != "clip":
            raise UnsupportedModelError(f"captions are found by cosine, and this model's geometry is {found.name}")
        check_captions(texts)
        self.texts = tuple(dict.fromkeys(texts))
        self._rows = F.normalize(encode_texts(CachedEncoder(model), self.texts), dim=1)

    @checked
    def __call__(self, image: Float[Tensor, "b d"], *, top: Count = 1) -> list[Captioned]:
        """The nearest sentence of each image and those after it.

        Args:
            image: embeddings.
            top: sentences of each image; more than there are are all.
        """
        near = F.normalize(image.float().cpu(), dim=1) @ self._rows.T
        order = near.argsort(dim=1, descending=True, stable=True)[:, :top]
        found = []
        for places, scores in zip(order.tolist(), near.gather(1, order).tolist(), strict=True):
            listed = tuple((self.texts[place], score) for place, score in zip(places, scores, strict=True))
            text, score = listed[0]
            found.append(Captioned(text, score, listed))
        return found
