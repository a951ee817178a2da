"""New words: rows beyond a text tower's vocabulary, in texts of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.texts.text_vectors import FILLER, TextVectors, placed, put


class NewTokens(TextVectors):
    """Learnt rows for words that a text tower at rest does not know, each starting as the row of one that it knows.

    Textual inversion (arXiv 2208.01618). For rows that are made of something else, such as a direction of fixed length
    (DTI, 2512.13672), register a parametrization of ``torch.nn.utils.parametrize`` on ``vectors``.

    Attributes:
        words: the new words, in order; word k has the id ``vocab_size + k``.
        vectors: (k, w) parameter.

    Example:
        >>> from tether.models import create
        >>> from tether.models.texts.new_tokens import NewTokens
        >>> tokens = NewTokens(create("tiny").eval(), {"<mug>": "cup"})
        >>> tokens.encode(["a <mug> on a table", "a photo of <mug>"]).pooled.shape
        torch.Size([2, 64])
    """

    _format: ClassVar[str] = "tether.new_tokens/1"
    known: Tensor

    def __init__(self, model: DualEncoder, words: Mapping[str, str]) -> None:
        """Make the rows, on the model's device.

        Args:
            model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
            words: each new word, as it stands in texts, to the word whose row it starts as.

        Raises:
            UnsupportedModelError: the text tower cannot be looked into, with a reason of ``models.refusals``.
            InputError: no word, one with a space, or a first word of several tokens.
        """
        super().__init__(model, settings={"words": dict(words)})
        self.words = list(words)
        if not words or any(word.split() != [word] for word in words):
            raise InputError(f"words: expected new words without spaces, got {self.words!r:.200}")
        filler, *joined = self.words_of([FILLER, *(f"{FILLER} {word}" for word in words.values())])
        alone, known = self.words_of([*words.values()]), list[int]()
        for new, after, row in zip(words, joined, alone, strict=True):
            row = after[len(filler) :] if len(after) == len(filler) + 1 else row  # as it is coded after another word
            if len(row) != 1:
                raise InputError(f"words, {new!r}: expected a word of one token, got {words[new]!r} of {len(row)}")
            known += row
        self.vectors = nn.Parameter(self.token_rows(known))
        self.register_buffer("known", torch.tensor(known, device=self.vectors.device), persistent=False)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "b l"]:
        """(b, l) ids, zero after the end, those of new words beyond the vocabulary; texts past the context raise."""
        first = self.model.tokenizer.vocab_size
        rows = self.ids_of(texts, {word: [first + number] for number, word in enumerate(self.words)})
        return self.framed(rows, names=[f"texts, row {row}" for row in range(len(rows))])

    def forward(self, text: Int[Tensor, "b l"]) -> Features:
        """Embed ids of ``tokenize``: ``pooled`` (b, d), not normalised, with gradient to the vectors alone."""
        first = self.model.tokenizer.vocab_size
        if text.numel() and int(text.max()) >= first + len(self.words):
            raise InputError(f"text: expected ids below {first + len(self.words)}, got {int(text.max())}")
        slots = (text - first).clamp(min=-1)
        ids = torch.where(slots >= 0, self.known[slots.clamp(min=0)], text)  # so that the end stays where it is
        with self.resting() as tower:
            rows = put(tower.token_rows(tower.prepare(ids)), placed(tower, ids, slots), self.vectors)
            stream = tower.run(tower.embed(ids, rows=rows))
            return Features(tower.read_out(stream), extra=stream.extra)

    def encode(self, texts: Sequence[str]) -> Features:
        """Embed texts with new words in them; see ``forward``."""
        return self(self.tokenize(texts))
