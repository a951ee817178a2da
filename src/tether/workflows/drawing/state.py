"""A painting whose way is kept in a file, so that one that was stopped goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.core.locks import locked
from tether.generation.canvases import Canvas
from tether.generation.goals import Goal
from tether.generation.painting import Painting, PaintingProgress, paint
from tether.generation.painting_file import load_painting, save_painting


def painted(
    canvas: Canvas,
    goals: Mapping[str, Goal],
    *,
    state: Path | None,
    resume: bool,
    made_of: Mapping[str, Any],
    begin: Callable[[], object] | None = None,
    **settings: Any,
) -> Painting:
    """Paint, and write the canvas on its way to a file, which stays until ``PaintedImage.remove_state``.

    So whatever ends the process before all of it is written, the file goes on from there.

    Args:
        canvas: on its device.
        goals: by name.
        state: the file; None keeps none.
        resume: go on from it, if it is there.
        made_of: plain values that say what is painted.
        begin: called first, unless the painting goes on from the file.
        settings: of ``paint``.

    Raises:
        InputError: see ``check_state``, or a state of another painting.
        LockedError: another process paints to this state.
        NotFiniteError: a loss that stays without a number; the state holds the last good canvas.
        StoppedError: ``should_stop`` said so; the state holds the canvas.
    """
    facts = json.loads(json.dumps(made_of))  # as a file gives it back

    def save(now: PaintingProgress) -> None:
        if state is not None:
            save_painting(state, canvas, now, made_of=facts)

    with contextlib.ExitStack() as held:
        if state is not None:
            held.enter_context(locked(state.with_name(f"{state.name}.lock"), purpose="painting", tidy=True))
        check_state(state, resume=resume)
        progress = load_painting(state, canvas, made_of=facts) if resume and state and state.exists() else None
        if progress is None and begin is not None:
            begin()
        try:
            return paint(canvas, goals, progress=progress, save=save, **settings)
        except (StoppedError, NotFiniteError) as error:
            said = "" if state is None else f"; {state} holds the canvas: the same command with --resume goes on"
            raise type(error)(f"{error}{said}") from error


def check_state(state: Path | None, *, resume: bool) -> None:
    """See that no painting on its way is begun anew by mistake.

    Raises:
        InputError: the file is there, and ``resume`` was not asked for.
    """
    if state is not None and state.exists() and not resume:
        raise InputError(f"{state}: is there: --resume goes on from it; remove the file to begin again")


def setback_remarks(painting: Painting) -> list[str]:
    """What there is to say of steps without a finite loss."""
    if not painting.setbacks:
        return []
    steps = ", ".join(map(str, painting.setbacks))
    return [f"went back to the last good canvas at step {steps}, and on with half the rates"]
