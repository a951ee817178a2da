"""The folder of an adaptation: held by one process, gone on with where it stopped, whole once its report is there."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tether.adaptation.heads import HEAD_FILE
from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.errors import InputError
from tether.core.locks import check_links, is_lock, locked
from tether.core.replaced_parts import replaced_parts
from tether.evaluate.adaptation.report import FORMAT, JSON_FILE
from tether.evaluate.adaptation.report import PAGE_FILE as REPORT_PAGE
from tether.models.convert.saved_files import CONFIG_FILE, WEIGHTS_FILE
from tether.models.convert.tokenizer_files import TOKENIZER_FOLDER
from tether.tasks.caption.captioner import FILE, LM_FOLDER
from tether.tasks.read.reader import MODEL_FOLDER, READER_FILE, SCENE_FILE
from tether.tasks.read.vision_lm import PAGE_FILE, VOCABULARY_FOLDER
from tether.training.checkpoints import list_checkpoints

UNFINISHED = "unfinished"
"""Folder of the checkpoints and of what the run was asked for, while it is not done."""
ASKED = "asked.json"
Existing = Literal["refuse", "replace"]


@contextlib.contextmanager
def claimed(folder: Path, asked: Mapping[str, Any], *, existing: Existing) -> Iterator[Path]:
    """Hold the folder and give that of the checkpoints; on success it is removed.

    An adaptation that was interrupted goes on if it is asked for in the same words. A finished one that is to be
    replaced stays until the new one is whole.

    Args:
        folder: of the result.
        asked: all that decides it, as plain values.
        existing: whether an adaptation that is there, finished or asked for in other words, is an error or replaced.

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
        except (InputError, KeyboardInterrupt) as error:
            # Nothing was done, so nothing is left behind; but what is half written is known by this folder.
            if not list_checkpoints(unfinished) and (isinstance(error, InputError) or _alone(unfinished)):
                shutil.rmtree(unfinished)
            raise
        shutil.rmtree(unfinished)


def check_free(folder: Path, *, existing: Existing) -> None:
    """Refuse a folder that cannot be taken whatever is asked for, before a model is loaded.

    Raises:
        InputError: a file, a link to something missing, a finished adaptation, or a folder that holds something else.
    """
    check_links(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file; expected a folder, or a name that is free")
    if not folder.exists():
        return
    if _is_report(folder / JSON_FILE):
        if existing == "refuse":
            raise InputError(f"--out: {folder} is there already; give another name, or --existing replace")
    elif not (folder / UNFINISHED).exists() and any(not is_lock(one) for one in folder.iterdir()):
        raise InputError(f"--out: {folder}: is not empty and holds no adaptation; choose another folder")


_PARTS: Mapping[str, Sequence[str]] = {
    CONFIG_FILE: (WEIGHTS_FILE, TOKENIZER_FOLDER),
    HEAD_FILE: (),
    FILE: (LM_FOLDER,),
    READER_FILE: (MODEL_FOLDER,),
    SCENE_FILE: (),
    PAGE_FILE: (LM_FOLDER, MODEL_FOLDER, VOCABULARY_FOLDER),
}
"""What lies beside each file without which nothing of a result is opened."""


@contextlib.contextmanager
def replaced_result(folder: Path) -> Iterator[Path]:
    """Yield a folder to save a result in; it takes the place of the one that is there, with what only that one had.

    Raises:
        WriteError: as on a full disk; what stood there before is unchanged.
    """
    stale = [part for key, parts in _PARTS.items() if (folder / key).is_file() for part in parts]
    if (folder / JSON_FILE).is_file():
        stale.append(REPORT_PAGE)
    with replaced_parts(folder, keys=[*_PARTS, JSON_FILE], others=stale) as new:
        yield new


def _alone(unfinished: Path) -> bool:
    """Whether nothing of a result lies beside it."""
    return all(one == unfinished or is_lock(one) for one in unfinished.parent.iterdir())


def _is_report(path: Path) -> bool:
    """Whether it is the report of an adaptation, and not a file of the user's with that name."""
    try:
        found = read_json(path) if path.is_file() else None
    except InputError:
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def _take(folder: Path, asked: Mapping[str, Any], *, existing: Existing) -> None:
    check_free(folder, existing=existing)
    unfinished = folder / UNFINISHED
    plain = json.loads(json.dumps(asked))
    if not (unfinished / ASKED).exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        return
    try:
        theirs = read_json(unfinished / ASKED)
    except InputError:
        if existing == "refuse":
            raise
        theirs = None
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
