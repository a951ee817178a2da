"""Whose a run's folder is: one process's at a time, that of a run which goes on, or free where nothing was finished."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import remove_leftovers, write_text
from tether.core.errors import InputError, TetherError
from tether.core.gather import process_gather
from tether.core.locks import check_links, is_lock, locked
from tether.core.printable import quoted
from tether.models.model_uri import near
from tether.training.checkpoints import list_checkpoints, remove_unfinished
from tether.training.config import RunConfig, dump_config, load_config
from tether.training.parallel import agree
from tether.training.run_files import (
    BAD_ROWS,
    BEST,
    CHECKPOINTS,
    COMPARE,
    COMPARE_JSON,
    COMPARE_PAGE,
    CONFIG,
    METRICS,
    SUMMARY,
)

_MAY_CHANGE = {"log_every", "save_every", "keep", "evaluate", "trackers", "workers", "max_skips", "threads"}
_MAY_CHANGE |= {"sharding", "checkpoints"}
"""Settings that leave the trajectory alone, so a resumed run may have others."""
_BESIDE = {COMPARE, COMPARE_JSON, COMPARE_PAGE, BAD_ROWS}
"""What may lie in a folder that no run has been in."""

_LONGER = """\
The schedule was laid out over the run's own length, so it cannot grow. To train its model further, begin another run:
  tether train --recipe {folder}/config.yaml --from {folder} --out {folder}-more steps=N"""


@contextlib.contextmanager
def claimed(folder: Path, config: RunConfig, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder while the block runs, its ``config.yaml`` written first; all processes of a run call it.

    A folder in which nothing was finished, neither a checkpoint nor the run, is begun again, with any settings. What is
    refused before its first step was logged leaves no new folder behind, unless bad rows are listed there.

    Raises:
        InputError: the folder holds something else, a run and ``resume`` is false, or a run of other settings.
        LockedError: another run is writing there.
        WriteError: it cannot be written to.
    """
    new = not folder.exists()
    with contextlib.ExitStack() as held:
        refused: TetherError | None = None
        if process_gather().rank == 0:
            try:
                held.enter_context(locked(folder, purpose="tether train"))
                _take(folder, config, resume=resume)
            except TetherError as error:
                refused = error
        agree(refused)
        try:
            yield
        except InputError:
            if new and process_gather().rank == 0 and not _worth_keeping(folder):
                for path in (path for path in folder.iterdir() if not is_lock(path)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise


def _take(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Make the folder this run's, or refuse: nothing is ever overwritten without a word."""
    remove_leftovers(folder)
    remove_unfinished(folder / CHECKPOINTS)
    path = folder / CONFIG
    theirs = load_config(path) if path.exists() else None
    strange = [one.name for one in folder.iterdir() if not (is_lock(one) or one.name in _BESIDE)]
    if theirs is None and strange:
        raise InputError(f"{folder}: exists, is not empty and is not a run; choose another folder")
    if theirs is None or not _begun(folder):
        for name in (METRICS, BAD_ROWS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / BEST, ignore_errors=True)
    elif not resume:
        raise _held(folder)
    else:
        held, ours = theirs.model_dump(), config.model_dump()
        if other := [key for key in ours if held[key] != ours[key] and key not in _MAY_CHANGE]:
            lines = [line for key in other for line in _differences(key, held[key], ours[key])]
            if {"steps", "epochs"} & {*other} and (folder / SUMMARY).exists():
                lines.append(_LONGER.format(folder=folder))
            raise InputError(f"{path}: cannot resume with other settings:\n" + "\n".join(lines))
    if not (folder / SUMMARY).exists():
        write_text(path, dump_config(config))


def _differences(key: str, held: Any, ours: Any) -> Iterator[str]:
    """What is other in a setting, one line for each innermost key."""
    for kind, keys in ((Mapping, lambda one: list(one)), (list, lambda one: list(range(len(one))))):
        if isinstance(held, kind) and isinstance(ours, kind) and keys(held) == keys(ours):
            for inner in keys(held):
                if held[inner] != ours[inner]:
                    yield from _differences(f"{key}.{inner}", held[inner], ours[inner])
            return
    yield f"  {key}: the run has {quoted(_given(held), most=200)}, asked for {quoted(_given(ours), most=200)}"


def _given(value: Any) -> Any:
    """A setting without the keys that nobody gave."""
    if isinstance(value, Mapping):
        return {key: _given(one) for key, one in value.items() if one is not None}
    return [_given(one) for one in value] if isinstance(value, list) else value


def _worth_keeping(folder: Path) -> bool:
    """Whether a run has left more than its description."""
    logged = folder / METRICS
    return _begun(folder) or (folder / BAD_ROWS).exists() or (logged.exists() and logged.stat().st_size > 0)


def check_free(folder: Path) -> None:
    """Refuse a folder that holds a run, before anything is read for another; of several processes none asks yet."""
    check_links(folder)
    if _begun(folder) and "RANK" not in os.environ:
        with locked(folder, purpose="tether train"):
            raise _held(folder)


def _held(folder: Path) -> InputError:
    if (folder / SUMMARY).exists():
        said = ", which is finished: choose another folder (--out); --resume only completes files that a kill cut off"
    else:
        said = "; go on with --resume or choose another folder"
    return InputError(f"{folder}: holds a run already{said}")


def _begun(folder: Path) -> bool:
    """Whether anything of a run is there that is worth going on from."""
    return (folder / SUMMARY).exists() or bool(list_checkpoints(folder / CHECKPOINTS))


def check_recorded(config: RunConfig, *, given: Sequence[str], folder: Path) -> None:
    """Follow what only a run's own record names to places beside it: nobody else's run loads a model or goes out.

    Args:
        config: as the run's folder has it, with what was given.
        given: the overrides that the user typed.
        folder: of the run.

    Raises:
        InputError: a model elsewhere (see ``models.model_uri.near``), data on a hub or behind a URL, a tracker that
            sends the figures away; it says what to type.
    """
    from tether.data.recorded import elsewhere, leaves

    for keys, value in leaves(config.model_dump(exclude_none=True)):
        if any(keys[: len(one)] == one for one in (tuple(text.partition("=")[0].split(".")) for text in given)):
            continue
        key = ".".join(itertools.takewhile(lambda one: not one.isdigit(), keys))
        again = f"tether train --out {folder} --resume {key}="
        if isinstance(value, str) and (name := _model(keys, value)):
            near(name, written_in=folder, again=again + ("NAME" if key == ".".join(keys) else "..."))
        elif far := value if (keys[0], value) == ("trackers", "wandb") else elsewhere(keys, value):
            raise InputError(
                f"{folder}: its record takes {key} from {far!r:.200}, which is not read unasked; if you trust "
                f"it: {again}..."
            )


def _model(keys: tuple[str, ...], value: str) -> str:
    """The model or the file of weights that a setting names, or the empty string."""
    named = keys[:-1] if keys[-1] == "name" else keys
    reads = "step" in named and (
        named[-2:] == ("teacher", "load") or (named[-1] == "encoder" and value not in _READERS)
    )
    if named not in _MODELS and not reads:
        return ""
    architecture, _, file = value.removeprefix("timm:").partition("/")
    return value if not value.startswith("timm:") or "." in architecture else file


_MODELS = {("model", "load"), ("model", "image"), ("model", "text")}
_READERS = ("model", "teacher", "words")  # of a view: the model that is trained, the step's teacher, a count of words
