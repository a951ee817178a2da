"""A word that was learnt from a few images, as a file bound to both sides of its encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head, Multiplier
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder
from tether.core.ranges import Positive, checked
from tether.core.state_file import SHOWN
from tether.models.composed.cached import side_digest
from tether.models.texts.directional_token import DirectionalToken


@final
class WordHead(Head):
    """Directions of a new word. As a head it gives one logit, how well images fit the word alone; it names no classes.

    Its use is in texts: ``word(model)`` gives the token, ``models.texts.word_embedding_injection.WordedEncoder`` reads
    texts with it.

    Source: DTI (arXiv 2512.13672); the recipe ``new_word`` learns it.
    """

    kind = "word"

    @checked
    def __init__(
        self,
        direction: Float[Tensor, "k w"],
        *,
        start: Float[Tensor, "k w"],
        text: Float[Tensor, "1 d"],
        word: str,
        init_word: str,
        length: Positive,
        text_side: str,
        tokenizer: str,
        scale: Multiplier,
    ) -> None:
        """Take what was learnt.

        Args:
            direction: unit rows.
            start: those of the first word.
            text: unit row of the word in the templates that it was learnt in.
            word: as it stands in texts.
            init_word: the first word.
            length: of the rows that the tower reads.
            text_side: digest of the text side.
            tokenizer: see ``models.texts.directional_token.tokenizer_hash``.
            scale: multiplier of the cosine.

        Raises:
            InputError: shapes that do not fit, rows that are not of length 1, numbers that are not finite, or a
                number for a text.
        """
        super().__init__([word], least=1)
        told = {"init_word": init_word, "text_side": text_side, "tokenizer": tokenizer}
        if wrong := [name for name, value in told.items() if not isinstance(value, str)]:
            raise InputError(f"word head: {wrong[0]!r}: expected a text, got {quoted(told[wrong[0]])}")
        if direction.ndim != 2 or direction.shape != start.shape or text.ndim != 2 or len(text) != 1:
            raise InputError(f"word head: expected rows (k, w) twice and a text (1, d), got {tuple(direction.shape)}")
        self.direction, self.start, self.text = (one.detach().float().cpu() for one in (direction, start, text))
        self.init_word, self.length, self.scale = init_word, length, scale
        self.text_side, self.tokenizer = text_side, tokenizer
        self.check_numbers()
        if bool(((self.direction.norm(dim=1) - 1).abs() > 1e-3).any()):
            raise InputError("word head: 'direction': expected rows of length 1")

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self.text.shape[1]

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """See Head."""
        return self.scale * F.normalize(image, dim=1) @ self.text.T

    def token(self, model: DualEncoder) -> DirectionalToken:
        """The word as a module on its model.

        Raises:
            InputError: another text side or tokenizer than it was learnt with.
        """
        if (found := side_digest(model, "text")) != self.text_side:  # pyrefly: ignore - models of load are modules
            raise InputError(
                f"{self.where}: {self.classes[0]} was learnt on a text side with digest {self.text_side[:SHOWN]}, this "
                f"model's has {found[:SHOWN]}; take the model that it was learnt on, or learn it again"
            )
        made = DirectionalToken(
            model, self.init_word, word=self.classes[0], scale=self.length, tokenizer=self.tokenizer
        )
        if made.direction.shape != self.direction.shape:
            raise InputError(
                f"{self.where}: expected rows {tuple(made.direction.shape)}, got {tuple(self.direction.shape)}"
            )
        with torch.no_grad():
            made.direction.copy_(self.direction)
            made.start.copy_(self.start)
        return made.requires_grad_(False)

    def names_none(self) -> str:
        """See Head."""
        return f"is the word {self.classes[0]} for texts; give it as --words beside --classes"

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {name: getattr(self, name).numpy() for name in ("direction", "start", "text")}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        names = ("init_word", "length", "text_side", "tokenizer", "scale")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> WordHead:
        """See Head."""
        direction, start, text = (torch.from_numpy(np.array(arrays[name])) for name in ("direction", "start", "text"))
        (word,) = classes
        return cls(direction, start=start, text=text, word=word, **settings)
