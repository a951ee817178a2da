"""An image tower behind a decoder of regions: the decoder's row for the whole image is its embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.types import Grounding
from tether.models.anatomy.find import image_side_of, tower_of
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.described import MAX_LAYERS, MAX_SIZE, mapping, of_kind
from tether.models.dual import Clip
from tether.models.grounding_decoder import GroundingDecoder
from tether.models.sizes import Sizes
from tether.models.tower_state import read_each
from tether.models.wrapped_encoders import WrappedEncoder

LIBRARY = "grounded"


class GroundedImages(ImageSide):
    """An image tower whose tokens a ``GroundingDecoder`` reads.

    Attributes:
        decoder: reads them.
    """

    def __init__(self, tower: ImageSide, decoder: GroundingDecoder) -> None:
        """Args: tower: of images. decoder: of its tokens."""
        settings = {"library": LIBRARY, "tower": tower.settings, "decoder": decoder.settings}
        width = decoder.settings["dim"]
        super().__init__(tower, width=width, image_spec=tower.image_spec, settings=settings)
        self.decoder = decoder

    @property
    def tower(self) -> ImageSide:
        """The tower inside."""
        return cast(ImageSide, self.inner)

    def check(self) -> None:
        """Refuse a decoder that does not read this tower's tokens.

        Raises:
            InputError: it reads rows of another width.
        """
        width, state = image_side_of(self.tower).width, self.decoder.settings["state"]
        if width != state:
            raise InputError(f"decoder: expected one that reads rows of {width}, the tower's, it reads {state}")

    def ground(self, image: Float[Tensor, "b 3 h w"]) -> Grounding:
        """All that the decoder finds in normalised images."""
        anatomy = image_side_of(self.tower)
        return self.decoder(read_each(anatomy, anatomy.run(anatomy.embed(image))))

    @property
    def reader(self) -> Callable[[Tensor], Tensor]:
        """The decoder's row for the whole image."""
        return lambda tokens: self.decoder(tokens).image

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Its rows for whole images."""
        return self.ground(image).image

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

    def at_sizes(self, sizes: Sizes) -> GroundedImages:
        """See ``TowerSide``; the decoder reads any number of tokens."""
        return GroundedImages(self.tower.at_sizes(sizes), copy.deepcopy(self.decoder))


def check_groundable(model: Clip | WrappedEncoder) -> None:
    """Refuse a model that cannot be put behind a decoder.

    Raises:
        UnsupportedModelError: a tower that shows no tokens, with a reason of ``anatomy.exceptions``.
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
        >>> from tether.models.composed.grounded import ground, grounded
        >>> from tether.models.grounding_decoder import GroundingDecoder
        >>> model = create("tiny")
        >>> made = grounded(model, GroundingDecoder(model.dim, state=64, layers=2, width=64)).eval()
        >>> image = torch.rand(2, 3, 32, 32)
        >>> torch.equal(made.encode_image(image).pooled, ground(made, image).image)
        True
    """
    check_groundable(model)
    if decoder.settings["dim"] != model.dim:
        raise InputError(f"decoder: expected one that gives {model.dim} values, it gives {decoder.settings['dim']}")
    image = GroundedImages(cast(ImageSide, dual_tower(copy.deepcopy(model), "image")), copy.deepcopy(decoder))
    image.check()
    text = cast(TextSide, dual_tower(copy.deepcopy(model), "text"))
    own = model.config["text_map"] if isinstance(model, ComposedEncoder) else {"kind": "none"}
    made = ComposedEncoder(
        image,
        text,
        image_map={"kind": "none", "width": model.dim, "dim": model.dim},
        text_map={"width": text.width, "dim": model.dim, **own},
    )
    if isinstance(model, ComposedEncoder):
        made.parts.text_map.load_state_dict(model.parts.text_map.state_dict())
    with torch.no_grad():
        made.parts.logit_scale.copy_(model.logit_scale.log())
    return made.to(model.logit_scale.device).train(cast(nn.Module, model).training)


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
        value = of_kind(values.get(key), int, where=f"image: decoder: {key}")
        most = MAX_LAYERS if key == "layers" else MAX_SIZE
        if not 1 <= value <= most:
            raise InputError(f"image: decoder: {key}: expected 1 to {most:,}, got {value:,}")
    return GroundingDecoder(**values)
