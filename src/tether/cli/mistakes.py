"""What to type instead of an option that a verb does not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tether.core.component import meant

_MEANT = {
    "data": ("source", "store", "pairs", "embeddings"),
    "out": ("out", "html", "json"),
    "model": ("model", "from"),
    "device": ("device",),
    "top": ("top", "limit"),
    "classes": ("classes",),
    "templates": ("templates", "template"),
    "existing": ("existing",),
    "queries": ("queries",),
    "batch_size": ("batch_size",),
    "workers": ("workers",),
    "resume": ("resume",),
}
"""Meaning to the names that options and arguments have for it."""
_WORDS = {
    "data": "data dataset datasets input inputs path folder dir photos images train-data source pairs store file",
    "out": "out output outputs output-dir out-dir outdir save save-to dest destination to o",
    "model": "model from start init checkpoint weights pretrained base load ckpt",
    "device": "device gpu gpus cuda cpu",
    "top": "top k top-k topk n num limit max count",
    "classes": "classes labels class names categories",
    "templates": "templates template prompt prompts",
    "existing": "existing overwrite force replace yes",
    "queries": "queries query text prompt search",
    "batch_size": "batch batch-size bs",
    "workers": "workers num-workers jobs threads",
    "resume": "resume continue",
}
"""Meaning to what people type for it."""


def instead(option: str, command: Any) -> str:
    """What to type, as the end of a message; the empty string where nothing comes near.

    Args:
        option: as it was typed, such as ``--lr``.
        command: of the verb.
    """
    word = option.lstrip("-").partition("=")[0].replace("_", "-").lower()
    by_name = {str(one.opts[-1]).lstrip("-").replace("-", "_"): one for one in command.params}
    if "overrides" in by_name and (key := _setting(word)):
        return f"settings stand without dashes: tether {command.name} ... {key}=VALUE"
    for meaning in (meaning for meaning, words in _WORDS.items() if word in words.split()):
        for name in (name for name in (*_MEANT[meaning], meaning) if name in by_name):
            found = by_name[name]
            if found.param_type_name == "argument":
                words = [one.name.upper() for one in command.params if one.param_type_name == "argument"]
                return f"{name.upper()} stands without one: tether {command.name} {' '.join(words)}"
            return f"did you mean {found.opts[-1]}{' replace' if name == 'existing' else ''}?"
    if word in ("traceback", "verbose", "debug"):
        return f"before the verb: tether --traceback {command.name} ..."
    return ""


def as_typed(message: str, command: Any) -> str:
    """A message that begins with the name of a parameter in Python, with that of the verb's option in its place.

    Args:
        message: of an error.
        command: of the verb; None where none runs.
    """
    name, colon, rest = message.partition(": ")
    for one in getattr(command, "params", ()):
        if colon and "_" in name and one.param_type_name == "option" and one.name == name:
            return f"{one.opts[-1]}: {rest.replace(', or null,', ',')}"
    return message


def several_files(message: str) -> str:
    """How to give several files, where those that a shell has made of a pattern came as arguments; else nothing."""
    found = re.search(r"argument\S* \((.*)\)", message)
    first = Path(found.group(1).split(" ")[0]) if found else Path()
    if not first.is_file():
        return ""
    pattern = first.parent / f"*{first.suffix}"
    return f"; a shell makes many arguments of a pattern: quote it, as '{pattern}', or name the folder"


def _setting(word: str) -> str:
    """The key of a run's settings that a word means."""
    from tether.training.config import RunConfig

    key = word.replace("-", "_")
    return key if key in RunConfig.model_fields and key not in ("data", "model") else meant(key, RunConfig.model_fields)
