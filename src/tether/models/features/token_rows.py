"""The tokens of images and texts of a frozen encoder, for heads that read tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.features.dense import dense_image, dense_text
from tether.models.features.patch_grouping import inner_map


@final
class TokenRows(EncoderAround):
    """An encoder whose row of an image holds its patches in the joint space, each scaled to length ``sqrt(d)``.

    Or its patches inside the tower, as they are: ``inner`` says before which block's feed-forward net.

    A row is (patches * d) numbers; ``tokens`` takes it apart again. All images have the model's size, so all have as
    many patches. Texts keep their own rows.

    Attributes:
        patches: of an image.
        width: d, of a patch.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.token_rows import TokenRows
        >>> reader = TokenRows(create("tiny").eval())
        >>> rows = reader.encode_image(torch.rand(2, 3, 32, 32)).pooled
        >>> reader.tokens(rows).shape, reader.dim
        (torch.Size([2, 16, 64]), 1024)
    """

    def __init__(self, model: DualEncoder, *, inner: int | None = None) -> None:
        """Look at one blank image.

        Args:
            model: any of ``tether.load`` whose image tower shows tokens or a map.
            inner: block, see ``models.features.patch_grouping.inner_map``; None gives patches in the joint space.

        Raises:
            UnsupportedModelError: it shows none, with a reason of ``models.refusals``.
        """
        super().__init__(model)
        self.image_spec, self.inner = model.image_spec.fixed(), inner
        blank = torch.zeros(1, 3, *self.image_spec.size, dtype=torch.uint8, device=model.logit_scale.device)
        with torch.no_grad():
            self.patches, self.width = self._tokens(blank).shape[1:]
        self.dim = self.patches * self.width

    def behaviour(self) -> dict[str, str]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return {"rows": "tokens" if self.inner is None else f"inner {self.inner}"}

    def tokens(self, rows: Float[Tensor, "n w"]) -> Float[Tensor, "n p d"]:
        """Rows taken apart into patches."""
        return rows.unflatten(1, (self.patches, self.width))

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; it takes no mask."""
        if mask is not None:
            raise InputError("mask: rows of tokens take none; expected None")
        return Features(self._tokens(image).flatten(1))

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """As the model inside does: a text's row has d numbers."""
        return self.inside.encode_text(text, mask=mask)

    def _tokens(self, image: Tensor) -> Float[Tensor, "b p d"]:
        if self.inner is not None:
            return inner_map(self.inside, image, layer=self.inner).flatten(2).transpose(1, 2)
        tokens = dense_image(self.inside, image).tokens
        assert tokens is not None
        return scaled(tokens)


@torch.no_grad()
def text_tokens(model: DualEncoder, texts: Sequence[str]) -> tuple[Float[Tensor, "k l d"], Bool[Tensor, "k l"]]:
    """The words of texts in the joint space, each scaled to length ``sqrt(d)``, and which of them are words.

    A text tower that cannot be looked into gives the whole text as its one word.

    Args:
        model: any of ``tether.load``.
        texts: at least one, none of them empty.

    Raises:
        InputError: no text, or an empty one.
    """
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"texts: expected at least one and none empty, got {list(texts)!r:.200}")
    ids = model.tokenizer(list(texts)).to(model.logit_scale.device)
    try:
        found = dense_text(model, ids)
    except UnsupportedModelError:
        rows = model.encode_text(ids).pooled[:, None]
        return scaled(rows).float().cpu(), torch.ones(rows.shape[:2], dtype=torch.bool)
    assert found.tokens is not None
    assert found.mask is not None
    return scaled(found.tokens).float().cpu(), found.mask.cpu()


def scaled(tokens: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
    """Tokens at length ``sqrt(d)``, so that a network sees numbers of about 1 whatever the encoder's are."""
    return tokens.shape[-1] ** 0.5 * F.normalize(tokens, dim=-1)
