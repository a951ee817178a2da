"""A text tower around any object that embeds texts, such as a client of a large language model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.core.runtime_protocol import ByAttributes
from tether.models.composed.towers import TextSide
from tether.models.tokenizer import FunctionTokenizer, lengths
from tether.models.towers.sizes import Sizes

CONTEXT = 4096
_END = 257
_PROBES = ["", "a", "two dogs in the sun"]


@runtime_checkable
class TextEmbedder(Protocol, metaclass=ByAttributes):
    """Whatever gives each text a row: an encoder of ``tether.load``, a sentence encoder, a client of a server."""

    def embed(self, texts: list[str]) -> Any:
        """N texts to (n, e) numbers, a tensor or an array, in their order."""
        ...


class EmbedderTexts(TextSide):
    """Token ids are the text's bytes, so that the object is asked with the strings themselves; it never learns.

    What it is known by is what it makes of a few texts, so rows that are kept are those of this embedder alone. A model
    with this tower embeds and trains like any other, but cannot be saved: what the object is stands in no file.

    Example:
        >>> import torch
        >>> from tether.methods.proclip.embedder_tower import EmbedderTexts
        >>> class Lengths:
        ...     def embed(self, texts):
        ...         return [[float(len(text)), 1.0] for text in texts]
        >>> tower = EmbedderTexts(Lengths())
        >>> tower.width, tower(tower.tokenizer(["cat", "mice"])).tolist()
        (2, [[3.0, 1.0], [4.0, 1.0]])
    """

    @checked
    def __init__(self, embedder: TextEmbedder, *, context: Count = CONTEXT) -> None:
        """Ask the embedder for a few texts.

        Args:
            embedder: has ``embed(texts)``.
            context: most bytes of a text; of a longer one the rest is cut, counted and warned of.

        Raises:
            InputError: what it gives is not one row of finite numbers for each text.
        """
        rows = _rows(embedder, _PROBES)
        known = hashlib.sha256(rows.double().numpy().tobytes()).hexdigest()
        settings = {"library": "embedder", "class": type(embedder).__name__, "rows": known, "context": context}
        super().__init__(nn.Identity(), width=rows.shape[1], tokenizer=_Bytes(context), settings=settings)
        self.embedder = embedder
        self.lock_("locked")

    @property
    def text_rows(self) -> int:
        """Bytes of a text, and its end."""
        return self.tokenizer.context_length

    def at_sizes(self, sizes: Sizes) -> EmbedderTexts:
        """See ``TowerSide``."""
        return EmbedderTexts(self.embedder, context=sizes.context)

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """The embedder's rows, without gradient."""
        ids = text.cpu()
        bodies = [row[: end - 1] for row, end in zip(ids, lengths(ids).tolist(), strict=True)]
        texts = [(body - 1).to(torch.uint8).numpy().tobytes().decode(errors="ignore") for body in bodies]
        rows = _rows(self.embedder, texts)
        if rows.shape[1] != self.width:
            raise InputError(f"embedder: gave rows of {self.width} before, now of {rows.shape[1]}")
        return rows.to(text.device)


class _Bytes:
    """Bytes of UTF-8, counted from 1, and an end token."""

    def __init__(self, context: int) -> None:
        self._inner = FunctionTokenizer(_ids, context_length=context, vocab_size=_END + 1)
        self.context_length, self.vocab_size = context, _END + 1

    def __call__(self, texts: Sequence[str], *, long_text: Literal["raise", "cut"] = "cut") -> Tensor:
        return self._inner(texts, long_text=long_text)


def _ids(texts: list[str]) -> list[list[int]]:
    return [[*(byte + 1 for byte in text.encode(errors="replace")), _END] for text in texts]


@torch.no_grad()
def _rows(embedder: TextEmbedder, texts: list[str]) -> Tensor:
    """(n, e) float32 on the CPU, or an InputError that says what came instead."""
    given = embedder.embed(texts)
    try:
        rows = torch.as_tensor(given if isinstance(given, Tensor) else np.asarray(given)).float().cpu()
    except (TypeError, ValueError):
        raise InputError(f"embedder: expected numbers ({len(texts)}, e), got {type(given).__name__}") from None
    if rows.ndim != 2 or len(rows) != len(texts) or not rows.shape[1]:
        raise InputError(f"embedder: expected ({len(texts)}, e), one row for each text, got {tuple(rows.shape)}")
    bad = (~torch.isfinite(rows).all(dim=1)).nonzero()
    if len(bad):
        raise InputError(f"embedder: its row of {texts[int(bad[0])]!r:.100} is not finite")
    return rows.clone()  # those of an inference mode cannot be differentiated through
