"""A painting on its way as one file, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.state_file import read_state, write_state
from tether.generate.draw.canvas import Canvas
from tether.generate.painting import Frame, PaintingProgress

FORMAT = "tether-painting-1"


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
    before, now = settings["made_of"], dict(made_of)
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            was, given = quoted(before.get(name)), quoted(now.get(name))
            raise InputError(f"{path}: is of another painting: {name} was {was}, got {given}")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    own = {name.removeprefix("canvas/"): value for name, value in tensors.items() if name.startswith("canvas/")}
    wanted = {name: tuple(value.shape) for name, value in canvas.state_dict().items()}
    if wanted != {name: tuple(value.shape) for name, value in own.items()}:
        raise InputError(f"{path}: holds a canvas of another kind or size")
    canvas.load_state_dict(own)
    roles = canvas.parameters_by_role() if canvas.traced else {}

    def trace(number: int) -> dict[str, tuple[torch.Tensor, ...]]:
        return {
            role: tuple(tensors[f"trace/{number}/{role}/{place}"] for place in range(len(each)))
            for role, each in roles.items()
        }

    steps = enumerate(settings["frames"])
    frames = [Frame(step, tensors[f"frame/{number}"], trace(number)) for number, step in steps]
    adam = {name.removeprefix("adam/"): value for name, value in tensors.items() if name.startswith("adam/")}
    return PaintingProgress(settings["step"], settings["losses"], frames, settings["setbacks"], adam)
