"""One side of an encoder that ``tether.load`` gives, as a tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.models.composed.describe import describe
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.config_check import mapping
from tether.models.convert.saved_files import FORMAT
from tether.models.convert.tokenizer_files import saved_tokenizer
from tether.models.encoders.load_wrapped import builder
from tether.models.encoders.tower_parts import Side, owners
from tether.models.encoders.wrapped import WrappedEncoder, check_pad
from tether.models.towers.clip import Clip
from tether.models.towers.sizes import Sizes
from tether.models.towers.vision.eva_config import saved_config
from tether.models.towers.vision.stems import add_described_


class DualImages(ImageSide):
    """The image side of an encoder that ``tether.load`` gives."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Its embeddings."""
        return cast(Any, self.inner).encode_image(image).pooled

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for a tower without patches of one size."""
        return cast(Any, self.inner).patch_side

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that it has positions for."""
        return cast(Any, self.inner).table_size

    @property
    def stride(self) -> int | None:
        """Pixels from one position to the next; None for a tower without positions."""
        return cast(Any, self.inner).stride

    def at_sizes(self, sizes: Sizes) -> DualImages:
        """See ``TowerSide``."""
        inner = cast(Any, self.inner)
        sizes = replace(sizes, context=inner.tokenizer.context_length, line=None)
        return cast(DualImages, dual_tower(inner.at_sizes(sizes), "image"))


class DualTexts(TextSide):
    """The text side of an encoder that ``tether.load`` gives."""

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """Its embeddings."""
        return cast(Any, self.inner).encode_text(text).pooled

    @property
    def text_rows(self) -> int:
        """Tokens that the tower has positions for."""
        return cast(Any, self.inner).text_rows

    def at_sizes(self, sizes: Sizes) -> DualTexts:
        """See ``TowerSide``."""
        inner = cast(Any, self.inner)
        sizes = replace(sizes, image=inner.image_spec, patch=None, grid=None)
        return cast(DualTexts, dual_tower(inner.at_sizes(sizes), "text"))


def dual_tower(model: Clip | WrappedEncoder, side: Side) -> ImageSide | TextSide:
    """The tower of one side; of a composed encoder the tower that it is made of, without its map."""
    if isinstance(model, ComposedEncoder):
        return model.parts.image if side == "image" else model.parts.text
    return _around(model, side, {"library": "dual", "model": describe(model)})


def build_dual(settings: Mapping[str, Any], side: Side, *, path: Path, tokenizer: str) -> ImageSide | TextSide:
    """The tower that ``settings`` describe, with unset weights.

    Args:
        settings: of a tower of ``dual_tower``.
        side: that it is of.
        path: the ``model.json``; the tokenizer's files lie beside it.
        tokenizer: the kind of the composed model's tokenizer.
    """
    values: dict[str, Any] = {
        **mapping(settings.get("model"), where=f"{side}: model"),
        "tokenizer": tokenizer if side == "text" else "none",
    }
    if values.get("format") == FORMAT:
        config = saved_config(values["model"], where="model")
        words = saved_tokenizer(
            values["tokenizer"], path=path, context=config.text.context, vocabulary=config.text.vocabulary
        )
        clip = Clip(config, tokenizer=words)
        add_described_(clip, values)
        return _around(clip, side, settings)
    model = builder(values, path)()
    check_pad(model)
    return _around(model, side, settings)


def _around(model: Clip | WrappedEncoder, side: Side, settings: Mapping[str, Any]) -> ImageSide | TextSide:
    """Drop what the other side alone needs, so that it is neither saved nor trained."""
    if isinstance(model, Clip) and model.config.towers == "shared":
        raise InputError("its two towers share their blocks; expected a model with a tower for each side")
    holder, owner = owners(model)
    for name in owner:
        if owner[name] not in (side, "both"):
            setattr(holder, name, None)
    for name, parameter in holder.named_parameters(recurse=False):
        parameter.requires_grad_(owner[name] == side and parameter.requires_grad)
    if side == "image":
        return DualImages(model, width=model.dim, image_spec=model.image_spec, settings=settings)
    return DualTexts(model, width=model.dim, tokenizer=model.tokenizer, settings=settings)
