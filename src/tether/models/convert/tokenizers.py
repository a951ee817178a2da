"""Tokenizers of other libraries under our convention: trimmed rows, zeros after the end, cut texts counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")


class _Callable(Protocol):
    def __call__(self, texts: list[str]) -> Mapping[str, list[list[int]]]: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


class MissingTokenizer:
    """Stands where a model came without its tokenizer: the model takes ids, but no strings."""

    cut = 0

    def __init__(self, reason: str, *, context_length: int, vocab_size: int) -> None:
        """Keep what to say when a text comes."""
        self.reason, self.context_length, self.vocab_size = reason, context_length, vocab_size

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Always an InputError with the reason."""
        raise InputError(f"this model has no tokenizer: {self.reason}")


def open_clip_tokenizer(name: str, cfg: Mapping[str, Any]) -> tuple[Tokenizer, int]:
    """The tokenizer of an open_clip architecture or ``local-dir:`` folder, and the id it pads with."""
    text = cfg["text_cfg"]
    context, size = int(text.get("context_length", 77)), int(text.get("vocab_size", 49_408))
    siglip = "siglip" in name.lower()
    if not text.get("hf_tokenizer_name") and not text.get("tokenizer_kwargs") and not siglip:
        return ClipTokenizer(context), 0
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    try:
        theirs: Any = open_clip.get_tokenizer(name)
    except Exception as error:  # a missing file or a failed download shows in many ways
        return MissingTokenizer(f"{name}: {error}", context_length=context, vocab_size=size), 1 if siglip else 0
    pad = 0 if isinstance(theirs, open_clip.SimpleTokenizer) else int(theirs.tokenizer.pad_token_id or 0)
    if isinstance(theirs, HFTokenizer) and not theirs.tokenizer_mode:
        return _hugging_face(theirs, context=context, size=size), pad
    return _function(theirs, context=context, size=size, pad=pad), pad


def saved_open_clip_tokenizer(folder: Path | None, cfg: Mapping[str, Any], *, pad: int) -> Tokenizer:
    """The tokenizer of an open_clip configuration, offline: from the files in a folder, or the one in the package.

    Raises:
        InputError: the files are not a tokenizer.
    """
    text = cfg["text_cfg"]
    context, size = int(text.get("context_length", 77)), int(text.get("vocab_size", 49_408))
    settings = dict(text.get("tokenizer_kwargs") or {})
    if "trust_remote_code" in settings:
        raise InputError("tokenizer_kwargs: trust_remote_code runs code from a file, so it is refused here")
    if folder is None and not settings:
        return ClipTokenizer(context)
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    if folder is None:
        theirs: Any = open_clip.SimpleTokenizer(context_length=context, **settings)
        return _function(theirs, context=context, size=size, pad=pad)
    mode = text.get("tokenizer_mode")
    try:
        theirs = HFTokenizer(str(folder), context_length=context, tokenizer_mode=mode, **settings)
    except Exception as error:  # malformed files show in many ways
        raise InputError(f"{folder}: its tokenizer could not be loaded: {error}") from error
    if mode:
        return _function(theirs, context=context, size=size, pad=pad)
    return _hugging_face(theirs, context=context, size=size)


def _function(theirs: Any, *, context: int, size: int, pad: int) -> FunctionTokenizer:
    import open_clip

    return FunctionTokenizer(
        lambda texts: _trimmed(theirs(texts), pad),
        context_length=context,
        vocab_size=size,
        write=None if isinstance(theirs, open_clip.SimpleTokenizer) else theirs.tokenizer.save_pretrained,
    )


def _hugging_face(theirs: Any, *, context: int, size: int) -> FunctionTokenizer:
    drop = theirs.tokenizer.sep_token_id if theirs.strip_sep_token else None

    def encode(texts: list[str]) -> list[list[int]]:
        rows = theirs.tokenizer([theirs.clean_fn(text) for text in texts])["input_ids"]
        return [[0 if token == drop else token for token in row] for row in rows]

    write = theirs.tokenizer.save_pretrained
    return FunctionTokenizer(encode, context_length=context, vocab_size=size, write=write)


def _trimmed(padded: Tensor, pad: int) -> list[list[int]]:
    rows = []
    for row in padded.tolist():
        end = len(row)
        while end > 1 and row[end - 1] == pad:
            end -= 1
        rows.append(row[:end])
    return rows


def transformers_tokenizer(folder: Path, *, context: int, vocabulary: int) -> Tokenizer:
    """The tokenizer whose files lie in a folder of transformers."""
    if not any((folder / name).is_file() for name in _FILES):
        reason = f"{folder} holds none of {', '.join(_FILES)}"
        return MissingTokenizer(reason, context_length=context, vocab_size=vocabulary)
    from transformers import AutoTokenizer

    try:
        theirs = cast(_Callable, AutoTokenizer.from_pretrained(folder))
    except Exception as error:  # malformed files show in many ways
        raise InputError(f"{folder}: its tokenizer could not be loaded: {error}") from error

    def encode(texts: list[str]) -> list[list[int]]:
        return theirs(texts)["input_ids"]

    return FunctionTokenizer(encode, context_length=context, vocab_size=vocabulary, write=theirs.save_pretrained)
