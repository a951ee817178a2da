"""Patches that take values from those with like values, to be compared with texts: AnomalyCLIP's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from jaxtyping import Float
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Layer, PositiveSingle, Whole, checked
from tether.core.types import Features
from tether.models.config_check import MAX_LAYERS
from tether.models.features.dense import DensePath, dense_layers
from tether.models.features.find import anatomy_of
from tether.models.features.penultimate import patch_grid

TEMPERATURE = 0.07
"""Cosines are divided by it before a softmax over texts."""
LAST = (-1,)
ReadLayers = Annotated[Sequence[Layer], MaxLen(MAX_LAYERS)]
"""Blocks after which patches are read."""
CHANGED = 19 / 24
"""Share of the blocks that are changed, the last ones: 19 of ViT-L/14's."""


class ValueFeatures(NamedTuple):
    """What is compared with texts.

    Attributes:
        image: (b, d) of whole images.
        patches: (l, b, n, d) after each of l blocks, row by row from the top left.
    """

    image: Float[Tensor, "b d"]
    patches: Float[Tensor, "l b n d"]


def value_path(model: DualEncoder, *, blocks: int | None = None) -> DensePath | None:
    """The path of the changed blocks, None where there is none; see ``value_attention_features``.

    Raises:
        InputError: fewer blocks in the tower.
        UnsupportedModelError: a tower without blocks, with a reason of ``models.refusals``.
    """
    depth = len(anatomy_of(model).opened().blocks)
    changed = max(1, round(CHANGED * depth)) if blocks is None else blocks
    if changed > depth:
        raise InputError(f"blocks: expected at most the {depth} of the image tower, got {changed}")
    if not changed:
        return None
    return DensePath(kind="v", start=-changed, beside=True, feed_forward=False)


@checked
def value_attention_features(
    model: DualEncoder,
    image: Tensor,
    *,
    blocks: Whole | None = None,
    layers: ReadLayers = LAST,
    post_norm: bool = False,
) -> ValueFeatures:
    """Embed images, and patches along a second stream that attends by values and has no feed-forward net.

    Source: AnomalyCLIP (arXiv 2310.18961), section 3.3 (DPAM), and its released code, whose image embedding skips the
    final norm; AdaptCLIP (2505.09926) reads the same at four blocks.

    Args:
        model: any model that ``tether.load`` gives whose image tower is a plain vision transformer.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        blocks: that are changed, the last ones; None takes 19 of 24, or as large a share, and 0 leaves all as they are.
        layers: blocks after which patches are read, negative from the end; before the change they are plain ones. None
            at all gives no patches.
        post_norm: whether the image's embedding has the final norm; patches always have it.

    Returns:
        Rows in the joint space, not normalised, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.
        InputError: no such block.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.value_attention import value_attention_features
        >>> found = value_attention_features(create("tiny").eval(), torch.rand(3, 3, 32, 32), layers=(0, 1))
        >>> found.image.shape, found.patches.shape
        (torch.Size([3, 64]), torch.Size([2, 3, 16, 64]))
    """
    path = value_path(model, blocks=blocks)
    found = dense_layers(model, image, layers=layers or LAST, path=path if layers else None, pooled_norm=post_norm)
    tokens = [one.tokens for one in found if one.tokens is not None]
    return ValueFeatures(found[0].pooled, torch.stack(tokens)[: len(layers)])


def text_logits(
    rows: Float[Tensor, "... d"], texts: Float[Tensor, "k d"], *, temperature: float = TEMPERATURE
) -> Float[Tensor, "... k"]:
    """Cosines with texts, divided by a temperature; see ``text_probabilities``, their softmax."""
    return F.normalize(rows, dim=-1) @ F.normalize(texts, dim=-1).T / temperature


def text_probabilities(
    rows: Float[Tensor, "... d"], texts: Float[Tensor, "k d"], *, temperature: float = TEMPERATURE
) -> Float[Tensor, "... k"]:
    """Softmax over texts of cosines divided by a temperature.

    Args:
        rows: of any length, such as images or patches.
        texts: likewise.
        temperature: AnomalyCLIP's is 0.07 whatever the model.

    Example:
        >>> import torch
        >>> from tether.models.features.value_attention import text_probabilities
        >>> text_probabilities(torch.tensor([[2.0, 0.0]]), torch.eye(2), temperature=1.0)
        tensor([[0.7311, 0.2689]])
    """
    return text_logits(rows, texts, temperature=temperature).softmax(dim=-1)


