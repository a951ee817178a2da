"""How like another image a painted one is inside an encoder, and where an image has to do with a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Layer, NonNegative, checked
from tether.generation.goals import Moment
from tether.generation.seen import seen_by
from tether.models.embed import encode_texts
from tether.models.features.dense import dense_image, dense_layers


def feature_loss(features: Sequence[Tensor], others: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean squared difference of each of several maps, added up: CLIPasso's visual loss, which CLIPDrawX takes over.

    Args:
        features: maps of any shapes.
        others: as many, of the same shapes.

    Raises:
        InputError: other numbers or shapes.

    Example:
        >>> import torch
        >>> from tether.methods.clipdrawx.likeness import feature_loss
        >>> feature_loss([torch.ones(1, 2), torch.zeros(3)], [torch.zeros(1, 2), torch.zeros(3)]).item()
        1.0
    """
    shapes = [[tuple(one.shape) for one in some] for some in (features, others)]
    if not features or shapes[0] != shapes[1]:
        raise InputError(f"features, others: expected maps of the same shapes, got {shapes[0]} and {shapes[1]}")
    return torch.stack([F.mse_loss(one, other) for one, other in zip(features, others, strict=True)]).sum()


class LikenessGoal:
    """How far the patches of an image are from those of a reference after some blocks: CLIPDrawX's visual term.

    Patches are read in the joint space (``models.features.dense.dense_layers``), so that any encoder with blocks
    serves; the paper does not say which features it takes.

    Example:
        >>> import torch
        >>> from tether.generation import Moment
        >>> from tether.methods.clipdrawx.likeness import LikenessGoal
        >>> from tether.models import create
        >>> image = torch.rand(1, 3, 32, 32)
        >>> LikenessGoal(create("tiny").eval(), image)(image, Moment()).item()
        0.0
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        reference: Float[Tensor, "b 3 h w"],
        *,
        layers: tuple[Layer, ...] = (-2, -1),
        weight: NonNegative = 0.5,
    ) -> None:
        """Look at the reference.

        Args:
            model: any encoder of ``tether.load`` with blocks that can be seen.
            reference: one image in 0 to 1, or as many as are painted.
            layers: blocks after which patches are read.
            weight: of the whole.

        Raises:
            InputError: no layers, no such layer, or an image of another shape.
        """
        if reference.ndim != 4 or reference.shape[1] != 3 or not layers:
            raise InputError(
                f"reference: expected (b, 3, h, w) and some layers, got {tuple(reference.shape)}, {layers}"
            )
        self._model, self._layers, self._weight = model, layers, weight
        with torch.no_grad():
            self._wanted = self._features(reference)

    def _features(self, image: Tensor) -> list[Tensor]:
        shown = seen_by(image, spec=self._model.image_spec)
        found = [one.tokens for one in dense_layers(self._model, shown, layers=self._layers)]
        return [F.normalize(tokens, dim=-1) for tokens in found if tokens is not None]

    def __call__(self, image: Float[Tensor, "b 3 h w"], moment: Moment) -> Float[Tensor, ""]:
        """See Goal."""
        wanted = [one.to(image).expand(len(image), -1, -1) for one in self._wanted]
        return self._weight * feature_loss(self._features(image), wanted)


@torch.no_grad()
def text_attention(
    model: DualEncoder, image: Float[Tensor, "1 3 h w"], text: str, *, size: int
) -> Float[Tensor, "size size"]:
    """How much each place of an image has to do with a text: the cosine of its patch, enlarged between patches.

    Args:
        model: any encoder of ``tether.load`` whose patches can be seen.
        image: in 0 to 1.
        text: such as a prompt.
        size: side of the map.
    """
    spec = model.image_spec
    tokens = dense_image(model, seen_by(image, spec=spec)).tokens
    assert tokens is not None
    cosines = F.cosine_similarity(tokens[0], encode_texts(model, [text]).to(tokens), dim=-1)
    side = round(len(cosines) ** 0.5)
    if side * side != len(cosines):
        raise InputError(f"model: expected one that sees squares of patches, got {len(cosines)} patches")
    return F.interpolate(cosines.view(1, 1, side, side), size=(size, size), mode="bilinear")[0, 0]
