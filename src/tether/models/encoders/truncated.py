"""The first numbers of an encoder's embeddings as an encoder of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from jaxtyping import Int
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.core.types import Features
from tether.models.embed_anything import Embeds


@final
class NarrowEncoder(EncoderAround, Embeds):
    """An encoder whose embeddings are the first ``dims`` numbers of another's: smaller stores, faster search.

    Of a model that was trained with ``objective: {name: matryoshka, ...}`` they are nearly as good as the whole; of
    others they lose more. Source: arXiv 2205.13147.

    Example:
        >>> import tether
        >>> from tether.models.encoders.truncated import NarrowEncoder
        >>> NarrowEncoder(tether.load("tiny", random_weights=True), dims=32).embed(["a cat"]).shape
        torch.Size([1, 32])
    """

    @checked
    def __init__(self, model: DualEncoder, *, dims: Count) -> None:
        """Look at a model.

        Args:
            model: any that ``tether.load`` gives, or around one.
            dims: how many numbers, at most those that it has.

        Raises:
            InputError: more than that, or a model in whose geometry lengths count.
        """
        super().__init__(model)
        if dims > model.dim:
            raise InputError(f"dims: expected at most the {model.dim} numbers of an embedding, got {dims}")
        geometry = geometry_of(model)
        if not geometry.unit:
            raise InputError(f"dims: embeddings of geometry {geometry.name} are no embeddings when they are cut")
        self.dim = dims

    def behaviour(self) -> dict[str, int]:
        """What its digest holds besides the model's weights."""
        return {"dims": self.dim}

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """As the model inside does, cut; tokens are its own."""
        return self._cut(self.inside.encode_image(image, mask=mask))

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """As the model inside does, cut; tokens are its own."""
        return self._cut(self.inside.encode_text(text, mask=mask))

    def _cut(self, features: Features) -> Features:
        return replace(features, pooled=features.pooled[:, : self.dim])


def narrowed(model: DualEncoder, dims: int | None) -> DualEncoder:
    """The model itself, or with ``dims`` its first numbers."""
    return model if dims is None else NarrowEncoder(model, dims=dims)
