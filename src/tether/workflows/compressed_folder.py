"""The folder that ``tether compress`` writes."""

from __future__ import annotations

from pathlib import Path

from tether.compression.quantise.packed import PACKED_FILE
from tether.core.errors import InputError
from tether.core.locks import is_lock
from tether.core.replaced_parts import unfinished
from tether.models.convert.saved_files import CONFIG_FILE, WEIGHTS_FILE
from tether.models.convert.tokenizer_files import TOKENIZER_FOLDER

REPORT_FILE = "compress.json"
PARTS = (WEIGHTS_FILE, TOKENIZER_FOLDER, PACKED_FILE)
"""Beside the model's description and the report."""


def check_not_model(folder: Path, model: object) -> None:
    """See that a result does not take the place of the model that it is made of.

    Raises:
        InputError: it would.
    """
    if isinstance(model, str | Path) and Path(model).exists() and Path(model).resolve() == folder.resolve():
        raise InputError(f"--out: {folder} is MODEL, too; give it another name")


def check_free(folder: Path, *, existing: str) -> None:
    """See that a folder is free, or holds what this verb wrote and may be replaced.

    What a killed process left of a first writing is free: its lock, new parts that were not finished, and the parts
    that it had moved when nothing could be opened yet.

    Raises:
        InputError: otherwise.
    """
    if existing not in ("refuse", "replace"):
        raise InputError(f"existing: expected refuse or replace, got {existing!r}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file; expected a folder, or a name that is free")
    begun = unfinished(folder)
    held = [one.name for one in folder.iterdir() if not is_lock(one) and one not in begun] if folder.exists() else []
    if not held:
        return
    if not (folder / REPORT_FILE).is_file():
        known = {*PARTS, CONFIG_FILE} if existing == "replace" else {*PARTS}
        if set(held) <= known and any((one / REPORT_FILE).is_file() for one in begun):
            return
        raise InputError(f"--out: {folder}: is not empty and holds no compressed model; choose another folder")
    if existing == "refuse":
        raise InputError(f"--out: {folder} is there already; give another name, or --existing replace")
