"""A model's tokenizer as one ``tokenizer.json``, which the package tokenizers reads without torch; and back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import parse_json, read_text
from tether.core.errors import InputError, MissingExtraError, refusing
from tether.core.protocols import Tokenizer
from tether.models.convert.tokenizer_folder import check_growth
from tether.models.encoders.onnx.description import TokenizerKind
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer, clip_vocabulary, lengths

TOKENIZER_FILE = "tokenizer.json"
PROBES = (
    "", "a", "a photo of a cat", "A Photo of THREE dogs, in the sun!", "it's 42 degrees; they've gone", "two  spaces",
    "naïve café, Übermut", "snow-white (1937): the film?", "ein Hund läuft", "red #ff0000 & blue", "two\nlines\tand",
    "a man riding a wave on top of a surfboard",
)  # fmt: skip
"""Texts that a file must read as the model's tokenizer does, or it is not written."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_QUOTES = (("[\u2018\u2019\u201b]", "'"), ("[\u201c\u201d\u201f]", '"'))
"""Typographic ones, which open_clip reads as plain ones."""
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_tokenizer_json(tokenizer: Tokenizer, folder: Path) -> tuple[TokenizerKind, str]:
    """Write ``tokenizer.json`` where one reads texts as the model's tokenizer does.

    Returns:
        The kind of tokenizer that the folder has, and why it has none, or nothing.
    """
    if isinstance(tokenizer, ClipTokenizer):
        _clip().save(str(folder / TOKENIZER_FILE))
        return "clip", ""
    if not isinstance(tokenizer, FunctionTokenizer):
        return "none", f"the model has none ({getattr(tokenizer, 'reason', type(tokenizer).__name__)})"
    for made in _candidates(tokenizer):
        if same_ids(tokenizer, made, PROBES) == 1:
            made.no_padding()
            made.no_truncation()
            made.save(str(folder / TOKENIZER_FILE))
            return "json", ""
    return "none", "no tokenizer.json reads texts as the model's tokenizer does; take the ids from the model"


def same_ids(tokenizer: Tokenizer, made: Any, texts: Sequence[str]) -> float:
    """The share of texts to which a tokenizer of the package tokenizers gives the model's ids."""
    found = tokenizer(texts)
    rows = [row[:length].tolist() for row, length in zip(found, lengths(found).tolist(), strict=True)]
    theirs = cut_ids(made, list(texts), context=tokenizer.context_length)
    return sum(_bare(row) == _bare(other) for row, other in zip(rows, theirs, strict=True)) / max(1, len(rows))


def read_tokenizer_json(path: Path, *, context: int, vocabulary: int) -> FunctionTokenizer:
    """The tokenizer in anyone's ``tokenizer.json``, under our convention.

    Raises:
        InputError: no such file, or not one of the package tokenizers.
    """
    text = read_text(path)
    check_growth(parse_json(text, where=str(path)), where=str(path))
    with refusing(f"{path}: its tokenizer could not be loaded"):
        made = _library().Tokenizer.from_str(text)
        made.no_padding()
        made.no_truncation()

    def encode(texts: list[str]) -> list[list[int]]:
        with refusing(f"{path}: its tokenizer failed"):
            rows = [found.ids for found in made.encode_batch(texts)]
            long = [row for row, ids in enumerate(rows) if len(ids) > context]
            cut = cut_ids(made, [texts[row] for row in long], context=context)
        for row, ids in zip(long, cut, strict=True):
            rows[row] = [*ids, ids[-1]]  # one too many, so that the cut is counted
        return rows

    return FunctionTokenizer(encode, context_length=context, vocab_size=vocabulary)


def cut_ids(made: Any, texts: list[str], *, context: int) -> list[list[int]]:
    """Ids of at most ``context``, cut by the tokenizer's own rule."""
    made.enable_truncation(context)
    try:
        return [found.ids for found in made.encode_batch(texts)]
    finally:
        made.no_truncation()


def _bare(ids: list[int]) -> list[int]:
    """Without zeros at the end, which are padding."""
    while ids and ids[-1] == 0:
        ids = ids[:-1]
    return ids


def _candidates(tokenizer: FunctionTokenizer) -> list[Any]:
    """What its own library writes, as it is, and behind each way in which open_clip cleans texts before."""
    if tokenizer.write is None:
        return [_clip()]
    library = _library()
    with tempfile.TemporaryDirectory() as name:
        tokenizer.write(Path(name))
        file = Path(name) / TOKENIZER_FILE
        if not file.is_file():
            return []
        made = [library.Tokenizer.from_file(str(file)) for _ in _CLEANING]
    for one, before in zip(made, _CLEANING, strict=True):
        steps = [*before(library.normalizers, library.Regex), *([one.normalizer] if one.normalizer else [])]
        if steps:
            one.normalizer = library.normalizers.Sequence(steps)
        one.no_padding()
    return made


def _spaces(normalizers: Any, regex: Any) -> list[Any]:
    return [normalizers.Replace(regex(r"\s+"), " "), normalizers.Strip()]


def _lower(normalizers: Any, regex: Any) -> list[Any]:
    return [*_spaces(normalizers, regex), normalizers.Lowercase()]


def _canonical(normalizers: Any, regex: Any) -> list[Any]:
    bare = [normalizers.Replace("_", " "), normalizers.Replace(regex(r"[!-/:-@\[-`{-~]"), ""), normalizers.Lowercase()]
    return [*bare, *_spaces(normalizers, regex)]


_CLEANING: tuple[Callable[[Any, Any], list[Any]], ...] = (lambda normalizers, regex: [], _spaces, _lower, _canonical)


def _clip() -> Any:
    """CLIP's own byte-pair coding; texts that open_clip mends first (HTML, wrong encodings) it takes as they are."""
    library = _library()
    ids, merges = clip_vocabulary()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = library.models.BPE(ids, pairs, unk_token=_END, continuing_subword_prefix="", end_of_word_suffix="</w>")
    made = library.Tokenizer(model)
    normal, split = library.normalizers, library.pre_tokenizers
    plain = [normal.Replace(library.Regex(curly), straight) for curly, straight in _QUOTES]
    spaces = normal.Replace(library.Regex(r"\s+"), " ")
    made.normalizer = normal.Sequence([normal.NFC(), *plain, spaces, normal.Lowercase()])
    words = split.Split(library.Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = split.Sequence([words, split.ByteLevel(add_prefix_space=False, use_regex=False)])
    ends = [(_START, ids[_START]), (_END, ids[_END])]
    made.post_processor = library.processors.TemplateProcessing(single=f"{_START} $A {_END}", special_tokens=ends)
    return made


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers", extra="onnx") from None
    return tokenizers


def kept_tokenizer(kind: TokenizerKind, folder: Path, *, context: int, vocabulary: int) -> Tokenizer:
    """The tokenizer of an exported folder, of the kind that its description says.

    Raises:
        InputError: CLIP's own for another vocabulary, or a file that is missing or broken.
    """
    from tether.models.convert.tokenizers import MissingTokenizer

    if kind == "none":
        reason = f"{folder} was exported without one"
        return MissingTokenizer(reason, context_length=context, vocab_size=vocabulary)
    if kind == "json":
        return read_tokenizer_json(folder / TOKENIZER_FILE, context=context, vocabulary=vocabulary)
    clip = ClipTokenizer(context)
    if vocabulary < clip.vocab_size:
        raise InputError(f"{folder}: CLIP's tokenizer has {clip.vocab_size} ids, its text tower {vocabulary}")
    return clip
