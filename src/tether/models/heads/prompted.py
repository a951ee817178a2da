"""An encoder with a prompter beside its image tower: embeddings of images as before, and of places in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.models.composed.encoder import ComposedEncoder
from tether.models.config_check import mapping, size_of
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.heads.grounded import check_groundable
from tether.models.heads.prompter import Prompter
from tether.models.heads.read_tower import ReadTower, with_reader
from tether.models.towers.clip import Clip

MAX_RATIO = 64
"""Of a prompter's feed-forward net in a file."""


class PromptedImages(ReadTower):
    """An image tower, and a ``Prompter`` that reads its tokens when it is asked.

    Attributes:
        prompter: reads them.
    """

    library, part, own_rows = "prompted", "prompter", False
    prompter: Prompter

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """The tower's rows."""
        return self.tower(image)


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
        >>> from tether.models.heads.prompted import locate, prompted, region_embeddings
        >>> from tether.models.heads.prompter import Prompter
        >>> model = create("tiny").eval()
        >>> made, image = prompted(model, Prompter(model.dim, state=64)), torch.rand(1, 3, 32, 32)
        >>> region_embeddings(made, image, torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])).shape
        torch.Size([1, 1, 64])
        >>> locate(made, image, model.encode_text(model.tokenizer(["a star"])).pooled[None]).shape
        torch.Size([1, 1, 4])
    """
    if isinstance(model, ComposedEncoder) and isinstance(model.parts.image, ReadTower):
        raise InputError("expected a model without a decoder of regions or a prompter of its own")
    check_groundable(model)
    return with_reader(model, PromptedImages, prompter)


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
        size_of(values.get(key), where=f"image: prompter: {key}")
    ratio = values.get("mlp_ratio")
    if not isinstance(ratio, (int, float)) or not 0 < ratio <= MAX_RATIO:
        raise InputError(f"image: prompter: mlp_ratio: expected a number up to {MAX_RATIO}, got {ratio!r:.80}")
    given: dict[str, Any] = {**values, "mlp_ratio": float(ratio)}
    return Prompter(**given)
