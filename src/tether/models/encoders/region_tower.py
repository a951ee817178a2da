"""Image towers that are told where to look: regions as alpha, what learns, and scores of regions against texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, Positive, PositiveRate, Rate, checked
from tether.core.types import Features
from tether.models.embed import encode_texts
from tether.models.encoders.tower_parts import side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.vision.alpha_stem import ALPHA_MEAN, ALPHA_STD, AlphaStem, add_alpha_, stem_of

Start = Literal["zero", "normal"]
Mask = Float[Tensor, "b h w"] | Bool[Tensor, "b h w"] | UInt8[Tensor, "b h w"]


@checked
def alpha_from_mask(
    mask: Tensor | None = None,
    *,
    size: tuple[int, int],
    boxes: Float[Tensor, "b 4"] | None = None,
    points: Float[Tensor, "b k 2"] | None = None,
    radius: Positive = 0.05,
    mean: float = ALPHA_MEAN,
    std: Positive = ALPHA_STD,
) -> Float[Tensor, "b 1 rows columns"]:
    """A region of each image as a tower of alpha takes it: -1.923 outside, 1.923 inside.

    Source: Alpha-CLIP (arXiv 2312.03818), released code. A mask of another size is resized with antialiasing; boxes and
    points are drawn at the size itself.

    Args:
        mask: (b, h, w) or (b, 1, h, w) of bool, uint8 or floats in [0, 1].
        size: height and width of the tower's images.
        boxes: x0, y0, x1, y1 in shares of the image, in place of a mask; pixels whose centres lie inside, at least one.
        points: x, y in shares of the image, in place of a mask; a disc around each is inside.
        radius: of the discs, as a share of the longer side.
        mean: of masks; a tower's own stands in its ``AlphaStem.settings``.
        std: of masks.

    Raises:
        InputError: not one of the three, another number of channels, or values outside of [0, 1], NaN among them.

    Example:
        >>> import torch
        >>> from tether.models.encoders.region_tower import alpha_from_mask
        >>> alpha_from_mask(boxes=torch.tensor([[0.0, 0.0, 0.5, 1.0]]), size=(1, 4)).round(decimals=3).tolist()
        [[[[1.9229999780654907, 1.9229999780654907, -1.9229999780654907, -1.9229999780654907]]]]
    """
    given = [one for one in (mask, boxes, points) if one is not None]
    if len(given) != 1:
        raise InputError(f"alpha: expected a mask, boxes or points, one of the three, got {len(given)}")
    if mask is not None:
        inside = _resized(_shares(mask), size)
    else:
        _in_unit(given[0], what="boxes" if boxes is not None else "points")
        inside = _drawn(given[0], size=size, radius=None if points is None else radius)
    return (inside - mean) / std


def _shares(mask: Tensor) -> Float[Tensor, "b 1 h w"]:
    channels = 1 if mask.ndim == 3 else mask.shape[1] if mask.ndim == 4 else 0
    if channels != 1 or not mask.numel() or mask.is_complex():
        raise InputError(f"mask: expected (b, h, w) or (b, 1, h, w), one channel, got {tuple(mask.shape)}")
    found = mask if mask.is_floating_point() else mask.float()
    _in_unit(found, what="mask")
    return found[:, None] if mask.ndim == 3 else found


def _in_unit(values: Tensor, *, what: str) -> None:
    if not ((values >= 0) & (values <= 1)).all():  # which NaN is not
        raise InputError(f"{what}: expected values in [0, 1], got {values.min().item():g} to {values.max().item():g}")


def _resized(mask: Float[Tensor, "b 1 h w"], size: tuple[int, int]) -> Float[Tensor, "b 1 rows columns"]:
    if tuple(mask.shape[2:]) == tuple(size):
        return mask
    return F.interpolate(mask, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def _drawn(
    places: Float[Tensor, "b ..."], *, size: tuple[int, int], radius: float | None
) -> Float[Tensor, "b 1 rows columns"]:
    """Boxes as rectangles, points as discs of a radius."""
    kind = {"device": places.device, "dtype": places.dtype}
    rows, columns = size
    y, x = (torch.arange(rows, **kind) + 0.5)[:, None], torch.arange(columns, **kind) + 0.5
    if radius is not None:
        across, down = places[..., 0, None, None] * columns, places[..., 1, None, None] * rows
        reach = max(radius * max(size), 0.75)  # any place has a pixel's centre so near
        return (((x - across) ** 2 + (y - down) ** 2 <= reach**2).any(dim=1)[:, None]).to(places.dtype)
    if not ((places[:, 2:] > places[:, :2]).all()):
        raise InputError("boxes: expected x0 < x1 and y0 < y1 in each")
    found = []
    for centres, side, first, last in ((y, rows, 1, 3), (x, columns, 0, 2)):
        low, high = (places[:, end] * side for end in (first, last))
        middle = ((low + high) / 2).floor().clamp(max=side - 1)  # a box between two centres has the pixel it lies in
        centres = centres.flatten()
        inside = (centres > low[:, None]) & (centres < high[:, None])
        found.append(inside | (centres.floor() == middle[:, None]))
    return (found[0][:, None, :, None] & found[1][:, None, None, :]).to(places.dtype)


@final
class AlphaVisionTower(nn.Module):
    """An image tower with a second input, alpha, that says which region of the image is meant.

    Alpha is no attention mask: what lies outside is seen, too. Before training the embedding is the plain tower's for
    every alpha. The encoder inside can be used, saved and loaded by itself.

    Source: Alpha-CLIP (arXiv 2312.03818), section 3.2. There alpha must be given; here None is a mask that is all ones.

    Attributes:
        tower: an encoder of ``tether.load`` or the image tower alone, with an ``AlphaStem`` in it.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.encoders.region_tower import AlphaVisionTower, alpha_from_mask
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> tower = AlphaVisionTower.from_clip(model)
        >>> alpha = alpha_from_mask(boxes=torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(2, 4), size=(32, 32))
        >>> torch.allclose(tower(image, alpha), model.encode_image(image).pooled, atol=1e-6)
        True
    """

    def __init__(self, tower: nn.Module, *, mean: float = ALPHA_MEAN, std: float = ALPHA_STD) -> None:
        """Let a tower take alpha, in place; ``from_clip`` copies it first. Arguments and errors: ``add_alpha_``."""
        super().__init__()
        add_alpha_(tower, mean=mean, std=std)
        self.tower = tower

    @classmethod
    def from_clip(
        cls, visual: nn.Module, *, start: Start = "zero", generator: torch.Generator | None = None, **norm: float
    ) -> AlphaVisionTower:
        """A copy of a tower's weights with a convolution over alpha.

        Args:
            visual: any encoder of ``tether.load``, or an image tower.
            start: of the convolution, ``zero`` or drawn with a variance of one over its inputs.
            generator: of that draw.
            norm: ``mean`` and ``std`` of masks.

        Raises:
            UnsupportedModelError: see ``add_alpha_``.
        """
        made = cls(copy.deepcopy(visual), **norm)
        if start == "normal":
            kernel = made.stem.alpha
            nn.init.normal_(kernel, std=kernel[0].numel() ** -0.5, generator=generator)
        return made

    @property
    def stem(self) -> AlphaStem:
        """Its first layer, with the kernel ``alpha`` and the normalisation of masks."""
        return _stem(self.tower)

    def forward(self, image: Tensor, alpha: Tensor | None = None) -> Float[Tensor, "b d"]:
        """Embeddings, not normalised.

        Args:
            image: (b, 3, h, w) as the tower takes them.
            alpha: (b, 1, h, w) normalised, of the images' size; None is all inside.

        Raises:
            InputError: an alpha of another size, of 3 channels, with NaN or values that no mask becomes.
        """
        with self.stem.seeing(alpha):
            encode: Any = getattr(self.tower, "encode_image", self.tower)
            found = encode(image)
        return found.pooled if isinstance(found, Features) else found


def encode_regions(model: DualEncoder, image: Tensor, *, alpha: Tensor | None) -> Float[Tensor, "b d"]:
    """Embeddings of regions of images, not normalised; ``alpha`` as in ``AlphaVisionTower.forward``.

    Raises:
        InputError: a model without a convolution over alpha.
    """
    with _stem(cast(nn.Module, model)).seeing(alpha):
        return model.encode_image(image).pooled


def region_scores(
    model: DualEncoder, image: Tensor, *, masks: Mask, texts: Sequence[str] | Float[Tensor, "t d"]
) -> Float[Tensor, "k t"]:
    """The similarity of each region of one image and each text: the best text names a region, the best region a text.

    Args:
        model: with a convolution over alpha.
        image: (3, h, w) or (1, 3, h, w), as the model takes it.
        masks: (k, h, w) of bool, or numbers in [0, 1].
        texts: t strings, or their embeddings.

    Returns:
        Cosines, or the similarity of the model's geometry, float32.
    """
    stem = _stem(cast(nn.Module, model))
    one = image[None] if image.ndim == 3 else image
    if one.ndim != 4 or len(one) != 1:
        raise InputError(f"image: expected one image, (3, h, w) or (1, 3, h, w), got {tuple(image.shape)}")
    device = model.logit_scale.device
    alpha = alpha_from_mask(masks, size=(one.shape[2], one.shape[3]), **stem.settings).to(device)
    with torch.no_grad():
        rows = encode_regions(model, one.to(device).expand(len(alpha), -1, -1, -1), alpha=alpha).float()
    said = texts.float() if isinstance(texts, Tensor) else encode_texts(model, texts)
    geometry = geometry_of(model).detached()
    return geometry.similarity(geometry.points(rows), geometry.points(said.to(rows.device)))


@checked
def alpha_param_groups(
    model: nn.Module, *, lr: PositiveRate, gamma: NonNegative = 0.01, weight_decay: Rate = 0.01
) -> list[dict[str, Any]]:
    """What Alpha-CLIP trains, as two named groups: the kernel of alpha, and the rest of the image tower more slowly.

    The groups are told apart by name, not by their size as in the released code. Its own weight decay of 0.02 never
    reaches its optimiser there; AdamW's 0.01 is what it trained with.

    Args:
        model: an encoder or image tower that takes alpha.
        lr: of the kernel.
        gamma: times that is the rest's; parameters without ``requires_grad`` are left out.
        weight_decay: of all.

    Returns:
        ``alpha`` and ``image tower``, each with ``name``, ``params`` as pairs (name, parameter), ``lr`` and
        ``weight_decay``.
    """
    kernel = _stem(model).alpha
    inner = model.tower if isinstance(model, AlphaVisionTower) else model
    whole = inner.parameters()
    if isinstance(inner, Clip | WrappedEncoder):
        parts = side_parts(inner, "image").values()
        whole = (one for part in parts for one in ([part] if isinstance(part, nn.Parameter) else part.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {id(one): one for one in whole if one.requires_grad and one is not kernel}
    groups = [("alpha", [kernel] * kernel.requires_grad, lr), ("image tower", list(seen.values()), lr * gamma)]
    return [
        {"name": name, "params": [(names[id(one)], one) for one in some], "lr": rate, "weight_decay": weight_decay}
        for name, some, rate in groups
        if some
    ]


def _stem(model: nn.Module) -> AlphaStem:
    if (stem := stem_of(model)) is None:
        raise InputError(
            f"{type(model).__name__}: takes no alpha; expected a model with add_alpha_, such as one of "
            "tether adapt --recipe regions"
        )
    return stem
