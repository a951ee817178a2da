"""An image tower behind a decoder of regions: the decoder's row for the whole image is its embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.types import Grounding
from tether.models.composed.encoder import ComposedEncoder
from tether.models.config_check import MAX_LAYERS, MAX_SIZE, mapping, size_of
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import tower_of
from tether.models.heads.grounding_decoder import GroundingDecoder
from tether.models.heads.read_tower import ReadTower, with_reader
from tether.models.towers.clip import Clip


class GroundedImages(ReadTower):
    """An image tower whose tokens a ``GroundingDecoder`` reads.

    Attributes:
        decoder: reads them.
    """

    library, part, own_rows = "grounded", "decoder", True
    decoder: GroundingDecoder

    def ground(self, image: Float[Tensor, "b 3 h w"]) -> Grounding:
        """All that the decoder finds in normalised images."""
        return self.decoder(self.states(image))

    @property
    def reader(self) -> Callable[[Tensor], Tensor]:
        """The decoder's row for the whole image."""
        return lambda tokens: self.decoder(tokens).image

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Its rows for whole images."""
        return self.ground(image).image


def check_groundable(model: Clip | WrappedEncoder) -> None:
    """Refuse a model that cannot be put behind a decoder.

    Raises:
        UnsupportedModelError: a tower that shows no tokens, with a reason of ``models.refusals``.
        InputError: another geometry than the cosine, towers that share their blocks, or one that has a decoder already.
    """
    if geometry_of(model).name != "clip":
        raise InputError(f"expected a model that compares by cosine, its geometry is {geometry_of(model).name!r}")
    if isinstance(model, Clip) and model.config.towers == "shared":
        raise InputError("its two towers share their blocks; expected a model with a tower for each side")
    if isinstance(model, ComposedEncoder) and isinstance(model.parts.image, GroundedImages):
        raise InputError("its image tower has a decoder of regions already; expected a model without one")
    tower_of(model)


def grounded(model: Clip | WrappedEncoder, decoder: GroundingDecoder) -> ComposedEncoder:
    """An encoder that embeds images by a decoder's row for the whole (GRAIN, arXiv 2412.04429), and texts as before.

    It is saved and loaded like any other. The model stays as it is; of a composed one the map of images falls away.

    Args:
        model: any encoder of ``tether.load`` with a tower for each side, which compares by cosine.
        decoder: trained beside it; it is copied.

    Raises:
        InputError: see ``check_groundable``, or a decoder of other widths.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.heads.grounded import ground, grounded
        >>> from tether.models.heads.grounding_decoder import GroundingDecoder
        >>> model = create("tiny")
        >>> made = grounded(model, GroundingDecoder(model.dim, state=64, layers=2, width=64)).eval()
        >>> image = torch.rand(2, 3, 32, 32)
        >>> torch.equal(made.encode_image(image).pooled, ground(made, image).image)
        True
    """
    check_groundable(model)
    return with_reader(model, GroundedImages, decoder)


class GroundingHead(GroundingDecoder):
    """The decoder as a head of a training step, which may stay in the model (``saved="kept"``)."""

    def check_kept(self, model: Clip | WrappedEncoder) -> None:
        """Refuse a model that cannot keep it; see ``check_groundable``."""
        check_groundable(model)

    def kept_in(self, model: Clip | WrappedEncoder) -> ComposedEncoder:
        """The model with it; see ``grounded``."""
        return grounded(model, self)


def ground(model: object, image: Tensor) -> Grounding:
    """Rows of images and of their regions, and where these are.

    Args:
        model: a ``grounded`` encoder.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.

    Raises:
        InputError: a model without such a decoder.
    """
    if not isinstance(model, ComposedEncoder) or not isinstance(model.parts.image, GroundedImages):
        raise InputError(
            f"expected a model with a decoder of regions, as `tether train --recipe grounded` saves it, got a "
            f"{type(model).__name__} without one"
        )
    return model.parts.image.ground(model.pixels(image))


def build_decoder(settings: Any) -> GroundingDecoder:
    """The decoder that the values of a ``model.json`` describe."""
    values: Mapping[str, Any] = mapping(settings, where="image: decoder")
    for key in ("dim", "queries", "layers", "heads", "state", "width", "inner"):
        size_of(values.get(key), where=f"image: decoder: {key}", most=MAX_LAYERS if key == "layers" else MAX_SIZE)
    return GroundingDecoder(**values)
