"""Encoders around an encoder: what one of them does not say is what the model inside says."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder, Tokenizer
from tether.core.types import Encoded, Features, ImageSpec


class EncoderAround(nn.Module, abc.ABC):
    """The common half of every wrapper of a model of ``tether.load``; a ``core.protocols.DualEncoder`` itself.

    Attributes:
        model: the model inside, not copied.
        dim: size of the shared space.
        image_spec: how images must be prepared.
        tokenizer: text to ids.
        same_rows: whether it gives the very rows of the model inside, so that both have one digest.
    """

    same_rows = False

    def __init__(self, model: DualEncoder) -> None:
        """Args: model: any that ``tether.load`` gives."""
        super().__init__()
        self.model = cast(nn.Module, model)
        self.dim: int = model.dim
        self.image_spec: ImageSpec = model.image_spec
        self.tokenizer: Tokenizer = model.tokenizer
        if hasattr(model, "templates"):  # its own prompts of class names
            self.templates: Sequence[str] = model.templates

    @property
    def inside(self) -> DualEncoder:
        """The model inside."""
        return cast(DualEncoder, self.model)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """0-d multiplier of similarities, with gradient."""
        return self.inside.logit_scale

    @property
    def logit_bias(self) -> Float[Tensor, ""] | None:
        """0-d offset of the logits, or None."""
        return self.inside.logit_bias

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """As the model inside does."""
        return self.inside.encode_image(image, mask=mask)

    @abc.abstractmethod
    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids as the tokenizer gives them."""

    def forward(self, image: Tensor, text: Tensor) -> Encoded:
        """Both sides of a batch of pairs, as an objective takes them."""
        return Encoded(
            self.encode_image(image),
            self.encode_text(text),
            self.logit_scale,
            self.logit_bias,
            geometry=geometry_of(self),
        )
