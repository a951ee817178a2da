"""A model's tokenizer beside its weights: plain files in ``tokenizer/``, written whole."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Literal, get_args

from tether.core.atomic_io import atomic_folder, write_json, write_text
from tether.core.component import closest
from tether.core.errors import InputError, WriteError
from tether.core.protocols import Tokenizer
from tether.models.convert.tokenizers import MissingTokenizer, transformers_tokenizer
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer, clip_vocabulary
from tether.models.towers.config import CLIP_VOCABULARY

TOKENIZER_FOLDER = "tokenizer"
_CLIP = {
    "tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
}  # fmt: skip
Kind = Literal["built_in", "files", "none"]


def tokenizer_kind(tokenizer: Tokenizer) -> Kind:
    """``files``: written beside; ``built_in``: a package has it; ``none``: the model came without.

    Raises:
        InputError: none of these, so the model could not be loaded again.
    """
    if isinstance(tokenizer, MissingTokenizer):
        return "none"
    if isinstance(tokenizer, FunctionTokenizer) and tokenizer.write is not None:
        return "files"
    if isinstance(tokenizer, (ClipTokenizer, FunctionTokenizer)):
        return "built_in"
    raise InputError(f"save: expected the tokenizer that the model came with, got {type(tokenizer).__name__}")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write its files into ``folder/tokenizer``, all or none; a tokenizer without files leaves no such folder.

    Raises:
        WriteError: they cannot be written, as on a full disk; those of an earlier save are unchanged.
    """
    target = folder / TOKENIZER_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(tokenizer, FunctionTokenizer) and tokenizer.write is not None:
            with atomic_folder(target, replace=True) as new:  # elsewhere first: the source may lie in the folder itself
                tokenizer.write(new)
        else:
            shutil.rmtree(target, ignore_errors=True)  # of an earlier save
    except WriteError:
        raise
    except Exception as error:  # the libraries that write these files raise of many kinds
        raise WriteError(target, error) from error


def export_tokenizer(tokenizer: Tokenizer, folder: Path, *, format: Literal["open_clip", "transformers"]) -> None:
    """Write a tokenizer beside the weights as another library reads it; open_clip carries CLIP's own itself.

    Raises:
        WriteError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, MissingTokenizer):
        warnings.warn(
            f"{folder}: has no tokenizer, since the model has none ({tokenizer.reason}); put its files there, for "
            "transformers makes up one that knows no words",
            stacklevel=3,
        )
    elif isinstance(tokenizer, FunctionTokenizer) and tokenizer.write is not None:
        try:
            tokenizer.write(folder)
        except Exception as error:  # the libraries that write these files raise of many kinds
            raise WriteError(folder, error) from error
    elif format == "transformers":
        ids, merges = clip_vocabulary()
        write_json(folder / "vocab.json", ids)
        write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
        write_json(folder / "tokenizer_config.json", _CLIP | {"model_max_length": tokenizer.context_length})


def read_kind(kind: object, *, path: Path) -> Kind:
    """A checked ``tokenizer`` of the ``model.json`` at ``path``."""
    for known in get_args(Kind):
        if kind == known:
            if kind == "files" and not (path.parent / TOKENIZER_FOLDER).is_dir():
                raise InputError(f"{path.parent / TOKENIZER_FOLDER}: no such folder; expected the model's tokenizer")
            return known
    raise InputError(f"{path}: tokenizer: unknown {kind!r}; {closest(str(kind), get_args(Kind))}")


def saved_tokenizer(kind: Kind, *, path: Path, context: int, vocabulary: int, lower_gemma: bool = False) -> Tokenizer:
    """The tokenizer of a saved model: its files beside ``path``, CLIP's own, or what stands for none.

    Args:
        kind: what the ``model.json`` says.
        path: the ``model.json``.
        context: longest text of the model.
        vocabulary: number of its ids; CLIP's own tokenizer serves no other.
        lower_gemma: as ``transformers_tokenizer``.
    """
    if kind == "files":
        folder = path.parent / TOKENIZER_FOLDER
        return transformers_tokenizer(folder, context=context, vocabulary=vocabulary, lower_gemma=lower_gemma)
    if kind == "built_in" and vocabulary == CLIP_VOCABULARY:
        return ClipTokenizer(context)
    return no_tokenizer(path, context=context, vocabulary=vocabulary)


def no_tokenizer(path: Path, *, context: int, vocabulary: int) -> MissingTokenizer:
    """What stands in a model whose ``model.json`` says ``none``."""
    reason = f"{path} was saved from a model without one"
    return MissingTokenizer(reason, context_length=context, vocab_size=vocabulary)
