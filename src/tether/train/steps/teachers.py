"""Who reads a view besides the model that is trained: frozen encoders, and a count of words."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.protocols import DualEncoder
from tether.core.types import Batch, Features
from tether.train.steps.module import ViewRows
from tether.train.steps.views import captions_of

WORDS = "words"
BUCKETS = 1024
"""Of the counts of a caption's tokens; two of a vocabulary's words share one by chance."""
_MIX = -7046029254386353131  # the odd constant of SplitMix64; products wrap around on purpose


class Teachers:
    """Frozen encoders by the names that ``tether.load`` takes, each loaded once; they are no part of what is saved."""

    def __init__(self) -> None:
        """Start with none."""
        self._loaded: dict[str, nn.Module] = {}

    def load(self, name: str) -> DualEncoder:
        """The encoder of a name, in evaluation mode and without gradient."""
        if name not in self._loaded:
            from tether.models.load import load

            self._loaded[name] = load(name).eval().requires_grad_(False)
        return cast(DualEncoder, self._loaded[name])

    @torch.no_grad()
    def read(self, name: str, view: ViewRows, batch: Batch) -> Features:
        """Embeddings of a view; captions are read as the encoder's own tokenizer has them."""
        if name == WORDS:
            return Features(count_words(view.rows))
        device = view.rows.device
        reader = self.load(name)
        cast(nn.Module, reader).to(device)
        if view.side == "image":
            return Features(reader.encode_image(view.rows).pooled.float())
        ids = reader.tokenizer(captions_of(batch)).to(device, non_blocking=True)
        return Features(reader.encode_text(ids).pooled.float())


def count_words(text: Int[Tensor, "b l"]) -> Float[Tensor, "b 1024"]:
    """How often each token stands in each caption, in 1024 buckets by hash; without the start, the end and padding.

    The same on every process and for any padding. A caption without words counts in a bucket of its own.
    """
    places = torch.arange(text.shape[1], device=text.device)
    length = torch.where(text != 0, places, -1).amax(dim=1) + 1  # 0 is padding, and inside a caption CLIP's token "!"
    word = (places > 0) & (places < (length - 1)[:, None])
    mixed = text.to(torch.int64) * _MIX
    bucket = ((mixed ^ (mixed >> 29)) % (BUCKETS - 1)) + 1
    counts = torch.zeros(len(text), BUCKETS, device=text.device)
    counts.scatter_add_(1, bucket * word, word.to(counts.dtype))
    counts[:, 0] = (~word.any(dim=1)).to(counts.dtype)
    return counts
