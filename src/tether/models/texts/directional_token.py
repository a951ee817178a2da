"""New words of fixed length, of which only directions on the unit sphere are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import texts_digest
from tether.core.protocols import DualEncoder, Tokenizer
from tether.core.ranges import Positive, checked
from tether.core.types import Features
from tether.models.texts.text_state import text_tokens
from tether.models.texts.text_vectors import FILLER, TextVectors, placed, put
from tether.models.towers.sizes import tokenizer_at

Length = Literal["mean", "min", "max"]


class NormStats(NamedTuple):
    """Lengths of the rows of a table of words, all-zero rows left out.

    Attributes:
        mean: of them.
        min: the shortest.
        max: the longest.
    """

    mean: float
    min: float
    max: float


def token_norm_stats(embedding: Tensor) -> NormStats:
    """How long the rows of a table of words are; rows of zeros, which are padding, do not count.

    Args:
        embedding: (v, w), a row for each word.

    Raises:
        InputError: no row with a length.

    Source: DTI (arXiv 2512.13672; kunheek/dti, embedding.py).

    Example:
        >>> import torch
        >>> from tether.models.texts.directional_token import token_norm_stats
        >>> token_norm_stats(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]]))
        NormStats(mean=3.0, min=1.0, max=5.0)
    """
    if embedding.ndim != 2:
        raise InputError(f"embedding: expected a table (v, w), got {tuple(embedding.shape)}")
    lengths = torch.linalg.vector_norm(embedding.detach().double(), dim=1)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        raise InputError("embedding: expected a row with a length above 0, got none")
    return NormStats(float(lengths.mean()), float(lengths.min()), float(lengths.max()))


class DirectionalToken(TextVectors):
    """A new word whose rows have the length of the vocabulary's, and of which only directions are learnt.

    Free rows, as of textual inversion (``models.texts.new_tokens``), grow far beyond the others, and the text tower
    then hardly reads the words around them. A first word of several tokens gives as many rows. Save and load are those
    of ``models.texts.text_vectors``: directions, first word, length, a hash of the tokenizer and the digest of the text
    side.

    Source: DTI (arXiv 2512.13672; kunheek/dti).

    Attributes:
        direction: (k, w) parameter, unit rows; move it with ``methods.dti.optimizer.SphericalSGD`` alone.
        scale: the length of a row.
        start: (k, w) the directions at first, which the prior pulls to.

    Example:
        >>> from tether.models.texts.directional_token import DirectionalToken
        >>> from tether.models import create
        >>> token = DirectionalToken(create("tiny").eval(), "cup", word="<mug>")
        >>> token.encode(["a <mug> on a table", "a cup"]).pooled.shape
        torch.Size([2, 64])
    """

    _format: ClassVar[str] = "tether.directional_token/1"
    start: Tensor

    @checked
    def __init__(
        self,
        model: DualEncoder,
        init_word: str,
        scale: Length | Positive = "mean",
        *,
        word: str = "<new>",
        tokenizer: str | None = None,
    ) -> None:
        """Begin at the direction of a word that is known.

        Args:
            model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
            init_word: one or several words, whose tokens give the first directions.
            scale: the mean, least or greatest length of the vocabulary's rows, or a number.
            word: as it stands in texts, between spaces.
            tokenizer: ``tokenizer_hash`` that the model's must have; None takes any.

        Raises:
            UnsupportedModelError: the text tower cannot be looked into, with a reason of ``models.refusals``.
            InputError: no first word, a new one with a space, or another tokenizer.
        """
        found = tokenizer_hash(model.tokenizer)
        if tokenizer not in (None, found):
            raise InputError(f"tokenizer: the word was learnt with one of hash {tokenizer!r}, this model's has {found}")
        super().__init__(model, settings={"init_word": init_word, "word": word, "scale": scale, "tokenizer": found})
        if not init_word.strip() or word.split() != [word]:
            raise InputError(
                f"init_word, word: expected words, the new one without spaces, got {init_word!r}, {word!r}"
            )
        filler, known = self.words_of([FILLER, f"{FILLER} {init_word}"])
        known = known[len(filler) :]  # as it is coded after another word
        rows = self.token_rows(known)
        if not bool((rows.square().sum(1) > 0).all()):
            raise InputError(f"init_word: expected words whose rows have a length, got {init_word!r}")
        self.word = word
        self.scale = getattr(self.vocabulary(), scale) if isinstance(scale, str) else float(scale)
        self.direction = nn.Parameter(F.normalize(rows, dim=1))
        self.register_buffer("start", self.direction.detach().clone())
        self.register_buffer("known", torch.tensor(known, device=rows.device), persistent=False)

    @property
    def embedding(self) -> Float[Tensor, "k w"]:
        """The rows that the tower reads, with gradient."""
        return self.scale * self.direction

    def vocabulary(self) -> NormStats:
        """Lengths of the rows of the tower's words."""
        return token_norm_stats(self.token_rows(range(self.model.tokenizer.vocab_size)))

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "b l"]:
        """(b, l) ids, zero after the end, those of the new word's rows beyond the vocabulary."""
        first = self.model.tokenizer.vocab_size
        rows = self.ids_of(texts, {self.word: range(first, first + len(self.direction))})
        return self.framed(rows, names=[f"texts, row {row}" for row in range(len(rows))])

    def forward(self, text: Int[Tensor, "b l"]) -> Features:
        """Embed ids of ``tokenize``: ``pooled``, ``tokens`` and ``mask``, with gradient to the directions alone."""
        return read_new(self, text, known=self.get_buffer("known"), rows=self.embedding)

    def encode(self, texts: Sequence[str]) -> Features:
        """Embed texts with the new word in them; what a generator of images takes as ``read``."""
        return self(self.tokenize(texts))


def read_new(
    owner: TextVectors, text: Int[Tensor, "b l"], *, known: Int[Tensor, " n"], rows: Float[Tensor, "n w"]
) -> Features:
    """Texts whose ids beyond the vocabulary are new rows: ``pooled``, ``tokens`` and ``mask``.

    Args:
        owner: whose text tower reads them.
        text: ids, zero after the end.
        known: ids that stand for the rows where the tower looks for the end.
        rows: that are read in their places.
    """
    first = owner.model.tokenizer.vocab_size
    if text.numel() and int(text.max()) >= first + len(known):
        raise InputError(f"text: expected ids below {first + len(known)}, got {int(text.max())}")
    slots = (text - first).clamp(min=-1)
    ids = torch.where(slots >= 0, known[slots.clamp(min=0)], text)
    with owner.resting() as tower:
        found = put(tower.token_rows(tower.prepare(ids)), placed(tower, ids, slots), rows)
        return text_tokens(owner.model, ids, rows=found)


PROBES = (
    "The quick brown fox jumps over the lazy dog", "0123456789", "a,b.c;d:e!f?g'h-i(j)k", "Straße naïve ñandú",
    "猫と犬", "a photo of a small red cup",
)  # fmt: skip


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """32 hex digits of how many ids a tokenizer has, and which it gives for a few texts.

    Example:
        >>> from tether.models import create
        >>> from tether.models.texts.directional_token import tokenizer_hash
        >>> tokenizer_hash(create("tiny").tokenizer) == tokenizer_hash(create("tiny", seed=1).tokenizer)
        True
    """
    found = [str(tokenizer.vocab_size)]
    for text in PROBES:
        try:
            found.append(str(tokenizer_at(tokenizer, 64)([text], long_text="raise").tolist()))
        except (InputError, KeyError, ValueError):  # one that knows a few words alone
            found.append("refused")
    return texts_digest(found)[:32]
