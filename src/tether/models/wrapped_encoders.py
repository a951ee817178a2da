"""Models of other libraries as they are, behind our protocol: ConvNeXt, EVA, SigLIP, Hugging Face text towers."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.core.types import Encoded, Features, ImageSpec
from tether.models.embed_anything import Embeds
from tether.models.tokenizer import lengths


class WrappedEncoder(nn.Module, Embeds, abc.ABC):
    """What all wrapped models share: normalised pixels, no masks, texts padded to the full context, the scale.

    Attributes:
        model: the other library's module.
        dim: size of the shared space.
        image_spec: how images must be prepared.
        tokenizer: text to ids.
        pad: id that the other library pads texts with.
        config: the other library's own description, plain values from which it builds the same architecture again.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dim: int,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        pad: int = 0,
    ) -> None:
        """Hold the model and what belongs to it."""
        super().__init__()
        self.model = model
        self.dim = dim
        self.image_spec = image_spec
        self.tokenizer = tokenizer
        self.pad = pad
        self.config = dict(config)

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the logit scale, one element."""
        return self.model.get_parameter("logit_scale")

    @property
    def logit_bias(self) -> Tensor | None:
        """0-d offset of the logits, or None."""
        bias = dict(self.model.named_parameters(recurse=False)).get("logit_bias")
        return None if bias is None else bias.reshape(())

    @abc.abstractmethod
    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""

    @abc.abstractmethod
    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Token ids at the model's full context to embeddings, not normalised."""

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """0-d multiplier of cosines, with gradient."""
        return self.log_scale.exp().reshape(())

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the scale in [1, 100]."""
        self.log_scale.clamp_(0.0, math.log(100.0))

    def freeze_logit_scale_(self) -> None:
        """Keep the scale at its present value in training; call it before the optimiser is built."""
        self.log_scale.requires_grad_(False)

    def encode_image(self, image: Tensor, *, mask: Bool[Tensor, "b n"] | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats to pooled features."""
        if mask is not None:
            raise InputError(f"mask: a wrapped {type(self.model).__name__} takes none; expected None")
        return Features(self.image_features(self.pixels(image)))

    def pixels(self, image: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Images as the other library's tower takes them, normalised."""
        expected = (3, *self.image_spec.size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise InputError(f"image: expected (b, {', '.join(map(str, expected))}), got {tuple(image.shape)}")
        return self.image_spec.normalise(image, dtype=self.log_scale.dtype)

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Bool[Tensor, "b l"] | None = None) -> Features:
        """(b, l) token ids, as the tokenizer gives them, to pooled features."""
        if mask is not None:
            raise InputError(f"mask: a wrapped {type(self.model).__name__} takes none; expected None")
        context = self.tokenizer.context_length
        if text.ndim != 2 or text.dtype != torch.int64 or not 0 < text.shape[1] <= context:
            raise InputError(f"text: expected int64 (b, 1..{context}), got {text.dtype} {tuple(text.shape)}")
        return Features(self.text_features(_widen(text, context, pad=self.pad)))

    def forward(self, image: Tensor, text: Tensor) -> Encoded:
        """Both sides of a batch of pairs, as an objective takes them."""
        return Encoded(self.encode_image(image), self.encode_text(text), self.logit_scale, self.logit_bias)


def _widen(text: Tensor, width: int, *, pad: int) -> Tensor:
    """(b, l) with zeros as padding to (b, width) with ``pad``."""
    wide = text.new_full((len(text), width), pad)
    real = torch.arange(text.shape[1], device=text.device) < lengths(text)[:, None]
    wide[:, : text.shape[1]] = text.where(real, pad)
    return wide


class OpenClipEncoder(WrappedEncoder):
    """Any open_clip model; ``config`` is its ``model_cfg``."""

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return cast(Any, self.model).encode_image(image, False)

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Token ids to embeddings, not normalised."""
        return cast(Any, self.model).encode_text(text, False)


class SiglipEncoder(WrappedEncoder):
    """transformers' SiglipModel; ``config`` is the contents of its ``config.json``."""

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return self.model.get_submodule("vision_model")(pixel_values=image).pooler_output

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Token ids to embeddings, not normalised."""
        return self.model.get_submodule("text_model")(input_ids=text).pooler_output


def check_forward(encoder: WrappedEncoder) -> None:
    """Run a model of the meta device once, which computes shapes alone."""
    context, vocabulary = encoder.tokenizer.context_length, encoder.tokenizer.vocab_size
    if not 0 <= encoder.pad < vocabulary:
        raise InputError(f"pad: expected an id below the vocabulary of {vocabulary}, got {encoder.pad}")
    sides = {
        "image": lambda: encoder.image_features(torch.empty(1, 3, *encoder.image_spec.size)),
        "text": lambda: encoder.text_features(torch.zeros(1, context, dtype=torch.int64)),
    }
    encoder.eval()
    for side, run in sides.items():
        try:
            with torch.no_grad(), torch.device("meta"):
                got = run()
        except RuntimeError as error:
            if "item() cannot be called on meta tensors" in str(error):
                continue  # a text tower of transformers that looks at its mask; its shapes are known by its names
            raise
        if not isinstance(got, Tensor) or tuple(got.shape) != (1, encoder.dim):
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise InputError(f"its {side} tower gives {shape}, expected (1, {encoder.dim})")
