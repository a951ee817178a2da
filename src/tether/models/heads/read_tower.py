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
    """An image tower with a reader, a module that reads its tokens.

    Attributes:
        library: kind of this tower in ``model.json``.
        part: name of the attribute that holds the reader. The reader's ``settings`` have the lengths of the rows that
            it gives (``dim``) and reads (``state``).
        own_rows: whether the rows of images come from the reader; else they come from the tower.
    """

    library: ClassVar[str]
    part: ClassVar[str]
    own_rows: ClassVar[bool]

    def __init__(self, tower: ImageSide, reader: Any) -> None:
        """Args: tower: image tower. reader: module that reads its tokens."""
        settings = {"library": self.library, "tower": tower.settings, self.part: reader.settings}
        width = reader.settings["dim"] if self.own_rows else tower.width
        super().__init__(tower, width=width, image_spec=tower.image_spec, settings=settings)
        setattr(self, self.part, reader)

    @property
    def tower(self) -> ImageSide:
        """The tower inside."""
        return cast(ImageSide, self.inner)

    @property
    def unchanged(self) -> ImageSide | None:
        """The tower inside, unless the rows of images come from the reader."""
        return None if self.own_rows else self.tower

    def check(self) -> None:
        """Refuse a reader that does not read this tower's tokens.

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
        """See ``TowerSide``; the reader takes any number of tokens."""
        return type(self)(self.tower.at_sizes(sizes), copy.deepcopy(getattr(self, self.part)))


def with_reader(model: Clip | WrappedEncoder, kind: type[ReadTower], reader: nn.Module) -> ComposedEncoder:
    """A copy of an encoder with a copy of a reader beside its image tower.

    Args:
        model: encoder with a tower for each side.
        kind: class of the new image tower.
        reader: module that reads the tower's tokens.

    Raises:
        InputError: the reader gives or reads rows of other widths than the model's.
    """
    image = kind(cast(ImageSide, dual_tower(copy.deepcopy(model), "image")), copy.deepcopy(reader))
    if (dim := image.settings[image.part]["dim"]) != model.dim:
        raise InputError(f"{image.part}: expected one that gives {model.dim} values, it gives {dim}")
    image.check()
    text = cast(TextSide, dual_tower(copy.deepcopy(model), "text"))
    maps = {
        "image_map": {"kind": "none", "width": image.width, "dim": model.dim},
        "text_map": {"kind": "none", "width": text.width, "dim": model.dim},
    }
    old_maps = {}
    if isinstance(model, ComposedEncoder):  # the map of images is of no use to rows of the reader's own
        old_maps = {name: model.config[name] for name in maps if not (image.own_rows and name == "image_map")}
    made = ComposedEncoder(image, text, **{**maps, **old_maps})
    for name in old_maps:
        getattr(made.parts, name).load_state_dict(getattr(model.parts, name).state_dict())
    with torch.no_grad():
        made.parts.logit_scale.copy_(model.logit_scale.log())
    return made.to(model.logit_scale.device).train(cast(nn.Module, model).training)
