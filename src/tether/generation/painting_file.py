"""A painting on its way as one file, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.state_file import read_state, write_state
from tether.generation.canvases.canvas import Canvas
from tether.generation.painting import Frame, PaintingProgress

FORMAT = "tether-painting-1"
_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam remembers of a parameter, besides its steps."""


def save_painting(path: Path | str, canvas: Canvas, progress: PaintingProgress, *, made_of: Mapping[str, Any]) -> None:
    """Write a canvas and how far it has come, atomically.

    Args:
        path: the file.
        canvas: as it is now.
        progress: of ``paint``.
        made_of: plain values that say what is painted: prompts, settings, the model's digest.

    Raises:
        WriteError: the file cannot be written, as on a full disk.
    """
    arrays = {f"canvas/{name}": value for name, value in canvas.state_dict().items()}
    arrays |= {f"adam/{name}": value for name, value in progress.adam.items()}
    for number, frame in enumerate(progress.frames):
        arrays[f"frame/{number}"] = frame.image
        for role, values in frame.parameters.items():
            arrays |= {f"trace/{number}/{role}/{place}": value for place, value in enumerate(values)}
    settings = {
        "made_of": dict(made_of),
        "step": progress.step,
        "losses": progress.losses,
        "setbacks": progress.setbacks,
        "frames": [frame.step for frame in progress.frames],
    }
    plain = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    write_state(path, format=FORMAT, settings=settings, arrays=plain)


def load_painting(path: Path | str, canvas: Canvas, *, made_of: Mapping[str, Any]) -> PaintingProgress:
    """Bring a canvas to where it was, and give what ``paint`` goes on with.

    Args:
        path: what ``save_painting`` wrote.
        canvas: made with the same settings.
        made_of: must be what it was.

    Raises:
        InputError: no such file, a damaged one, or one of another painting; it names the first setting that differs.
    """
    settings, arrays = read_state(path, what="painting", format=FORMAT)
    try:
        return _loaded(path, canvas, settings, arrays, made_of=dict(made_of))
    except InputError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged: not the state of a painting: {error!s:.200}") from error


def _loaded(
    path: Path | str,
    canvas: Canvas,
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    made_of: dict[str, Any],
) -> PaintingProgress:
    before = settings["made_of"]
    for name in [*before, *made_of]:
        if before.get(name) != made_of.get(name):
            was, given = quoted(before.get(name)), quoted(made_of.get(name))
            raise InputError(f"{path}: is of another painting: {name} was {was}, got {given}")
    step, losses, setbacks = settings["step"], settings["losses"], settings["setbacks"]
    if not all(type(one) is int and one >= 0 for one in [step, *setbacks, *settings["frames"]]):
        raise InputError(f"{path}: damaged: step, setbacks, frames: expected whole numbers")
    if not all(type(one) in (int, float) for each in losses.values() for one in each):
        raise InputError(f"{path}: damaged: losses: expected numbers")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    own = {name.removeprefix("canvas/"): value for name, value in tensors.items() if name.startswith("canvas/")}
    wanted = {name: tuple(value.shape) for name, value in canvas.state_dict().items()}
    if wanted != {name: tuple(value.shape) for name, value in own.items()}:
        raise InputError(f"{path}: holds a canvas of another kind or size")
    roles = canvas.parameters_by_role() if canvas.traced else {}

    def trace(number: int) -> dict[str, tuple[torch.Tensor, ...]]:
        return {
            role: tuple(tensors[f"trace/{number}/{role}/{place}"] for place in range(len(each)))
            for role, each in roles.items()
        }

    frames = [Frame(at, tensors[f"frame/{number}"], trace(number)) for number, at in enumerate(settings["frames"])]
    adam = {name.removeprefix("adam/"): value for name, value in tensors.items() if name.startswith("adam/")}
    moving = [value for values in canvas.parameters_by_role().values() for value in values]
    shapes = {f"{number}.{name}": value.shape for number, value in enumerate(moving) for name in _MOMENTS}
    shapes |= {f"{number}.step": torch.Size() for number in range(len(moving))}
    for name, value in adam.items():
        if value.shape != shapes.get(name) or not bool(value.isfinite().all()):
            raise InputError(f"{path}: damaged: adam/{name}: expected finite moments of the canvas's parameters")
    canvas.load_state_dict(own)
    return PaintingProgress(step, losses, frames, setbacks, adam)
