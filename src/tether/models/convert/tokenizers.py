"""Tokenizers of other libraries under our convention: trimmed rows, zeros after the end, cut texts counted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tether.core.errors import InputError, refusing
from tether.core.protocols import Tokenizer
from tether.models.config_check import of_kind
from tether.models.convert.tokenizer_folder import TOKENIZER_FILES, plain_copy
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer, LongText
from tether.models.towers.config import CLIP_VOCABULARY

_SETTINGS: Mapping[str, type] = {"clean": str, "strip_sep_token": bool, "language": str}
"""What a configuration may say of open_clip's tokenizers; the rest names files, code or chance."""


class MissingTokenizer:
    """Stands where a model came without its tokenizer: the model takes ids, but no strings."""

    cut = 0

    def __init__(self, reason: str, *, context_length: int, vocab_size: int) -> None:
        """Keep what to say when a text comes."""
        self.reason, self.context_length, self.vocab_size = reason, context_length, vocab_size

    def __call__(self, texts: Sequence[str], *, long_text: LongText = "cut") -> Tensor:
        """Always an InputError with the reason."""
        raise InputError(f"this model has no tokenizer: {self.reason}")

    def with_context(self, context: int) -> MissingTokenizer:
        """The same for texts of another length."""
        return MissingTokenizer(self.reason, context_length=context, vocab_size=self.vocab_size)


def named_open_clip_tokenizer(name: str, cfg: Mapping[str, Any]) -> tuple[Tokenizer, int]:
    """The tokenizer of an architecture that open_clip knows, which may come from the hub, and the id it pads with."""
    text = cfg["text_cfg"]
    siglip, hub = "siglip" in name.lower(), bool(text.get("hf_tokenizer_name"))
    pad = 1 if siglip and "siglip2" not in name.lower() else 0
    if not hub and not siglip:
        return local_open_clip_tokenizer(None, cfg)
    import open_clip

    context, size = text_sizes(text)
    guard: dict[str, Any] = {"trust_remote_code": False} if hub else {}
    try:
        theirs: Any = open_clip.get_tokenizer(name, **guard)
    except Exception as error:  # a missing file or a failed download shows in many ways
        return MissingTokenizer(f"{name}: {error}", context_length=context, vocab_size=size), pad
    return _wrapped(theirs, context=context, size=size, where=name)


def local_open_clip_tokenizer(folder: Path | None, cfg: Mapping[str, Any]) -> tuple[Tokenizer, int]:
    """The tokenizer of an open_clip configuration without a network or code: from plain files, or open_clip's own.

    Args:
        folder: with the tokenizer's files; None for the one in the package.
        cfg: open_clip's ``model_cfg``.

    Returns:
        The tokenizer, and the id that it pads with.
    """
    text = cfg["text_cfg"]
    context, size = text_sizes(text)
    settings = text.get("tokenizer_kwargs") or {}
    for key, value in settings.items():
        if key not in _SETTINGS:
            why = "runs code from a file, so it is" if key == "trust_remote_code" else "is"
            raise InputError(f"tokenizer_kwargs: {key} {why} refused here; known: {', '.join(_SETTINGS)}")
        of_kind(value, _SETTINGS[key], where=f"tokenizer_kwargs.{key}")
    if folder is None and size < CLIP_VOCABULARY:
        reason = f"its vocabulary has {size} ids, open_clip's own tokenizer gives {CLIP_VOCABULARY}"
        return MissingTokenizer(reason, context_length=context, vocab_size=size), 0
    if folder is None and not settings:
        return ClipTokenizer(context), 0
    if folder is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        reason = f"{folder} holds none of {', '.join(TOKENIZER_FILES)}"
        return MissingTokenizer(reason, context_length=context, vocab_size=size), 0
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    if folder is None:
        theirs: Any = open_clip.SimpleTokenizer(context_length=context, **settings)
        return _wrapped(theirs, context=context, size=size, where="tokenizer_kwargs")
    mode = text.get("tokenizer_mode")
    if mode not in (None, "", "clips"):
        raise InputError(f"tokenizer_mode: expected clips or nothing, got {mode!r:.100}")
    more: dict[str, Any] = {**settings, "context_length": context, "tokenizer_mode": mode, "local_files_only": True}
    with plain_copy(folder) as copy, refusing(f"{folder}: its tokenizer could not be loaded"):
        theirs = HFTokenizer(str(copy), trust_remote_code=False, **more)
    return _wrapped(theirs, context=context, size=size, where=str(folder))


def text_sizes(text: Mapping[str, Any]) -> tuple[int, int]:
    """Context and vocabulary of open_clip's ``text_cfg``."""
    return int(text.get("context_length", 77)), int(text.get("vocab_size", 49_408))


