"""An image tower and a text tower that never met, joined by maps into one space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.types import Features
from tether.models.composed.maps import build_map
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.sizes import Sizes

SCALE = math.log(1 / 0.07)


class Joined(nn.Module):
    """The towers, their maps and the scale."""

    def __init__(
        self, image: ImageSide, text: TextSide, *, image_map: Mapping[str, Any], text_map: Mapping[str, Any]
    ) -> None:
        """Build the maps from their settings."""
        super().__init__()
        self.image, self.text = image, text
        self.image_map, self.text_map = build_map(image_map), build_map(text_map)
        self.logit_scale = nn.Parameter(torch.tensor(SCALE))


class ComposedEncoder(WrappedEncoder):
    """A ``core.protocols.DualEncoder`` of two towers and two maps; ``config`` describes all four.

    Attributes:
        parts: holds ``image``, ``text``, ``image_map`` and ``text_map``, modules that may be used by themselves.
        templates: prompts of class names: the bare name, for a text tower that never met "a photo of a" (on 1,500
            images of CIFAR-10's training part ``starter`` names 54 % right with it, 51 % with that prompt).
    """

    sides: Mapping[str, Sequence[str]] = {
        "image": ("image", "image_map"),
        "text": ("text", "text_map"),
        "both": ("logit_scale",),
    }
    templates = ("{}",)

    def __init__(
        self, image: ImageSide, text: TextSide, *, image_map: Mapping[str, Any], text_map: Mapping[str, Any]
    ) -> None:
        """Args: image: tower. text: tower. image_map: settings of a map, see ``maps``. text_map: the same."""
        super().__init__(
            Joined(image, text, image_map=image_map, text_map=text_map),
            dim=image_map["dim"],
            image_spec=image.image_spec,
            tokenizer=text.tokenizer,
            config={"image_map": dict(image_map), "text_map": dict(text_map)},
        )
        if image_map["dim"] != text_map["dim"]:
            raise InputError(f"join: the image map gives {image_map['dim']} values, the text map {text_map['dim']}")

    @property
    def parts(self) -> Joined:
        """The towers and maps."""
        return cast(Joined, self.model)

    def before_maps(self) -> BeforeMaps:
        """What ``models.embed`` takes to embed with the towers alone, for rows that are kept while maps change."""
        return BeforeMaps(self)

    def describe(self) -> dict[str, Any]:
        """Plain values from which ``rebuild.rebuild`` makes the same architecture."""
        towers = {"image": self.parts.image, "text": self.parts.text}
        return {**self.behaviour(), "locked": [side for side, tower in towers.items() if tower.locked]}

    def behaviour(self) -> dict[str, Any]:
        """Settings of the towers and the maps."""
        return {"image": self.parts.image.settings, "text": self.parts.text.settings, **self.config}

    @property
    def patch_side(self) -> int | None:
        """Side of a patch of its image tower in pixels; None for one without patches of one size."""
        return self.parts.image.patch_side

    @property
    def stride(self) -> int | None:
        """Pixels from one position of its image tower to the next; None for one without positions."""
        return self.parts.image.stride

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that its image tower has positions for."""
        return self.parts.image.table_size

    @property
    def text_rows(self) -> int:
        """Tokens that its text tower has positions for."""
        return self.parts.text.text_rows

    def at_sizes(self, sizes: Sizes) -> ComposedEncoder:
        """See ``Resizes``."""
        image, text = self.parts.image.at_sizes(sizes), self.parts.text.at_sizes(sizes)
        made = ComposedEncoder(image, text, image_map=self.config["image_map"], text_map=self.config["text_map"])
        for old, new in ((self.parts.image, image), (self.parts.text, text)):
            new.lock_("locked" if old.locked else "tuned")
        return made

    def image_features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalised images to embeddings, not normalised."""
        return self.parts.image_map(self.parts.image(image))

    def text_features(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Token ids, zero after the end token, to embeddings, not normalised."""
        return self.parts.text_map(self.parts.text(text))


class BeforeMaps:
    """The towers of a composed encoder without their maps; the two sides have rows of different lengths.

    Attributes:
        dim: length of the rows where there are none.
        image_spec: how images must be prepared.
        tokenizer: text to ids.
    """

    def __init__(self, model: ComposedEncoder) -> None:
        """Look at a model, which stays as it is."""
        self.model, self.dim = model, 0
        self.image_spec, self.tokenizer = model.image_spec, model.tokenizer

    @property
    def logit_scale(self) -> Tensor:
        """The model's."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The model's."""
        return self.model.logit_bias

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pixels to the image tower's rows."""
        return Features(self.model.parts.image(self.model.pixels(image)))

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """Token ids to the text tower's rows."""
        return Features(self.model.parts.text(text))
