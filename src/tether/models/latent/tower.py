"""The image tower on latents: our vision transformer with another stem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import GeometryName
from tether.models.latent.codec import ScaledCodec
from tether.models.latent.codecs import build_codec
from tether.models.latent.config import LatentConfig
from tether.models.towers.blocks.layers import Linear
from tether.models.towers.frozen_copy import buffer_copy
from tether.models.towers.vision.tower import VisionTower, cut_patches

Encode = Callable[[Tensor], Tensor]


class LatentTower(VisionTower):
    """A vision transformer on the latents of an auto-encoder (Latent-CLIP, arXiv 2503.08455).

    It takes latents (b, c, h / d, w / d), floats that are scaled as its ``config.latent`` says, and pixels like any
    other tower, which its codec makes latents of. The codec rests: its weights are buffers, saved with the model.

    Its first latents in training, and all outside of it, are held to the scale that its codec's have. The paper's stem
    is a convolution of 8 or fewer places of a latent; here it is a matrix on patches, which is the same.

    Attributes:
        codec: makes latents of pixels; None where the tower takes latents alone.
        kept: called as ``kept(pixels, encode)`` instead of encoding uint8 pixels, where a run keeps latents; or None.
        config: as every tower's.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> model = create("tiny", vision={"tower": "latent", "codec": {"name": "conv"}}).eval()
        >>> pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> latents = model.visual.codec.encode(pixels)
        >>> latents.shape, torch.equal(model.encode_image(latents).pooled, model.encode_image(pixels).pooled)
        (torch.Size([2, 4, 4, 4]), True)
    """

    config: LatentConfig  # pyrefly: ignore[bad-override-mutable-attribute] - the frozen one that it was built of

    def __init__(self, config: LatentConfig, *, dim: int, geometry: GeometryName = "clip") -> None:
        """Build the layers; weights stay unset until ``initialise_`` or ``load_state_dict``.

        Raises:
            InputError: a codec whose latents are other than the configuration says; it names both.
        """
        super().__init__(config, dim=dim, geometry=geometry)
        self.patch = Linear(config.latent.channels * self.side**2, config.width, bias=False)
        self.codec: ScaledCodec | None = None
        self.kept: Callable[[Tensor, Encode], Tensor] | None = None
        self._looked = False
        if config.codec is not None:
            self.codec = buffer_copy(build_codec(config.codec, where="codec"))
            config.latent.agree(self.codec.latent, where="codec")

    @property
    def takes_images(self) -> bool:
        """See ``VisionTower``: pixels need a codec."""
        return self.codec is not None

    @property
    def side(self) -> int:
        """Side of a patch in places of a latent."""
        return self.config.patch // self.config.latent.downsampling

    def behaviour(self) -> dict[str, Any]:
        """What decides the outputs beside the weights."""
        return {"latent": asdict(self.config.latent)}

    def latents(self, image: Tensor) -> Float[Tensor, "b c i j"]:
        """Latents as they are, and those of pixels.

        Args:
            image: see the class.

        Raises:
            InputError: another shape, latents of another scale, or pixels without a codec.
        """
        known, size = (3, *self.config.image.size), self.config.latent_size
        of_latents = (self.config.latent.channels, *size)
        if image.ndim == 4 and tuple(image.shape[1:]) == of_latents and image.is_floating_point():
            self._check(image)
            return image
        if image.ndim != 4 or tuple(image.shape[1:]) != known:
            shapes = [f"(b, {', '.join(map(str, shape))})" for shape in (known, of_latents)]
            raise InputError(
                f"image: expected {shapes[0]} pixels or {shapes[1]} latents, got {tuple(image.shape)} of "
                f"{image.dtype}; for another size take model.resized(image_size=...)"
            )
        if self.codec is None:
            raise InputError("image: the model has no codec and takes latents alone; give it one (hold_codec_)")
        if self.kept is not None and image.dtype == torch.uint8:
            return self.kept(image, self.codec.encode)
        return self.codec.encode(image)

    def _check(self, latents: Tensor) -> None:
        if torch.compiler.is_compiling() or latents.requires_grad or (self.training and self._looked):
            return  # a look at the numbers waits for the device, and those of an optimisation may go where they like
        self.config.latent.check(latents)
        self._looked = self.training

    def patches(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n c"]:
        """Patches of latents as rows (channel, row, column), of which only those in ``keep`` are made."""
        cut = cut_patches(self.latents(image), side=self.side, grid=self.config.grid, keep=keep)
        return cut.to(self.patch.weight.dtype).flatten(2)


def tower_on_latents(model: torch.nn.Module) -> LatentTower:
    """The image tower of a model that reads latents.

    Raises:
        InputError: a model that reads pixels alone.
    """
    tower = getattr(model, "visual", None)
    if not isinstance(tower, LatentTower):
        raise InputError(f"expected a model whose image tower reads latents, got {type(model).__name__} on pixels")
    return tower
