"""Whose a run's folder is: one process's at a time, that of a run which goes on, or free where nothing was finished."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tether.core.atomic_io import remove_leftovers, write_text
from tether.core.errors import InputError, TetherError
from tether.core.gather import process_gather
from tether.core.locks import is_lock, locked
from tether.models.named import near
from tether.train.checkpoints import list_checkpoints, remove_unfinished
from tether.train.config import RunConfig, dump_config, load_config
from tether.train.parallel import agree
from tether.train.run_files import (
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

_MAY_CHANGE = {"log_every", "save_every", "keep", "evaluate", "trackers", "workers", "max_skips", "threads", "sharding"}
"""Settings that leave the trajectory alone, so a resumed run may have others."""
_BESIDE = {COMPARE, COMPARE_JSON, COMPARE_PAGE, BAD_ROWS}
"""What may lie in a folder that no run has been in."""

_LONGER = """\
The schedule was laid out over the run's own length, so it cannot grow. To train its model further, begin another run:
  tether train --recipe {folder}/config.yaml --from {folder} --out {folder}-more steps=N"""


@contextlib.contextmanager
def claimed(folder: Path, config: RunConfig, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder while the block runs, its ``config.yaml`` written first; all processes of a run call it.

    A folder in which nothing was finished, neither a checkpoint nor the run, is begun again, with any settings. One
    that is refused before anything was read into it is not left behind.

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
            if new and all(is_lock(path) or path.name == CONFIG for path in folder.glob("*")):
                (folder / CONFIG).unlink(missing_ok=True)
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
        raise InputError(f"{folder}: holds a run already; go on with --resume or choose another folder")
    else:
        held, ours = theirs.model_dump(), config.model_dump()
        if other := [key for key in ours if held[key] != ours[key] and key not in _MAY_CHANGE]:
            lines = [f"  {key}: the run has {held[key]!r}, asked for {ours[key]!r}" for key in other]
            if {"steps", "epochs"} & {*other} and (folder / SUMMARY).exists():
                lines.append(_LONGER.format(folder=folder))
            raise InputError(f"{path}: cannot resume with other settings:\n" + "\n".join(lines))
    if not (folder / SUMMARY).exists():
        write_text(path, dump_config(config))


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
        InputError: a model elsewhere (see ``models.named.near``), data on a hub or behind a URL; it says what to type.
    """
    step = config.step if isinstance(config.step, dict) else {}
    for key, name in (("model.load", config.model.get("load")), ("step.encoder", step.get("encoder"))):
        if isinstance(name, str) and name != "words" and not _typed(key, given):
            near(name, written_in=folder, again=f"tether train --out {folder} --resume {key}=NAME")
    held = config.evaluate.source if config.evaluate else ""
    for key, spec in (("data", config.data), ("evaluate.source", held)):
        far = next((word for word in _words(spec) if "://" in word or word == "hf" or word.startswith("hf:")), None)
        if far is not None and not _typed(key, given):
            raise InputError(
                f"{folder}: its record takes {key} from {far!r}, which is not read unasked; if you trust "
                f"it: tether train --out {folder} --resume {key}=..."
            )


def _typed(key: str, given: Sequence[str]) -> bool:
    return any(one.startswith(key.split(".")[0]) for one in given)


def _words(spec: object) -> Iterator[str]:
    """All texts in a setting."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping):
        for value in spec.values():
            yield from _words(value)
    elif isinstance(spec, (list, tuple)):
        for value in spec:
            yield from _words(value)
