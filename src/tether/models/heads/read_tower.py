"""An image tower and a module beside it that reads its tokens, as one side of an encoder."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import image_side_of
from tether.models.features.penultimate import read_each
from tether.models.towers.clip import Clip
from tether.models.towers.sizes import Sizes


class ReadTower(ImageSide):
    """A tower and what reads its tokens.

    Attributes:
        library: kind of this tower in ``model.json``.
        part: attribute that holds the module which reads; its ``settings`` say ``dim`` and ``state``, the lengths of
            the rows that it gives and reads.
        own_rows: whether that module gives the rows of images, too; they are the tower's otherwise.
    """

    library: ClassVar[str]
    part: ClassVar[str]
    own_rows: ClassVar[bool]

    def __init__(self, tower: ImageSide, reads: Any) -> None:
        """Args: tower: of images. reads: the module that reads its tokens."""
        settings = {"library": self.library, "tower": tower.settings, self.part: reads.settings}
        width = reads.settings["dim"] if self.own_rows else tower.width
        super().__init__(tower, width=width, image_spec=tower.image_spec, settings=settings)
        setattr(self, self.part, reads)

    @property
    def tower(self) -> ImageSide:
        """The tower inside."""
        return cast(ImageSide, self.inner)

    @property
    def unchanged(self) -> ImageSide | None:
        """The tower inside, unless the rows of images are the module's."""
        return None if self.own_rows else self.tower

    def check(self) -> None:
        """Refuse a module that does not read this tower's tokens.

        Raises:
            InputError: it reads rows of another width.
        """
        width, state = image_side_of(self.tower).width, self.settings[self.part]["state"]
        if width != state:
            raise InputError(f"{self.part}: expected one that reads rows of {width}, the tower's, it reads {state}")

    def states(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n w"]:
        """All tokens of normalised images."""
        anatomy = image_side_of(self.tower)
        return read_each(anatomy, anatomy.run(anatomy.embed(image)))

    @property
    def patch_side(self) -> int | None:
        """The tower's."""
        return self.tower.patch_side

    @property
    def stride(self) -> int | None:
        """The tower's."""
        return self.tower.stride

    @property
    def table_size(self) -> tuple[int, int]:
        """The tower's."""
        return self.tower.table_size

    def at_sizes(self, sizes: Sizes) -> Self:
        """See ``TowerSide``; what reads takes any number of tokens."""
        return type(self)(self.tower.at_sizes(sizes), copy.deepcopy(getattr(self, self.part)))


def read_by(model: Clip | WrappedEncoder, kind: type[ReadTower], reads: nn.Module) -> ComposedEncoder:
    """A copy of an encoder whose image tower has a copy of a module beside it that reads its tokens.

    Args:
        model: any encoder with a tower for each side.
        kind: of tower.
        reads: the module.

    Raises:
        InputError: the module gives or reads rows of other widths than the model's.
    """
    image = kind(cast(ImageSide, dual_tower(copy.deepcopy(model), "image")), copy.deepcopy(reads))
    if (dim := image.settings[image.part]["dim"]) != model.dim:
        raise InputError(f"{image.part}: expected one that gives {model.dim} values, it gives {dim}")
    image.check()
    text = cast(TextSide, dual_tower(copy.deepcopy(model), "text"))
    own = model if isinstance(model, ComposedEncoder) else None
    sides = ("text",) if image.own_rows else ("image", "text")  # other rows have no use for the map of the old ones
    maps = {"image": {"kind": "none", "width": image.width, "dim": model.dim}}
    maps["text"] = {**maps["image"], "width": text.width}
    kept = {side: own.config[f"{side}_map"] for side in sides} if own else {}
    made = ComposedEncoder(image, text, **{f"{side}_map": kept.get(side, plain) for side, plain in maps.items()})
    for side in kept:
        old = getattr(model.parts, f"{side}_map")
        getattr(made.parts, f"{side}_map").load_state_dict(old.state_dict())
    with torch.no_grad():
        made.parts.logit_scale.copy_(model.logit_scale.log())
    return made.to(model.logit_scale.device).train(cast(nn.Module, model).training)
