"""What learning from one's own images shares: the folder of what was done, beside the file, and images in memory."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.atomic_io import is_temporary, read_json, write_text
from tether.core.errors import InputError
from tether.core.locks import is_lock, locked
from tether.core.protocols import Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.workflows.models import OnStage

ABOUT_FILE = "about.json"


@contextlib.contextmanager
def learning(out: Path, facts: Mapping[str, Any], *, purpose: str) -> Iterator[Path]:
    """The folder ``OUT.learning`` of what was done, held against other processes; it goes when the block ends well.

    It goes, too, where the block fails before anything was done.

    Args:
        out: the file that is being learnt.
        facts: plain values that say what is learnt.
        purpose: see ``core.locks.locked``.

    Raises:
        InputError: see ``claim``.
        LockedError: another process learns there.
    """
    place = out.with_name(f"{out.name}.learning")
    _refuse_others(place)
    with locked(place, purpose=purpose, tidy=True):
        claim(place, facts)
        try:
            yield place
        except BaseException:
            if all(one.name == ABOUT_FILE or is_lock(one) for one in place.iterdir()):  # nothing was done: no learning
                (place / ABOUT_FILE).unlink(missing_ok=True)
            raise
        for one in sorted(place.iterdir(), key=lambda one: one.name == ABOUT_FILE):  # last: till then it is a learning
            if one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            elif not is_lock(one):
                one.unlink(missing_ok=True)


def claim(place: Path, facts: Mapping[str, Any]) -> None:
    """The folder of what was done: a new one, or one of the very same learning.

    Raises:
        InputError: it is of another, and what differs is named; or it holds something and is of none.
    """
    known = json.loads(json.dumps(facts))
    _refuse_others(place)
    if (place / ABOUT_FILE).is_file():
        found = read_json(place / ABOUT_FILE)
        before = found if isinstance(found, dict) else {}
        for name, value in known.items():
            if before.get(name) != value:
                raise InputError(
                    f"{place}: learnt with {name} {before.get(name)!r:.200}, asked for {value!r:.200}; ask for the "
                    "same to go on, or remove the folder to begin again"
                )
        return
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / ABOUT_FILE, json.dumps(known, indent=2))


def _refuse_others(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise InputError(f"{place}: is a file, but what was learnt would lie there; move it, or give another name")
    held = [one for one in place.iterdir() if not is_lock(one) and not is_temporary(one)] if place.exists() else []
    if held and not (place / ABOUT_FILE).is_file():
        raise InputError(
            f"{place}: holds {held[0].name} and is no folder of a learning (no {ABOUT_FILE}); move it, or give another "
            "name"
        )


def read_images(
    rows: Source, size: tuple[int, int], *, with_texts: bool, limit: int, workers: int, strict: bool,
    bad_rows: Path | None, on_stage: OnStage | None,
) -> tuple[UInt8[Tensor, "n 3 h w"], list[tuple[str, ...]], int]:  # fmt: skip
    """Images, the texts of each, and how many rows were left out.

    Args:
        rows: the source.
        size: height and width to cut them to.
        with_texts: leave out those without a text.
        limit: most rows.
        workers: threads that decode ahead.
        strict: stop at the first bad row.
        bad_rows: JSON-lines file that names them.
        on_stage: told how many there are.

    Raises:
        InputError: not one image.
    """
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    pixels, texts, mute = list[Tensor](), list[tuple[str, ...]](), 0
    for some, shown in ordered(
        rows, image_spec=ImageSpec(size), batch_size=64, workers=workers, on_bad=bad, limit=limit
    ):
        said = [tuple(text for text in row.texts if text.strip()) for row in some]
        kept = [place for place, one in enumerate(said) if one or not with_texts]
        mute += len(some) - len(kept)
        pixels.append(shown[kept])
        texts += [said[place] for place in kept]
        if on_stage is not None:
            on_stage("images", len(texts), None)
    if not texts:
        found = f"{mute} images and not one with a text; expected images with texts" if mute else "expected images"
        raise InputError(f"{rows.name}: {found} to learn from")
    return torch.cat(pixels), texts, bad.count + mute


def mean_of_last(losses: Sequence[float], *, last: int = 50) -> float | None:
    """What losses came to in the end; None where no step was taken."""
    some = losses[-last:]
    return sum(some) / len(some) if some else None
