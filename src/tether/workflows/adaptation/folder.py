"""The folder of an adaptation: held by one process, gone on with where it stopped, whole once its report is there."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tether.adapt.heads import HEAD_FILE
from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.errors import InputError
from tether.core.locks import is_lock, locked
from tether.evaluate.adaptation.report import JSON_FILE, PAGE_FILE
from tether.models.save import CONFIG_FILE, WEIGHTS_FILE
from tether.train.checkpoints import list_checkpoints

UNFINISHED = "unfinished"
"""Folder of the checkpoints and of what the run was asked for, while it is not done."""
ASKED = "asked.json"
Existing = Literal["refuse", "replace"]


@contextlib.contextmanager
def claimed(folder: Path, asked: Mapping[str, Any], *, existing: Existing) -> Iterator[Path]:
    """Hold the folder and give that of the checkpoints; on success it is removed.

    An adaptation that was interrupted goes on if it is asked for in the same words.

    Args:
        folder: of the result.
        asked: all that decides it, as plain values.
        existing: whether an adaptation that is there, finished or not, is an error or begun anew.

    Raises:
        InputError: a finished adaptation, another one that is unfinished, or something else.
        LockedError: another process is writing there.
    """
    with locked(folder, purpose="tether adapt"):
        remove_leftovers(folder)
        _take(folder, asked, existing=existing)
        unfinished = folder / UNFINISHED
        write_json(unfinished / ASKED, dict(asked))
        try:
            yield unfinished
        except InputError:
            if not list_checkpoints(unfinished):
                shutil.rmtree(unfinished)  # nothing was done, so nothing is left behind
            raise
        shutil.rmtree(unfinished)


def check_free(folder: Path, *, existing: Existing) -> None:
    """Refuse a folder that cannot be taken whatever is asked for, before a model is loaded.

    Raises:
        InputError: a file, a finished adaptation, or a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file; expected a folder, or a name that is free")
    if not folder.exists():
        return
    if (folder / JSON_FILE).exists():
        if existing == "refuse":
            raise InputError(f"--out: {folder} is there already; give another name, or --existing replace")
    elif not (folder / UNFINISHED).exists() and any(not is_lock(one) for one in folder.iterdir()):
        raise InputError(f"--out: {folder}: is not empty and holds no adaptation; choose another folder")


def _take(folder: Path, asked: Mapping[str, Any], *, existing: Existing) -> None:
    check_free(folder, existing=existing)
    unfinished = folder / UNFINISHED
    plain = json.loads(json.dumps(asked))
    if existing == "replace":
        for name in (JSON_FILE, PAGE_FILE, CONFIG_FILE, WEIGHTS_FILE, HEAD_FILE):
            (folder / name).unlink(missing_ok=True)
    if not (unfinished / ASKED).exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        return
    theirs = read_json(unfinished / ASKED)
    if theirs == plain:
        return
    if existing == "replace":
        shutil.rmtree(unfinished)
        return
    other = [name for name in plain if not isinstance(theirs, dict) or theirs.get(name) != plain[name]]
    raise InputError(
        f"--out: {folder}: holds an unfinished adaptation that was asked for with another {', '.join(other)}; ask for "
        "the same to go on, give another name, or --existing replace"
    )
