"""transformers' tokenizers from a folder of anyone's: plain files and known classes only; no code, no network."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import MAX_CONFIG_BYTES, parse_json, read_bytes, read_json
from tether.core.errors import InputError
from tether.models.config_check import blamed_on, check_values, mapping
from tether.models.convert.transformers_families import FAMILIES

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")
"""One of these makes a folder one of a tokenizer."""
COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
"""The plain files of tokenizers, all that is read."""
CONFIG = "tokenizer_config.json"
MOST_GROWTH = 1024
"""Lengths of all replacements of a ``tokenizer.json`` multiplied; those of known models give 1 to 3."""
_CLASSES = (
    "Albert", "Bart", "Bert", "Camembert", "CLIP", "Deberta", "DebertaV2", "DistilBert", "Gemma", "GPT2", "Llama",
    "M2M100", "MBart", "MPNet", "MT5", "Nllb", "Qwen2", "RemBert", "Roberta", "Siglip", "Siglip2", "T5", "XLMRoberta",
    "XLNet", "PreTrained",
)  # fmt: skip
"""Of transformers' classes, those that read nothing but the files above."""
_SETTINGS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens",
    "clean_up_tokenization_spaces", "do_lower_case", "errors", "extra_ids", "extra_special_tokens",
    "keep_accents", "language_codes", "legacy", "legacy_behaviour", "lowercase", "model_input_names",
    "model_max_length", "padding_side", "remove_space", "spaces_between_special_tokens", "split_special_tokens",
    "src_lang", "strip_accents", "tgt_lang", "tokenize_chinese_chars", "tokenizer_class", "trim_offsets",
    "truncation_side",
)  # fmt: skip


@contextlib.contextmanager
def plain_copy(folder: Path) -> Iterator[Path]:
    """A temporary folder with a tokenizer's plain files and the settings of it that are known."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for file in COPIED:
            if (folder / file).is_file():
                data = read_bytes(folder / file, limit=MAX_CONFIG_BYTES)
                if file.endswith(".json"):
                    values = parse_json(data, where=str(folder / file))
                    if file == TOKENIZER_FILES[0]:
                        check_growth(values, where=str(folder / file))
                (copy / file).write_bytes(data)
        if (folder / CONFIG).is_file():
            (copy / CONFIG).write_text(json.dumps(_settings(folder / CONFIG)), encoding="utf-8")
        described = folder / "config.json"
        values = read_json(described) if described.is_file() else None
        if isinstance(values, Mapping) and str(values.get("model_type")) in FAMILIES:
            (copy / "config.json").write_text(json.dumps({"model_type": values["model_type"]}), encoding="utf-8")
        yield copy


def check_growth(values: Any, *, where: str) -> None:
    """Refuse normalizers that replace text by longer text again and again: three may make 10^9 letters out of one."""
    growth, waiting = 1, [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            added = value.get({"Replace": "content", "Prepend": "prepend"}.get(str(value.get("type")), ""))
            growth *= max(1, len(added)) if isinstance(added, str) else 1
            if growth > MOST_GROWTH:
                raise InputError(f"{where}: its replacements make texts more than {MOST_GROWTH} times as long")
            waiting += [inner for key, inner in value.items() if key != "vocab"]
        elif isinstance(value, list):
            waiting += [inner for inner in value if isinstance(inner, dict | list)]


def _settings(path: Path) -> dict[str, Any]:
    """What a ``tokenizer_config.json`` may decide; its templates and its names of code, files and people are left."""
    values = mapping(read_json(path), where=str(path))
    kind = values.get("tokenizer_class")
    if kind is not None:
        plain = str(kind).removesuffix("Fast").removesuffix("Tokenizer")
        if not isinstance(kind, str) or (plain not in _CLASSES and kind != "TokenizersBackend"):
            known = ", ".join(_CLASSES[:-1])
            raise InputError(
                f"{path}: tokenizer_class: {kind!r:.100} is not known here, and no code of a folder is run; known: "
                f"PreTrainedTokenizerFast, and with Tokenizer after each {known}"
            )
    elif values.get("auto_map") is not None:
        raise InputError(f"{path}: auto_map names code, which is never run; expected a tokenizer_class of transformers")
    kept = {key: value for key, value in values.items() if key in _SETTINGS or key.endswith("_token")}
    if isinstance(kept.get("model_max_length"), int | float):
        kept["model_max_length"] = min(kept["model_max_length"], 2**24)  # transformers writes 1e30 for no limit
    with blamed_on(path):
        check_values(kept)
    return kept
