"""How patches relate, learnt from all blocks of a frozen image tower: ExCEL's adapter and its decoder."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, Positive, checked
from tether.models.features.find import anatomy_of
from tether.models.features.penultimate import grid_of

GAIN = 3.0
Over = Literal["image", "batch"]


@checked
def predicted_affinity(
    features: Float[Tensor, "b n c"], *, gain: Positive = GAIN, over: Over = "image"
) -> Float[Tensor, "b n n"]:
    """0 to 1: how likely two patches are of one class, by how far their cosine lies from the mean.

    Source: ExCEL (arXiv 2503.20826), equation 12, and its released code, which takes the mean over the batch.

    Args:
        features: of patches, of any length.
        gain: multiplier of the distance from the mean.
        over: mean of each ``image``, so that images do not depend on each other, or of the ``batch``.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.patch_relation import predicted_affinity
        >>> predicted_affinity(torch.eye(2)[None]).round(decimals=2)
        tensor([[[0.8200, 0.1800],
                 [0.1800, 0.8200]]])
    """
    return _centred(features, gain, over).sigmoid()


@checked
def relation_weights(
    features: Float[Tensor, "b n c"], *, gain: Positive = GAIN, over: Over = "image"
) -> Float[Tensor, "b n n"]:
    """What each patch takes of those that are more alike than the mean, adding up to 1: for ``dense_image(affinity=)``.

    Source: ExCEL (arXiv 2503.20826), equation 9, and its released code; see ``predicted_affinity``.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.patch_relation import relation_weights
        >>> relation_weights(torch.eye(2)[None])
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    found = _centred(features, gain, over)
    found = found.masked_fill(found < 0, -torch.inf)
    alone = torch.isinf(found).all(dim=2, keepdim=True)  # a row of zeros is like nothing
    return found.masked_fill(alone, 0.0).softmax(dim=2).masked_fill(alone, 0.0)


def _centred(features: Tensor, gain: float, over: Over) -> Float[Tensor, "b n n"]:
    if features.ndim != 3:
        raise InputError(f"features: expected (b, n, c), got {tuple(features.shape)}")
    unit = F.normalize(features, dim=2)
    cosine = unit @ unit.transpose(1, 2)
    mean = cosine.mean(dim=(1, 2), keepdim=True) if over == "image" else cosine.mean()
    return gain * (cosine - mean)


def block_patches(model: DualEncoder, image: Tensor) -> tuple[list[Float[Tensor, "b n w"]], tuple[int, int]]:
    """The patches after each block of an image tower, without gradient, and the rows and columns of their grid.

    Raises:
        UnsupportedModelError: a tower without blocks, with a reason of ``models.refusals``.
    """
    tower, found = anatomy_of(model), []
    with torch.no_grad():
        stream = tower.embed(image)
        grid = grid_of(tower, stream, size=(image.shape[2], image.shape[3]))
        for index in range(len(tower.blocks)):
            stream = tower.step(stream, index)
            found.append(stream.x[:, tower.prefix :])
    return found, grid


class ExcelAdapter(nn.Module):
    """One feature of each patch, made of all blocks' patches: it says how patches relate (``relation_weights``).

    Source: ExCEL (arXiv 2503.20826), section 3.4, and its released code: an MLP of each block and a 1 x 1 convolution.

    Attributes:
        layers: blocks of the tower.
        dim: of the feature.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.excel_wsss.patch_relation import ExcelAdapter, ExcelDecoder, block_patches
        >>> blocks, grid = block_patches(create("tiny").eval(), torch.rand(2, 3, 32, 32))
        >>> feature = ExcelAdapter(layers=2, width=64, dim=32).eval()(blocks)
        >>> feature.shape, ExcelDecoder(classes=4, dim=32)(feature, grid=grid).shape
        (torch.Size([2, 16, 32]), torch.Size([2, 4, 4, 4]))
    """

    @checked
    def __init__(
        self, *, layers: Count, width: Count, dim: Count = 256, hidden: Count = 256, dropout: Decay = 0.1
    ) -> None:
        """Build it; its weights are drawn from torch's generator.

        Args:
            layers: blocks of the tower.
            width: of their stream.
            dim: of the feature.
            hidden: channels of the MLPs.
            dropout: whole channels of the feature.
        """
        super().__init__()
        self.settings = {"layers": layers, "width": width, "dim": dim, "hidden": hidden, "dropout": dropout}
        self.layers, self.dim = layers, dim
        self.each = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dim)) for _ in range(layers)
        )
        self.fuse = nn.Linear(layers * dim, dim)
        self.drop = nn.Dropout1d(dropout)

    def forward(self, blocks: list[Float[Tensor, "b n w"]]) -> Float[Tensor, "b n c"]:
        """The feature of each patch.

        Raises:
            InputError: not one state for each block.
        """
        if len(blocks) != self.layers:
            raise InputError(f"blocks: expected the patches of {self.layers} blocks, got {len(blocks)}")
        found = torch.cat([part(x) for part, x in zip(self.each, blocks, strict=True)], dim=2)
        return self.drop(self.fuse(found).transpose(1, 2)).transpose(1, 2)


class ExcelDecoder(nn.Module):
    """Tells the class of each patch from the feature of an ``ExcelAdapter``, which learns with it.

    Source: ExCEL (arXiv 2503.20826), section 3.4, and its released code: a transformer. The layers are torch's own.
    """

    @checked
    def __init__(self, *, classes: Annotated[int, Ge(2)], dim: Count = 256, heads: Count = 8, depth: Count = 3) -> None:
        """Build it; its weights are drawn from torch's generator.

        Args:
            classes: that it tells, the background among them.
            dim: of the feature.
            heads: of each layer, a divisor of ``dim``.
            depth: layers.

        Raises:
            InputError: heads that do not divide ``dim``.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a divisor of dim={dim}, got {heads}")
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.out = nn.Linear(dim, classes)

    def forward(self, feature: Float[Tensor, "b n c"], *, grid: tuple[int, int]) -> Float[Tensor, "b k r c"]:
        """Logits of the classes of each patch."""
        return self.out(self.layers(feature)).transpose(1, 2).unflatten(2, grid)
