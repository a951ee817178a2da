"""CLIP's byte-pair tokenizer: open_clip's own, without the seconds that importing open_clip costs."""

from __future__ import annotations

import functools
import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.core.runtime_protocol import ByAttributes

CACHED_TEXTS = 1 << 17
_LETTERS = 64
"""Characters of a text that are read for each token of the context; a token has about four."""
_LONG_WORD = re.compile(r"[^\W\d_]{1024}(?=[^\W\d_])")
"""A run of letters that is broken: byte-pair coding takes a time that grows with the square of a word's length."""


LongText = Literal["raise", "cut"]
"""What is done with texts longer than the context: an InputError, or they lose their ends, counted and warned of."""


class TextCutWarning(UserWarning):
    """Texts were longer than the model's context and lost their ends."""


@runtime_checkable
class _Bpe(Protocol, metaclass=ByAttributes):
    sot_token_id: int
    eot_token_id: int
    vocab_size: int
    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, str], int]

    def encode(self, text: str) -> list[int]: ...


@functools.cache
def _bpe() -> _Bpe:
    """open_clip's SimpleTokenizer, from its one file: the package itself imports transformers, timm and torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ImportError("tether's tokenizer comes with open_clip_torch; install it with: pip install open_clip_torch")
    spec = importlib.util.spec_from_file_location(
        "tether_open_clip_tokenizer", Path(package.origin).with_name("tokenizer.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"open_clip's tokenizer.py is not where its package is: {package.origin}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(_Bpe, module._tokenizer)


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Ids by token, the two special ones as OpenAI named them, and the merges in order: CLIP's, from the package."""
    ids = dict(_bpe().encoder)
    for ours, theirs in (("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")):
        ids[theirs] = ids.pop(ours)
    return ids, [" ".join(pair) for pair in _bpe().bpe_ranks]


@functools.lru_cache(maxsize=CACHED_TEXTS)
def _clip_ids(text: str) -> tuple[int, ...]:
    bpe = _bpe()
    return (bpe.sot_token_id, *bpe.encode(text), bpe.eot_token_id)


def lengths(text: Tensor) -> Tensor:
    """(b, l) ids with zeros after the end to (b,) lengths: up to the last id that is not zero, at least 1."""
    place = torch.arange(1, text.shape[1] + 1, device=text.device)
    return (place * (text != 0)).amax(1).clamp(min=1)


@checked
def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; a value that is no string is an InputError."""
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts, row {row}: expected a string, got {type(text).__name__} {text!r}")
    return texts


def bounded(texts: Sequence[str], *, context: int) -> list[str]:
    """The texts as a list, each without what lies so far back that it cannot fall within the context."""
    longest = _LETTERS * context
    found = [text if len(text) <= longest else " ".join(text.split())[:longest] for text in check_texts(texts)]
    return [text if len(text) <= 1024 else _LONG_WORD.sub(r"\g<0> ", text) for text in found]


class _Trimming:
    """What tokenizers share: rows trimmed to the longest text; texts past the context cut, counted and warned of once.

    Attributes:
        context_length: longest row it gives.
        vocab_size: number of ids.
        cut: how many texts have been cut so far.
        cuts_meant: whether that is what a recipe is for, so that nothing is said of it.
    """

    def __init__(self, context_length: int, *, vocab_size: int) -> None:
        """Start at zero."""
        self.context_length, self.vocab_size = context_length, vocab_size
        self.cut, self.cuts_meant = 0, False

    def batch(self, rows: Sequence[Sequence[int]], *, long_text: LongText = "cut") -> Tensor:
        """(b, l) int64 from b id lists; a list that is too long keeps its start and its end token, or is an error."""
        long = sum(len(row) > self.context_length for row in rows)
        if long and long_text == "raise":
            first = next(row for row, ids in enumerate(rows) if len(ids) > self.context_length)
            raise InputError(
                f"texts, row {first}: more than the {self.context_length} tokens that the model reads ({long} of "
                f"{len(rows)} texts); expected shorter ones, long_text='cut', or model.resized(context=...)"
            )
        if long:
            if not (self.cut or self.cuts_meant):
                warnings.warn(
                    f"{long} of {len(rows)} texts are longer than {self.context_length} tokens and were cut; of later "
                    "ones nothing is said",
                    TextCutWarning,
                    stacklevel=3,
                )
            self.cut += long
            last = self.context_length - 1
            rows = [row if len(row) <= last + 1 else (*row[:last], row[-1]) for row in rows]
        width = max((len(row) for row in rows), default=0)
        padded = [[*row, *([0] * (width - len(row)))] for row in rows]
        return torch.tensor(padded, dtype=torch.int64).view(len(rows), width)


class ClipTokenizer(_Trimming):
    """Byte-pair ids of CLIP's vocabulary between a start and an end token."""

    def __init__(self, context_length: int = 77) -> None:
        """Cost nothing: the vocabulary loads with the first text."""
        super().__init__(context_length, vocab_size=49_408)

    @checked
    def __call__(self, texts: Sequence[str], *, long_text: LongText = "cut") -> Tensor:
        """(b, l) int64 ids, zero after the end token; longer texts are cut, counted and warned of, or an InputError."""
        return self.batch(
            [_clip_ids(text) for text in bounded(texts, context=self.context_length)], long_text=long_text
        )

    def with_context(self, context: int) -> ClipTokenizer:
        """The same for texts of another length."""
        return ClipTokenizer(context)


class FunctionTokenizer(_Trimming):
    """A tokenizer of another library, brought to the same convention.

    Attributes:
        write: writes its plain files into a folder, or None where it has none.
        source: the other library's tokenizer, where it is one object.
        again: makes the same for another context, where ``encode`` depends on it.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], list[list[int]]],
        *,
        context_length: int,
        vocab_size: int,
        write: Callable[[Path], object] | None = None,
        source: Any = None,
        again: Callable[[int], FunctionTokenizer] | None = None,
    ) -> None:
        """Wrap ``encode``, which gives one unpadded, uncut id list for each text, special tokens included."""
        super().__init__(context_length, vocab_size=vocab_size)
        self.encode, self.write, self.source, self.again = encode, write, source, again

    def with_context(self, context: int) -> FunctionTokenizer:
        """The same for texts of another length."""
        if self.again is not None:
            return self.again(context)
        return FunctionTokenizer(self.encode, context_length=context, vocab_size=self.vocab_size, write=self.write)

    @checked
    def __call__(self, texts: Sequence[str], *, long_text: LongText = "cut") -> Tensor:
        """As ``ClipTokenizer``; ids that the model has no row for are an InputError."""
        ids = self.batch(self.encode(bounded(texts, context=self.context_length)), long_text=long_text)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise InputError(
                f"texts: the tokenizer gave ids {int(ids.min())} to {int(ids.max())}, the model has {self.vocab_size}; "
                "it belongs to another model"
            )
        return ids
