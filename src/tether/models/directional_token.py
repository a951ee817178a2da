"""New words of fixed length: a direction on the unit sphere for each, learnt from a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, Rate, Whole, checked
from tether.core.types import Features
from tether.models.text_state import text_tokens
from tether.models.text_vectors import FILLER, TextVectors, placed, put
from tether.models.tokenizer import check_texts
from tether.optim.spherical import SphericalSGD

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
        >>> from tether.generate.invert.directional import token_norm_stats
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

    Free rows, as of textual inversion (``models.new_tokens``), grow far beyond the others, and the text tower then
    hardly reads the words around them. A first word of several tokens gives as many rows. Save and load are those of
    ``models.text_vectors``: directions, first word, length, and the digest of the text side.

    Source: DTI (arXiv 2512.13672; kunheek/dti).

    Attributes:
        direction: (k, w) parameter, unit rows; move it with ``SphericalSGD`` alone.
        scale: the length of a row.
        start: (k, w) the directions at first, which the prior pulls to.

    Example:
        >>> from tether.generate.invert.directional import DirectionalToken
        >>> from tether.models import create
        >>> token = DirectionalToken(create("tiny").eval(), "cup", word="<mug>")
        >>> token.encode(["a <mug> on a table", "a cup"]).pooled.shape
        torch.Size([2, 64])
    """

    _format: ClassVar[str] = "tether.directional_token/1"
    start: Tensor

    @checked
    def __init__(
        self, model: DualEncoder, init_word: str, *, word: str = "<new>", scale: Length | Positive = "mean"
    ) -> None:
        """Begin at the direction of a word that is known.

        Args:
            model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
            init_word: one or several words, whose tokens give the first directions.
            word: as it stands in texts, between spaces.
            scale: the mean, least or greatest length of the vocabulary's rows, or a number.

        Raises:
            UnsupportedModelError: the text tower cannot be looked into, with a reason of ``anatomy.exceptions``.
            InputError: no first word, or a new one with a space.
        """
        super().__init__(model, settings={"init_word": init_word, "word": word, "scale": scale})
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
        first, rows = self.model.tokenizer.vocab_size, []
        for text in check_texts(texts):
            pieces = [" ".join(one) for one in split_words(text.split(), self.word)]
            ids = [self.words_of([piece])[0] if piece else [] for piece in pieces]
            new = [first + number for number in range(len(self.direction))]
            rows.append([token for place, piece in enumerate(ids) for token in ([*new, *piece] if place else piece)])
        return self.framed(rows, names=[f"texts, row {row}" for row in range(len(rows))])

    def forward(self, text: Int[Tensor, "b l"]) -> Features:
        """Embed ids of ``tokenize``: ``pooled``, ``tokens`` and ``mask``, with gradient to the directions alone."""
        first, known = self.model.tokenizer.vocab_size, self.get_buffer("known")
        if text.numel() and int(text.max()) >= first + len(known):
            raise InputError(f"text: expected ids below {first + len(known)}, got {int(text.max())}")
        slots = (text - first).clamp(min=-1)
        ids = torch.where(slots >= 0, known[slots.clamp(min=0)], text)
        with self.resting() as tower:
            rows = put(tower.token_rows(tower.prepare(ids)), placed(tower, ids, slots), self.embedding)
            return text_tokens(self.model, ids, rows=rows)

    def encode(self, texts: Sequence[str]) -> Features:
        """Embed texts with the new word in them; what a generator of images takes as ``read``."""
        return self(self.tokenize(texts))

    @checked
    def learn_(
        self,
        loss: Callable[[DirectionalToken, int], Tensor],
        *,
        steps: Count = 400,
        lr: Rate = 0.01,
        kappa: NonNegative = 1e-4,
        first: Whole = 0,
    ) -> tuple[float, ...]:
        """Move the directions to lower a loss, in place; the defaults are the paper's for SDXL.

        Args:
            loss: of this token and the number of the step, a scalar with gradient: ``TextDiffusion.loss`` of a few
                images with ``read=token.encode``, or one of the encoder's own.
            steps: to take.
            lr: radians of each.
            kappa: pull toward the first word.
            first: number of the first step, where others went before.

        Returns:
            The loss of each step.

        Raises:
            InputError: a loss that is not finite; the directions are those of the step before.
        """
        optimizer, losses = SphericalSGD([self.direction], lr=lr, kappa=kappa, target=self.start), list[float]()
        for step in range(first, first + steps):
            value = loss(self, step)
            if not bool(value.detach().isfinite()):
                raise InputError(f"loss: step {step}: expected a finite number, got {float(value.detach())}")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        optimizer.zero_grad(set_to_none=True)
        return tuple(losses)


def split_words(words: Sequence[str], new: str) -> list[list[str]]:
    """Words between the places where a new one stands; punctuation may touch it."""
    pieces: list[list[str]] = [[]]
    for word in words:
        if word.startswith(new) and not word[len(new) :].isalnum():
            pieces.append([word[len(new) :]] if word != new else [])
        else:
            pieces[-1].append(word)
    return pieces
