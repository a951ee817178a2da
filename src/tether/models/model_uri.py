"""Names of models: what the user gives, and what a file only says."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from tether.core.errors import InputError
from tether.core.printable import printable

OPEN_CLIP, HUB = "open_clip:", "hf:"
STARTER = "starter"
EXPORTED_FILE = "tether_config.json"
"""Describes a folder that ``tether export`` wrote for a runtime without torch."""


def _spelled_out(name: str | Path) -> Path:
    """Without ``..``, from the root, and without a look at any disk, which could be another machine's."""
    try:
        return Path(os.path.normpath(Path.cwd() / Path(name).expanduser()))
    except RuntimeError as error:
        raise InputError(f"{name!r:.200}: {error}") from error


def near(name: str, *, written_in: str | Path, again: str) -> str:
    """A model's name that a store or a run holds; it is followed to folders beside it alone.

    The user gave the store or the run, not what is written there. So the name is followed to a folder below the
    working directory, or below the folder in which the store or run lies; ``starter`` is an installed model. A name on
    a hub, or any other place, would reach what the user may not mean, and must be given by the user.

    Args:
        name: as it is written.
        written_in: the store or run; may be a URI, which has no folders beside it.
        again: what the user can type to give the name, with ``NAME`` where it stands, for the error message.

    Raises:
        InputError: a name on a hub, or a folder elsewhere; it says what to type.
    """
    if name == STARTER and not Path(name).exists():
        return name
    places = [Path.cwd(), *([] if "://" in str(written_in) else [_spelled_out(written_in).parent])]
    if not name.startswith((OPEN_CLIP, HUB)):
        for place in places:
            path = _spelled_out(name if name.startswith(("/", "~")) else place / name)
            if len(place.parts) > 1 and path.is_relative_to(place) and path.exists():
                return name if place == places[0] else str(path)
    said = again.replace("NAME", shlex.quote(printable(name)))
    raise InputError(
        f"{written_in}: names the model {name!r}; there is none below the working directory or beside {written_in}, "
        f"and another is not loaded unasked; if you trust it: {said}"
    )
