"""An encoder with a prompter beside its image tower: embeddings of images as before, and of places in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.anatomy.find import image_side_of
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.grounded import GroundedImages, check_groundable
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.described import MAX_SIZE, mapping, of_kind
from tether.models.dual import Clip
from tether.models.prompter import Prompter
from tether.models.sizes import Sizes
from tether.models.tower_state import read_each
from tether.models.wrapped_encoders import WrappedEncoder

LIBRARY = "prompted"
MAX_RATIO = 64
"""Of a prompter's feed-forward net in a file."""


class PromptedImages(ImageSide):
    """An image tower, and a ``Prompter`` that reads its tokens when it is asked.

    Attributes:
        prompter: reads them.
    """

    def __init__(self, tower: ImageSide, prompter: Prompter) -> None:
        """Args: tower: of images. prompter: of its tokens."""
        settings = {"library": LIBRARY, "tower": tower.settings, "prompter": prompter.settings}
        super().__init__(tower, width=tower.width, image_spec=tower.image_spec, settings=settings)
        self.prompter = prompter

    @property
    def tower(self) -> ImageSide:
        """The tower inside."""
        return cast(ImageSide, self.inner)

    @property
    def unchanged(self) -> ImageSide | None:
        """The tower inside."""
        return self.tower

    def check(self) -> None:
        """Refuse a prompter that does not read this tower's tokens.

        Raises:
            InputError: it reads rows of another width.
        """
        width, state = image_side_of(self.tower).width, self.prompter.settings["state"]
        if width != state:
            raise InputError(f"prompter: expected one that reads rows of {width}, the tower's, it reads {state}")

    def states(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n w"]:
        """All tokens of normalised images."""
        anatomy = image_side_of(self.tower)
        return read_each(anatomy, anatomy.run(anatomy.embed(image)))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """The tower's rows."""
        return self.tower(image)

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

    def at_sizes(self, sizes: Sizes) -> PromptedImages:
        """See ``TowerSide``; the prompter reads any number of tokens."""
        return PromptedImages(self.tower.at_sizes(sizes), copy.deepcopy(self.prompter))


def prompted(model: Clip | WrappedEncoder, prompter: Prompter) -> ComposedEncoder:
    """The encoder with a prompter (CLOC, arXiv 2410.02746), saved and loaded like any other.

    Images and texts are embedded as before. The model stays as it is, and both are copied.

    Args:
        model: any encoder of ``tether.load`` with a tower for each side, which compares by cosine.
        prompter: trained beside it.

    Raises:
        InputError: a prompter of other widths, or a model that has a decoder or a prompter already.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.composed.prompted import locate, prompted, region_embeddings
        >>> from tether.models.prompter import Prompter
        >>> model = create("tiny").eval()
        >>> made, image = prompted(model, Prompter(model.dim, state=64)), torch.rand(1, 3, 32, 32)
        >>> region_embeddings(made, image, torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])).shape
        torch.Size([1, 1, 64])
        >>> locate(made, image, model.encode_text(model.tokenizer(["a star"])).pooled[None]).shape
        torch.Size([1, 1, 4])
    """
    if isinstance(model, ComposedEncoder) and isinstance(model.parts.image, (GroundedImages, PromptedImages)):
        raise InputError("expected a model without a decoder of regions or a prompter of its own")
    check_groundable(model)
    if prompter.settings["dim"] != model.dim:
        raise InputError(f"prompter: expected one that gives {model.dim} values, it gives {prompter.settings['dim']}")
    own = model if isinstance(model, ComposedEncoder) else None
    image = PromptedImages(cast(ImageSide, dual_tower(copy.deepcopy(model), "image")), copy.deepcopy(prompter))
    image.check()
    text = cast(TextSide, dual_tower(copy.deepcopy(model), "text"))
    plain = {"kind": "none", "dim": model.dim}
    made = ComposedEncoder(
        image,
        text,
        image_map=own.config["image_map"] if own else {**plain, "width": image.width},
        text_map=own.config["text_map"] if own else {**plain, "width": text.width},
    )
    if own is not None:
        made.parts.image_map.load_state_dict(own.parts.image_map.state_dict())
        made.parts.text_map.load_state_dict(own.parts.text_map.state_dict())
    with torch.no_grad():
        made.parts.logit_scale.copy_(model.logit_scale.log())
    return made.to(model.logit_scale.device).train(cast(nn.Module, model).training)


class PrompterHead(Prompter):
    """The prompter as a head of a training step, which may stay in the model (``saved="kept"``)."""

    def check_kept(self, model: Clip | WrappedEncoder) -> None:
        """Refuse a model that cannot keep it; see ``check_groundable``."""
        check_groundable(model)

    def kept_in(self, model: Clip | WrappedEncoder) -> ComposedEncoder:
        """The model with it; see ``prompted``."""
        return prompted(model, self)


def region_embeddings(
    model: object, image: Tensor, boxes: Float[Tensor, "b r 4"], *, valid: Bool[Tensor, "b r"] | None = None
) -> Float[Tensor, "b r d"]:
    """Unit embeddings of the places that boxes name, see ``Prompter.region``.

    Args:
        model: a ``prompted`` encoder.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        boxes: x0, y0, x1, y1 in shares of the image, 0 to 1.
        valid: which of the boxes are regions; None looks at every box.

    Raises:
        InputError: a model without a prompter, or boxes that are none.
    """
    side, encoder = _prompted(model)
    return side.prompter.region(side.states(encoder.pixels(image)), boxes, valid=valid)


def locate(model: object, image: Tensor, text: Float[Tensor, "b r d"]) -> Float[Tensor, "b r 4"]:
    """Where texts are: centre x, centre y, width and height in shares of the image, see ``Prompter.ground``.

    Args:
        model: a ``prompted`` encoder.
        image: see ``region_embeddings``.
        text: embeddings of r texts for each image.

    Raises:
        InputError: a model without a prompter.
    """
    side, encoder = _prompted(model)
    return side.prompter.ground(side.states(encoder.pixels(image)), text)


def _prompted(model: object) -> tuple[PromptedImages, ComposedEncoder]:
    if not isinstance(model, ComposedEncoder) or not isinstance(model.parts.image, PromptedImages):
        raise InputError(
            f"expected a model with a prompter, as `tether train --recipe regions` saves it, got a "
            f"{type(model).__name__} without one"
        )
    return model.parts.image, model


def build_prompter(settings: Any) -> Prompter:
    """The prompter that the values of a ``model.json`` describe."""
    values: Mapping[str, Any] = mapping(settings, where="image: prompter")
    for key in ("dim", "heads", "state", "fourier"):
        value = of_kind(values.get(key), int, where=f"image: prompter: {key}")
        if not 1 <= value <= MAX_SIZE:
            raise InputError(f"image: prompter: {key}: expected 1 to {MAX_SIZE:,}, got {value:,}")
    ratio = values.get("mlp_ratio")
    if not isinstance(ratio, (int, float)) or not 0 < ratio <= MAX_RATIO:
        raise InputError(f"image: prompter: mlp_ratio: expected a number up to {MAX_RATIO}, got {ratio!r:.80}")
    given: dict[str, Any] = {**values, "mlp_ratio": float(ratio)}
    return Prompter(**given)