def _wrapped(theirs: Any, *, context: int, size: int, where: str) -> tuple[FunctionTokenizer, int]:
    """open_clip's tokenizer behind our protocol, and the id that it pads with."""
    import open_clip

    theirs = copy.copy(theirs)
    theirs.context_length = context + 1  # where it cuts by itself, one token too many shows which texts are longer
    failed = f"{where}: its tokenizer failed"
    if isinstance(theirs, open_clip.SimpleTokenizer):
        pad, write = 0, None
    else:
        pad, write = int(theirs.tokenizer.pad_token_id or 0), theirs.tokenizer.save_pretrained

    def padded(texts: list[str]) -> list[list[int]]:
        with refusing(failed):
            return _trimmed(theirs(texts), pad)

    def plain(texts: list[str]) -> list[list[int]]:
        cleaned = [theirs.clean_fn(text) for text in texts]
        with refusing(failed):
            rows = _uncut(theirs.tokenizer, cleaned, context=context)
        drop = theirs.tokenizer.sep_token_id if theirs.strip_sep_token else None
        return [[0 if token == drop else token for token in row] for row in rows]

    whole = isinstance(theirs, open_clip.tokenizer.HFTokenizer) and not theirs.tokenizer_mode

    def again(longest: int) -> FunctionTokenizer:
        return _wrapped(theirs, context=longest, size=size, where=where)[0]

    encode = plain if whole else padded
    return FunctionTokenizer(encode, context_length=context, vocab_size=size, write=write, again=again), pad


def _uncut(tokenizer: Any, texts: list[str], *, context: int) -> list[list[int]]:
    """Ids of transformers' tokenizer; those of a longer text than the context are cut by its own rule but one too many.

    The one too many is the last id again: our cut counts such a text, keeps its last id and drops the one before.
    """
    rows = tokenizer(texts, verbose=False)["input_ids"]
    long = [row for row, ids in enumerate(rows) if len(ids) > context]
    if long:
        cut = tokenizer([texts[row] for row in long], truncation=True, max_length=context)["input_ids"]
        for row, ids in zip(long, cut, strict=True):
            rows[row] = [*ids, ids[-1]]
    return rows


def _trimmed(padded: Tensor, pad: int) -> list[list[int]]:
    rows = []
    for row in padded.tolist():
        end = len(row)
        while end > 1 and row[end - 1] == pad:
            end -= 1
        rows.append(row[:end])
    return rows


@dataclass(frozen=True, slots=True)
class TextPadding:
    """How texts are padded.

    Attributes:
        pad: the id of padding.
        masked: the text tower is given a mask of what is no padding.
        left: padding comes first.
    """

    pad: int
    masked: bool = True
    left: bool = False


def transformers_tokenizer(
    folder: Path, *, context: int, vocabulary: int, lower_gemma: bool = False
) -> FunctionTokenizer | MissingTokenizer:
    """The tokenizer whose plain files lie in a folder of transformers, without a network or code.

    Args:
        folder: with the files.
        context: longest text of the model; the tokenizer's own limit, where it is lower, counts.
        vocabulary: number of ids of the model.
        lower_gemma: lower the case where the tokenizer is Gemma's, which keeps it: SigLIP 2 was trained so.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        reason = f"{folder} holds none of {', '.join(TOKENIZER_FILES)}"
        return MissingTokenizer(reason, context_length=context, vocab_size=vocabulary)
    from transformers import AutoTokenizer

    with plain_copy(folder) as copy, refusing(f"{folder}: its tokenizer could not be loaded"):
        theirs: Any = AutoTokenizer.from_pretrained(copy, trust_remote_code=False, local_files_only=True)
        if lower_gemma and type(theirs).__name__.startswith("Gemma"):
            from tokenizers import normalizers

            inner = theirs.backend_tokenizer
            kept = [] if inner.normalizer is None else [inner.normalizer]
            inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), *kept])
        longest = int(theirs.model_max_length)

    context = max(1, min(context, longest))
    return _around(theirs, context=context, vocabulary=vocabulary, where=str(folder))


def _around(theirs: Any, *, context: int, vocabulary: int, where: str) -> FunctionTokenizer:
    """Transformers' tokenizer behind our protocol."""

    def encode(texts: list[str]) -> list[list[int]]:
        with refusing(f"{where}: its tokenizer failed"):
            return _uncut(theirs, texts, context=context)

    def again(longest: int) -> FunctionTokenizer:
        other = copy.deepcopy(theirs)
        other.model_max_length = longest  # which its files say, and which counts where it is lower than the model's
        return _around(other, context=longest, vocabulary=vocabulary, where=where)

    return FunctionTokenizer(
        encode,
        context_length=context,
        vocab_size=vocabulary,
        write=theirs.save_pretrained,
        source=theirs,
        again=again,
    )


def text_padding(tokenizer: Tokenizer, *, pad: int | None, masked: bool) -> TextPadding:
    """How the texts of a ``transformers_tokenizer`` are padded: as its files say, else as given.

    A class's own default of side and mask is not what a file says: SigLIP 2 was trained on the right without a mask,
    which the files of the published models say and the class of their tokenizer does not.

    Args:
        tokenizer: the tokenizer, or what stands for it.
        pad: the model's id of padding, for a tokenizer that names none.
        masked: what the model's class does where the files do not say.
    """
    source = tokenizer.source if isinstance(tokenizer, FunctionTokenizer) else None
    if source is None:
        return TextPadding(pad or 0, masked)
    said = source.init_kwargs
    names = said.get("model_input_names")
    return TextPadding(
        (pad or 0) if source.pad_token_id is None else source.pad_token_id,
        masked if names is None else "attention_mask" in names,
        said.get("padding_side") == "left",
    )
