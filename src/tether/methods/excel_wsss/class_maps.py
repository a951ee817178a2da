"""Where each class is in an image, from patches that attend to what is like them: ExCEL's maps, without training."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.methods.excel_wsss.map_refinement import stretched
from tether.models.features.attention_maps import attention_maps
from tether.models.features.dense import DensePath, Kind, dense_image
from tether.models.features.find import anatomy_of

BLOCKS = 5
ATTENDED = 6
"""Last blocks whose attention spreads a map."""
EXCEL_PATH = DensePath(kind="qkv", start=-BLOCKS, heads="summed", beside=True, feed_forward=False)
Normalise = Literal["tokens", "channels"]


@checked
def self_correlation_features(
    model: DualEncoder,
    image: Tensor,
    *,
    blocks: Count = BLOCKS,
    kind: Kind = "qkv",
    relation: Float[Tensor, "b n n"] | None = None,
) -> Float[Tensor, "b m d"]:
    """The embedding of the whole image, and then patches that took values from those alike, in the joint space.

    Beside the tower's stream runs a second one through the last blocks: it adds what patches take of each other by how
    alike their queries, keys and values are, summed over the heads, and no feed-forward net.

    Source: ExCEL (arXiv 2503.20826), section 3.3, and its released code; the second stream is CLIP Surgery's.

    Args:
        model: any model that ``tether.load`` gives whose image tower is a plain vision transformer.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        blocks: that are changed, the last ones; more than there are take all.
        kind: what is compared.
        relation: added to the weights, see ``methods.excel_wsss.patch_relation.relation_weights``.

    Returns:
        (b, 1 + n, d), not normalised, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.excel_wsss.class_maps import class_maps, self_correlation_features
        >>> model = create("tiny").eval()
        >>> features = self_correlation_features(model, torch.rand(2, 3, 32, 32))
        >>> class_maps(features, torch.randn(5, 64), classes=3).shape  # two texts for the background
        torch.Size([2, 16, 3])
    """
    path = replace(EXCEL_PATH, kind=kind, start=-min(blocks, len(anatomy_of(model).blocks)))
    found = dense_image(model, image, path=path, affinity=relation)
    assert found.tokens is not None  # dense_image gives them
    return torch.cat([found.pooled[:, None], found.tokens], dim=1)


def patch_attention(model: DualEncoder, image: Tensor) -> Float[Tensor, "b l n n"]:
    """What patches attend to in each of the last six blocks, the mean over heads; see ``map_refinement``.

    Args:
        model: as for ``self_correlation_features``.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.
    """
    tower = anatomy_of(model)
    last = range(-min(ATTENDED, len(tower.blocks)), 0)
    found = attention_maps(model, image, rows="all", layers=list(last)).mean(dim=2)
    return found[:, :, tower.prefix :, tower.prefix :]


@checked
def text_scores(
    features: Float[Tensor, "b m d"], texts: Float[Tensor, "t d"], *, normalise: Normalise = "tokens"
) -> Float[Tensor, "b m t"]:
    """How much each row has of each text beyond what it has of all; texts that suit the whole image count more.

    Args:
        features: the whole image and its patches, see ``self_correlation_features``.
        texts: unit rows, two at least.
        normalise: features are divided by their norm over the ``tokens``, channel by channel, as in the released code,
            so that what is found depends on the size of the image; or each row to length 1 (``channels``).

    Raises:
        InputError: shapes that do not fit.
    """
    if features.ndim != 3 or texts.ndim != 2 or features.shape[2] != texts.shape[1] or len(texts) < 2:
        raise InputError(
            f"texts: expected (t, {features.shape[-1]}) with two at least, got {tuple(texts.shape)} for features "
            f"{tuple(features.shape)}"
        )
    unit = F.normalize(features, dim=1 if normalise == "tokens" else 2)
    found = unit @ texts.T
    chance = (2 * found[:, :1]).softmax(dim=2)
    found = found * (chance / chance.mean(dim=2, keepdim=True))
    return found - found.mean(dim=2, keepdim=True)


@checked
def class_maps(
    features: Float[Tensor, "b m d"],
    texts: Float[Tensor, "t d"],
    *,
    classes: Count | None = None,
    normalise: Normalise = "tokens",
) -> Float[Tensor, "b n k"]:
    """Maps of the classes over the patches, each from 0 at its least to 1 at its most; 0 where it is the same all over.

    Source: ExCEL (arXiv 2503.20826), equation 10, and its released code.

    Args:
        features: see ``text_scores``.
        texts: of the classes, and then of what is background.
        classes: how many come first; None takes all.
        normalise: see ``text_scores``.

    Raises:
        InputError: shapes that do not fit, or more classes than texts.
    """
    count = len(texts) if classes is None else classes
    if count > len(texts):
        raise InputError(f"classes: expected at most {len(texts)}, one for each text, got {count}")
    scores = text_scores(features, texts, normalise=normalise)
    return stretched(scores, dim=1)[:, 1:, :count]
