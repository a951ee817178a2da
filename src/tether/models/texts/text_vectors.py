"""Learnt vectors that a text tower at rest reads among the rows of its words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.models.composed.cached import side_digest
from tether.models.features.find import text_anatomy
from tether.models.features.tower import TextAnatomy
from tether.models.tokenizer import check_texts, lengths
from tether.models.towers.sizes import tokenizer_at

FILLER = "a"  # a word whose id stands where a vector is read
_WIDER = 16  # contexts that are read of a text, to say by how much it is too long


Vectors = TypeVar("Vectors", bound="TextVectors")


class TextVectors(nn.Module):
    """What modules share that learn vectors: the encoder is no part of their state and gets no gradient."""

    _format: ClassVar[str]
    model: Any

    def __init__(self, model: DualEncoder, *, settings: dict[str, Any]) -> None:
        """Hold the encoder; one whose text tower cannot be looked into is refused."""
        super().__init__()
        text_anatomy(model)
        self.__dict__["model"], self.settings = model, settings  # not registered as a module
        empty = self._tokens(self.model.tokenizer, [""])[0]
        self.before, self.after = empty[:-1], empty[-1:]

    @contextlib.contextmanager
    def resting(self) -> Iterator[TextAnatomy]:
        """The text tower, whose weights get no gradient from what is computed inside."""
        learning = [value for value in self.model.parameters() if value.requires_grad]
        for value in learning:
            value.requires_grad_(False)
        try:
            yield text_anatomy(self.model)
        finally:
            for value in learning:
                value.requires_grad_(True)

    def save(self, path: Path | str) -> None:
        """Write vectors, settings and the digest of the encoder's text side to one safetensors file, atomically."""
        settings = {"encoder": side_digest(self.model, "text"), "settings": self.settings}
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=self._format, settings=settings, arrays=arrays)

    @classmethod
    def load(cls: type[Vectors], path: Path | str, *, model: Any) -> Vectors:
        """Read what ``save`` wrote, with nothing unpickled; files of another kind or text side are an InputError."""
        written, arrays = read_state(path, what=cls.__name__, format=cls._format)
        digest = side_digest(model, "text")
        check_encoder(path, recorded=str(written.get("encoder")), encoder=None, digest=digest, name="a text tower")
        try:
            found = cls(model, **written["settings"])
            found.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected the settings and vectors of a {cls.__name__}: {error}") from error
        return found

    def token_rows(self, ids: Sequence[int]) -> Float[Tensor, "n w"]:
        """The table's rows of words, at least float32."""
        given = torch.tensor([ids], dtype=torch.int64, device=self.model.logit_scale.device)
        rows = text_anatomy(self.model).token_rows(given)[0].detach()
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def words_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the words of each text, past the context too, without what stands before and after them."""
        tokenizer = self.model.tokenizer
        rows = self._tokens(tokenizer_at(tokenizer, _WIDER * tokenizer.context_length), texts)
        return [row[len(self.before) : len(row) - len(self.after)] for row in rows]

    def ids_of(self, texts: Sequence[str], new: Mapping[str, Sequence[int]]) -> list[list[int]]:
        """Ids of texts, past the context too, without what stands before and after; new words have those given."""
        pattern = word_pattern(new)
        pieces = [[piece.rstrip() for piece in pattern.split(text)] for text in check_texts(texts)]
        plain = list(dict.fromkeys(piece for row in pieces for piece in row if piece not in new))
        ids = (
            dict(zip(plain, self.words_of(plain), strict=True)) | {"": []} | {word: [*row] for word, row in new.items()}
        )
        return [[value for piece in row for value in ids[piece]] for row in pieces]

    @staticmethod
    def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        ids = tokenizer(texts, long_text="raise")
        return [row[: lengths(row[None])].tolist() if len(row) else [] for row in ids]

    def framed(self, words: Sequence[Sequence[int]], *, names: Sequence[str]) -> Int[Tensor, "b l"]:
        """Ids of words as the encoder takes them, zero after the end; texts past the context are refused by name."""
        rows, context = [[*self.before, *ids, *self.after] for ids in words], self.model.tokenizer.context_length
        for name, row in zip(names, rows, strict=True):
            if len(row) > context:
                more = f"{len(row) - context} tokens more than the {context} that the model reads"
                raise InputError(f"{name}: {more}; expected fewer words or vectors, or model.resized(context=...)")
        width = max(map(len, rows), default=0)
        padded = [[*row, *([0] * (width - len(row)))] for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=self.model.logit_scale.device).view(len(rows), width)


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Finds words in texts, longer ones first, where they are no part of another word; they are its one group."""
    either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?:(?<!\w)|(?=\W))({either})(?:(?!\w)|(?<=\W))")


def placed(tower: TextAnatomy, ids: Int[Tensor, "b l"], slots: Int[Tensor, "b l"]) -> Int[Tensor, "b n"]:
    """Slots of ids where their tower has them, which may pad on either side; -1 elsewhere."""
    ready, count = tower.prepare(ids), lengths(ids)
    real = torch.arange(ids.shape[1], device=ids.device) < count[:, None]
    left = not torch.equal(ready[:, : ids.shape[1]][real], ids[real])
    row, place = real.nonzero(as_tuple=True)
    found = slots.new_full(ready.shape, -1)
    found[row, place + (ready.shape[1] - count[row] if left else 0)] = slots[real]
    return found


def put(rows: Float[Tensor, "b n w"], slots: Int[Tensor, "b m"], vectors: Float[Tensor, "v w"]) -> Tensor:
    """Rows with vectors in the slots that are not -1; what follows the slots stays."""
    slots = F.pad(slots, (0, rows.shape[1] - slots.shape[1]), value=-1)[..., None]
    return torch.where(slots >= 0, vectors.to(rows.dtype)[slots[..., 0].clamp(min=0)], rows)
