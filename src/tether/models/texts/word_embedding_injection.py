"""An encoder that knows words which were learnt from a few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.embed_anything import Embeds
from tether.models.texts.directional_token import DirectionalToken, read_new
from tether.models.texts.text_vectors import word_pattern
from tether.models.tokenizer import FunctionTokenizer


@final
class WordedEncoder(EncoderAround, Embeds):
    """A model whose texts may have learnt words in them; images and all other texts have the very rows of the model.

    Example:
        >>> from tether.models import create
        >>> from tether.models.texts.directional_token import DirectionalToken
        >>> from tether.models.texts.word_embedding_injection import WordedEncoder
        >>> model = create("tiny").eval()
        >>> worded = WordedEncoder(model, [DirectionalToken(model, "cup", word="<mug>")])
        >>> worded.embed(["a <mug> on a table", "a cup"]).shape
        torch.Size([2, 64])
    """

    def __init__(self, model: DualEncoder, tokens: Sequence[DirectionalToken]) -> None:
        """Look at a model and its words.

        Args:
            model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
            tokens: of that model, no word twice.

        Raises:
            InputError: no word, one twice, or one of another model.
        """
        super().__init__(model)
        words = [one.word for one in tokens]
        if not words or len(set(words)) < len(words) or any(one.model is not model for one in tokens):
            raise InputError(f"tokens: expected words of this model, each once, got {words!r:.200}")
        self.tokens, place = nn.ModuleList(tokens), model.tokenizer.vocab_size
        self.ids: dict[str, range] = {}
        for one in tokens:
            self.ids[one.word] = range(place, place + len(one.direction))
            place += len(one.direction)
        self.pattern, first = word_pattern(words), tokens[0]

        def encode(texts: list[str]) -> list[list[int]]:
            return [[*first.before, *row, *first.after] for row in first.ids_of(texts, self.ids)]

        context = model.tokenizer.context_length
        self.tokenizer = FunctionTokenizer(encode, context_length=context, vocab_size=place)

    def behaviour(self) -> dict[str, Any]:
        """The words and how long their rows are, for ``core.model_digest``."""
        return {one.word: one.scale for one in self._tokens()}

    def plain(self, text: str) -> str:
        """A text without its learnt words."""
        return " ".join(self.pattern.sub(" ", text).split())

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids as the tokenizer gives them; with a mask those of texts without learnt words alone."""
        with_new = (text >= self.inside.tokenizer.vocab_size).any(dim=1)
        if not bool(with_new.any()):
            return self.inside.encode_text(text, mask=mask)
        if mask is not None:
            raise InputError("mask: texts with learnt words take none; expected None")
        known = torch.cat([one.get_buffer("known") for one in self._tokens()])
        rows = torch.cat([one.embedding for one in self._tokens()])
        found = read_new(self._tokens()[0], text[with_new], known=known, rows=rows).pooled
        pooled = found.new_zeros(len(text), found.shape[1])
        pooled[with_new] = found
        if not bool(with_new.all()):
            pooled[~with_new] = self.inside.encode_text(text[~with_new]).pooled.to(found)
        return Features(pooled)

    def _tokens(self) -> list[DirectionalToken]:
        return [one for one in self.tokens if isinstance(one, DirectionalToken)]
