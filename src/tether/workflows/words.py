"""Words that ``tether adapt --recipe new_word`` learnt, put into the texts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tether.adaptation.heads import load_head
from tether.adaptation.heads.word import WordHead
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.texts.word_embedding_injection import WordedEncoder

Words = str | Path | WordHead | Sequence[str | Path | WordHead]
"""Folders of heads, or heads."""


def with_words(model: DualEncoder, words: Words) -> WordedEncoder:
    """A model that knows learnt words; images and all other texts have the very rows of the model.

    Args:
        model: that the words were learnt on.
        words: one or several, no word twice.

    Raises:
        InputError: no such head, one of another kind, one learnt on another model, or a word twice.

    Example:
        >>> import tether
        >>> from tether.workflows.words import with_words
        >>> model = tether.load("tiny", random_weights=True)
        >>> settings = {"word": "<six>", "init_word": "number", "others": "scenes:rows=8,size=64", "steps": 2}
        >>> done = tether.adapt(model, "scenes:rows=6,size=64,seed=1", recipe={"name": "new_word", **settings})
        >>> with_words(model, done.head).embed(["a <six> on paper"]).shape
        torch.Size([1, 64])
    """
    heads = []
    for one in [words] if isinstance(words, (str, Path, WordHead)) else words:
        head = one if isinstance(one, WordHead) else load_head(one, model=model)
        if not isinstance(head, WordHead):
            raise InputError(
                f"--words: {one}: expected a word of tether adapt --recipe new_word, got a {head.kind} head"
            )
        head.check(model)
        heads.append(head)
    return WordedEncoder(model, [head.token(model) for head in heads])
