"""An encoder whose row of an image is the mean of its patches, for heads that read patches."""

from __future__ import annotations

from typing import Literal, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.features.find import tower_of

Pool = Literal["mean_patch", "class_token"]


def patch_tokens(model: DualEncoder, image: Tensor, *, pool: Pool = "mean_patch") -> Float[Tensor, "b n w"]:
    """The patches after the last block, before the final norm; or the class token alone, as the only one.

    Of a network of convolutions the places of its last map are the patches.

    Args:
        model: any that ``tether.load`` gives.
        image: (b, 3, h, w) uint8 pixels or normalised floats.
        pool: which tokens.

    Raises:
        UnsupportedModelError: a tower that shows no tokens, or has no class token where that is asked for.
    """
    tower = tower_of(model)
    if pool == "class_token" and not (tower.prefix and tower.sealed is None):
        raise UnsupportedModelError(f"pool: the image tower, {tower.what}, has no class token")
    stream = tower.run(tower.embed(image))
    return stream.layout.read(stream.x)[:, None] if pool == "class_token" else stream.x[:, tower.prefix :]


@final
class MeanPatches(EncoderAround):
    """The mean of an image's patches, each scaled to mean 0 and variance 1 first: what a read-out of FT-CLIP reads.

    It has no row for a text: these rows lie in the image tower's own space, which texts do not share.

    Source: arXiv 2212.06138; the norm's gain and shift are with who reads the rows.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.mean_patches import MeanPatches
        >>> row = MeanPatches(create("tiny")).encode_image(torch.rand(2, 3, 32, 32)).pooled
        >>> row.shape, bool((row.mean(1).abs() < 1e-5).all())
        (torch.Size([2, 64]), True)
    """

    def __init__(self, model: DualEncoder, *, pool: Pool = "mean_patch") -> None:
        """Args: model: any that shows its tokens. pool: patches, or the class token alone."""
        super().__init__(model)
        self.pool: Pool = pool
        self.dim = tower_of(model).width

    def behaviour(self) -> dict[str, str]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return {"rows": "mean patches", "pool": self.pool}

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; it takes no mask."""
        if mask is not None:
            raise InputError("mask: the mean of patches takes none; expected None")
        tokens = patch_tokens(self.inside, image, pool=self.pool).float()
        return Features(F.layer_norm(tokens, tokens.shape[-1:]).mean(dim=1))

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """Raise an InputError."""
        raise InputError("text: a mean of patches can be compared with no text; expected images")
