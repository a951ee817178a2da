"""What an image tower on latents is made of, beside the options of every block."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import Whole as Whole  # like the names below, in the options that VisionConfig has
from tether.core.ranges import checked
from tether.core.types import ImageSpec
from tether.models.latent.spec import LatentSpec
from tether.models.towers.blocks.block import BlockConfig as BlockConfig
from tether.models.towers.blocks.moe import MoeConfig as MoeConfig
from tether.models.towers.blocks.presets import BlockPreset as BlockPreset
from tether.models.towers.config import Layers as Layers
from tether.models.towers.config import Size as Size
from tether.models.towers.config import VisionConfig

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of images as codecs take them, -1 to 1."""


def for_codecs(image: ImageSpec) -> ImageSpec:
    """The same with images in -1 to 1."""
    return replace(image, mean=HALF, std=HALF)


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig(VisionConfig):
    """An image tower that reads the latents of a codec; its other options are those of ``VisionConfig``.

    Attributes:
        tower: says in a file or a recipe that the tower is of this kind.
        image: of the pixels behind the latents, normalised to -1 to 1.
        patch: side of a patch in pixels, a multiple of the down-sampling: 8 with a down-sampling of 8 is one place of a
            latent.
        latent: what the latents are like.
        codec: what makes them of pixels: settings of one of ``models.latent.codecs.CODECS``; None takes latents alone.
    """

    made_by: ClassVar[str] = "tether.models.latent.tower:LatentTower"
    reads: ClassVar[str] = "latents"
    image: ImageSpec = field(default_factory=lambda: for_codecs(ImageSpec(size=(64, 64))))
    tower: Literal["latent"] = "latent"
    latent: LatentSpec = field(default_factory=LatentSpec)
    codec: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse sizes and options that do not fit each other."""
        object.__setattr__(self, "latent", LatentSpec.read(self.latent, where="latent"))
        if self.codec is not None:
            if not isinstance(self.codec, dict):
                raise InputError(f"codec: expected a mapping with a name, got {quoted(self.codec)}")
            try:  # as a file has it, so that a model is the same before it is saved and after
                object.__setattr__(self, "codec", json.loads(json.dumps(self.codec)))
            except TypeError as error:
                raise InputError(f"codec: expected plain values: {error}") from error
        if self.patch % self.latent.downsampling:
            raise InputError(f"patch: expected a multiple of downsampling={self.latent.downsampling}, got {self.patch}")
        if (self.image.mean, self.image.std) != (HALF, HALF):
            raise InputError(f"image: a codec takes -1 to 1; expected mean and std {HALF}, got {self.image}")
        VisionConfig.__post_init__(self)

    @classmethod
    def prepared(cls, image: ImageSpec) -> ImageSpec:
        """See ``VisionConfig``."""
        return for_codecs(image)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Rows and columns of a latent."""
        return self.latent.size(self.image.size)