@checked
def text_maps(
    patches: Float[Tensor, "l b n d"],
    texts: Float[Tensor, "k d"],
    *,
    grid: tuple[Count, Count],
    size: tuple[Count, Count],
    temperature: PositiveSingle = TEMPERATURE,
) -> Float[Tensor, "l b k h w"]:
    """``text_probabilities`` of patches as maps of images, enlarged bilinearly.

    Args:
        patches: as ``value_attention_features`` gives them.
        texts: of any length.
        grid: rows and columns of patches.
        size: height and width of the maps in pixels.
        temperature: see ``text_probabilities``.

    Raises:
        InputError: another number of patches.
    """
    if patches.ndim != 4 or patches.shape[2] != grid[0] * grid[1]:
        raise InputError(f"patches: expected (l, b, {grid[0]} * {grid[1]}, d), got {tuple(patches.shape)}")
    said = text_probabilities(patches, texts, temperature=temperature).flatten(0, 1)
    maps = F.interpolate(said.transpose(1, 2).unflatten(2, grid), size, mode="bilinear")
    return maps.unflatten(0, patches.shape[:2])


@final
class ValueRows(EncoderAround):
    """An encoder whose row of an image is all of its ``value_attention_features``, for the cache and for heads.

    ``features`` takes rows apart again. Texts keep their own rows. Images are squashed to the size, as whole ones.

    Attributes:
        grid: rows and columns of patches.
        width: d, of a patch.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.value_attention import ValueRows
        >>> reader = ValueRows(create("tiny").eval())
        >>> rows = reader.encode_image(torch.rand(2, 3, 32, 32)).pooled
        >>> reader.dim, reader.features(rows).patches.shape
        (1088, torch.Size([1, 2, 16, 64]))
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        blocks: Whole | None = None,
        layers: ReadLayers = LAST,
        post_norm: bool = False,
        image_size: Count | None = None,
    ) -> None:
        """Look at one blank image.

        Args:
            model: see ``value_attention_features``.
            blocks: likewise.
            layers: likewise; none gives rows of images alone.
            post_norm: likewise.
            image_size: side of the images; another one than the model's resizes positions bilinearly, in a copy.

        Raises:
            UnsupportedModelError: see ``value_attention_features``, and ``Resizes.resized``.
            InputError: no such block, or a size that is no multiple of the patch.
        """
        sized: Any = model  # what `load` gives can be resized
        if image_size is not None and model.image_spec.size != (image_size, image_size):
            sized = sized.resized(image_size=image_size, how="bilinear")
        super().__init__(sized)
        self.image_spec = replace(self.image_spec.fixed(), resize="squash", resized=None)
        self.blocks, self.layers, self.post_norm = blocks, tuple(layers), post_norm
        self.grid, self.width = patch_grid(sized), model.dim
        tower = anatomy_of(sized)
        value_path(sized, blocks=blocks)
        for layer in layers:
            tower.place(layer)
        self.patches = self.grid[0] * self.grid[1]
        self.dim = self.width * (1 + len(self.layers) * self.patches)

    def behaviour(self) -> dict[str, str]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return {"rows": f"values {self.blocks} {self.layers} {self.post_norm}"}

    def features(self, rows: Float[Tensor, "b w"]) -> ValueFeatures:
        """Rows taken apart.

        Raises:
            InputError: rows of another length.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise InputError(f"rows: expected (b, {self.dim}), got {tuple(rows.shape)}")
        parts = rows[:, self.width :].unflatten(1, (len(self.layers), self.patches, self.width))
        return ValueFeatures(rows[:, : self.width], parts.transpose(0, 1))

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; it takes no mask."""
        if mask is not None:
            raise InputError("mask: rows of patches take none; expected None")
        found = value_attention_features(
            self.inside, image, blocks=self.blocks, layers=self.layers, post_norm=self.post_norm
        )
        return Features(torch.cat([found.image, found.patches.transpose(0, 1).flatten(1)], dim=1))

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """As the model inside does."""
        return self.inside.encode_text(text, mask=mask)
