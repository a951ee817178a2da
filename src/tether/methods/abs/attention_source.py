"""Where a vision transformer looks in whole images: the encoder's own tower, another from a folder, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.data.images import resize_and_crop
from tether.models.compose import open_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.features.attention_maps import attention_maps
from tether.models.features.find import anatomy_of
from tether.models.towers.sizes import Sizes

UNIFORM = (14, 14)


class AttentionSource(Protocol):
    """What says where to look."""

    def __call__(self, images: Sequence[UInt8[Tensor, "3 h w"]], /) -> Float[Tensor, "b r c"]:
        """How much each of r x c parts of each whole image is looked at."""
        ...


class UniformAttention:
    """Everywhere alike: crops then lie anywhere, if all patches may be drawn."""

    def __call__(self, images: Sequence[UInt8[Tensor, "3 h w"]], /) -> Float[Tensor, "b r c"]:
        """The same for each part."""
        return torch.full((len(images), *UNIFORM), 1 / (UNIFORM[0] * UNIFORM[1]))


class TowerAttention:
    """What the token that a tower reads attends to in one block, the mean over its heads.

    Images are resized directly to the model's size, so that all of each is seen.
    """

    def __init__(self, model: DualEncoder, *, layer: int = -1, batch_size: int = 64) -> None:
        """Take a model.

        Args:
            model: any whose image tower is a plain transformer.
            layer: block, negative from the end.
            batch_size: images in one forward.

        Raises:
            UnsupportedModelError: another tower, with the reason.
            InputError: no such block, or the model is in training mode.
        """
        self._model, self._batch_size = model, batch_size
        self._tower = anatomy_of(model)
        self._layer = self._tower.place(layer)
        self._spec = replace(model.image_spec.fixed(), resize="squash", resized=None)
        self(torch.zeros(1, 3, *self._spec.size, dtype=torch.uint8))  # what it cannot take apart is refused here

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[Tensor, "3 h w"]] | Tensor, /) -> Float[Tensor, "b r c"]:
        """Attention to the patches."""
        found = []
        for start in range(0, len(images), self._batch_size):
            some = images[start : start + self._batch_size]
            pixels = torch.stack([resize_and_crop(image, self._spec) for image in some])
            pixels = pixels.to(self._model.logit_scale.device)
            heads = attention_maps(self._model, pixels, layers=[self._layer])[:, 0]
            patches = heads.float().mean(1)[:, self._tower.prefix :]
            found.append(patches.unflatten(1, self._tower.grid(pixels)).cpu())
        return torch.cat(found)


def open_attention(given: Any, *, model: DualEncoder, layer: int, batch_size: int) -> AttentionSource:
    """The source of a name, of a tower's folder, or the callable itself.

    Raises:
        InputError: no such name or folder.
        UnsupportedModelError: a tower that is no plain transformer, with the reason.
    """
    if callable(given):
        return given
    if given == "uniform":
        return UniformAttention()
    looking = model if given == "own" else lone_images(str(given), beside=model)
    return TowerAttention(looking, layer=layer, batch_size=batch_size)


class _NoTexts(TextSide):
    """No text tower at all."""

    @property
    def text_rows(self) -> int:
        """None."""
        return 0

    def at_sizes(self, sizes: Sizes) -> _NoTexts:
        """Itself."""
        return self

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """Raises."""
        raise InputError("this encoder looks at images alone")


def lone_images(name: str, *, beside: DualEncoder) -> ComposedEncoder:
    """An image tower without texts, as an encoder to look into.

    Args:
        name: what ``models.compose`` takes for an image tower.
        beside: the model whose device it gets.
    """
    try:
        eyes = cast(ImageSide, open_tower(name, "image"))
    except InputError as error:
        raise InputError(f"attention: expected own, uniform or an image tower: {error}") from error
    words = _NoTexts(nn.Identity(), width=1, tokenizer=beside.tokenizer, settings={})
    maps = [{"kind": "linear", "width": side.width, "dim": 1} for side in (eyes, words)]
    found = ComposedEncoder(eyes, words, image_map=maps[0], text_map=maps[1])
    return found.to(beside.logit_scale.device).eval()
