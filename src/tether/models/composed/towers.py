"""The two halves of a composed encoder: any module that gives one row for an image, or for a text."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.core.types import ImageSpec
from tether.models.tokenizer import lengths

Side = Literal["image", "text"]
Training = Literal["locked", "tuned"]


class TowerSide(nn.Module, abc.ABC):
    """A module of any library with what belongs to it; a locked one has no gradients and stays in eval mode.

    Attributes:
        inner: the library's module.
        width: length of a row of its output.
        settings: plain values from which the same architecture is built again.
        locked: whether it rests while the model is trained, so that its output can be cached.
    """

    def __init__(self, inner: nn.Module, *, width: int, settings: Mapping[str, Any]) -> None:
        """Hold the module, to be tuned until ``lock_`` says otherwise."""
        super().__init__()
        self.inner, self.width, self.settings, self.locked = inner, width, dict(settings), False

    def behaviour(self) -> dict[str, Any]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return self.settings

    def lock_(self, training: Training) -> None:
        """Let it rest or learn."""
        self.locked = training == "locked"
        if self.locked:
            self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TowerSide:
        """As any module's, but a locked tower stays in eval mode."""
        return super().train(mode and not self.locked)


class ImageSide(TowerSide):
    """Normalised pixels to rows.

    Attributes:
        image_spec: how its images must be prepared.
    """

    def __init__(self, inner: nn.Module, *, width: int, image_spec: ImageSpec, settings: Mapping[str, Any]) -> None:
        """Hold the module."""
        super().__init__(inner, width=width, settings=settings)
        self.image_spec = image_spec

    @abc.abstractmethod
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """One row for each image, not normalised."""


class TextSide(TowerSide):
    """Token ids to rows.

    Attributes:
        tokenizer: text to ids.
    """

    def __init__(self, inner: nn.Module, *, width: int, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
        """Hold the module."""
        super().__init__(inner, width=width, settings=settings)
        self.tokenizer = tokenizer

    @abc.abstractmethod
    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """One row for each text, not normalised; ids are zero after the end token."""


class TimmImages(ImageSide):
    """A timm network without its classifier: what the classifier would read."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Pooled features."""
        return self.inner(image)


class TransformersImages(ImageSide):
    """A vision model of transformers, read out as ``settings['output']`` says."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Pooled features."""
        out, output = self.inner(pixel_values=image), self.settings["output"]
        found = out.get("pooler_output") if output == "pooler" else out.last_hidden_state
        if found is None or (output != "pooler" and found.ndim != 3):
            kind = type(self.inner).__name__
            other = "cls or mean" if found is None else "pooler"
            raise InputError(f"output: a {kind} gives no {output!r}; expected {other}")
        if output == "pooler":
            return found.flatten(1)
        return found[:, 0] if output == "cls" else found.mean(1)


class TransformersTexts(TextSide):
    """A text model of transformers, read out as ``settings['output']`` says."""

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """Pooled features; words are those before a row's zeros."""
        return self.pool(*self.states(text))

    def states(self, text: Int[Tensor, "b l"]) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"]]:
        """The last states of every token, and True for what is no padding."""
        length, place = lengths(text), torch.arange(text.shape[1], device=text.device)
        mask = place < length[:, None]
        ids = text.where(mask, self.settings["pad"])
        return self.inner(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask

    def pool(self, states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """One row for each text from what ``states`` gave."""
        return self.finish(POOLINGS[self.settings["output"]](states, mask))

    def finish(self, rows: Float[Tensor, "... w"]) -> Float[Tensor, "... w"]:
        """What is done to a pooled row."""
        return nn.functional.normalize(rows, dim=-1) if self.settings["normalised"] else rows


def _mean(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _last(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def _max(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return states.masked_fill(~mask[:, :, None], torch.finfo(states.dtype).min).amax(1)


POOLINGS = {"mean": _mean, "cls": lambda states, mask: states[:, 0], "lasttoken": _last, "max": _max}
"""Poolings of a text's token states by sentence-transformers' names."""


class DualImages(ImageSide):
    """The image side of an encoder that ``tether.load`` gives."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Its embeddings."""
        return cast(Any, self.inner).encode_image(image).pooled


class DualTexts(TextSide):
    """The text side of an encoder that ``tether.load`` gives."""

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """Its embeddings."""
        return cast(Any, self.inner).encode_text(text).pooled
