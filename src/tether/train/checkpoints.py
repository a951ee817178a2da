"""Checkpoints: one folder a step, written atomically, safetensors and JSON only."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tether.core.atomic_io import as_umask_says, flush
from tether.core.errors import InputError, WriteError
from tether.core.model_digest import file_digest
from tether.core.tensor_file import sort_metadata
from tether.models.save import separate
from tether.train.seal import read_sealed, sealed

_NAME = re.compile(r"step-(\d{8})")
_SAVING = ".saving-"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        tensors: named groups of tensors (``model``, ``optimizer``, ``ema``), one file each.
        state: plain values and small tensors (data position, clipper, scaler, generators).
        about: what each file says of itself: the kind of its tensors, the model's geometry.
        where: what messages call it.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)
    where: Path | str = "checkpoint"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write ``folder/step-N`` through a temporary folder and a rename, then drop all but the newest ``keep``.

    Raises:
        WriteError: for instance a full disk; the temporary folder is removed and earlier checkpoints stand.
    """
    target = folder / _name(checkpoint.step)
    temporary = folder / f"{_SAVING}{target.name}"
    remove_unfinished(folder)
    try:
        temporary.mkdir(parents=True)
        files = {}
        for name, tensors in checkpoint.tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file(separate(tensors), file, metadata=dict(checkpoint.about) or None)
            sort_metadata(file)
            files[name] = file_digest(file)
        state = sealed({"step": checkpoint.step, "files": files, "state": _encode(checkpoint.state)})
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for path in temporary.iterdir():
            as_umask_says(path)
            flush(path)
        flush(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        flush(folder)
        for old in list_checkpoints(folder)[:-keep]:
            old.rename(folder / f"{_SAVING}{old.name}")  # no longer listed, should the process be killed meanwhile
    except (OSError, SafetensorError) as error:
        raise WriteError(target, error, safe="earlier checkpoints stand") from error
    finally:
        remove_unfinished(folder)
    return target


def _name(step: int) -> str:
    return f"step-{step:08d}"


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written or half removed; only for who holds the run's folder."""
    for leftover in folder.glob(f"{_SAVING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def remove_after(folder: Path, *, step: int) -> None:
    """Remove the checkpoints of later steps, which the run has gone back from."""
    for path in list_checkpoints(folder):
        if path.name > _name(step):
            path.rename(folder / f"{_SAVING}{path.name}")  # no longer listed, should the process be killed meanwhile
    remove_unfinished(folder)


def newest_checkpoint(
    folder: Path, *, steps: int, without: str = "begin again; there is no other"
) -> Checkpoint | None:
    """The checkpoint that a run goes on from, or None where there is none.

    A damaged one is never passed over in silence for the one before it.

    Args:
        folder: of the checkpoints.
        steps: of the whole run.
        without: what a run does that has none, for the message.

    Raises:
        InputError: it is damaged, or of a step past the run's end; the message says what to remove and what is left.
    """
    saved = list_checkpoints(folder)
    if not saved:
        return None
    try:
        checkpoint = load_checkpoint(saved[-1])
        if checkpoint.step > steps:
            raise InputError(f"{saved[-1]}: a checkpoint after step {checkpoint.step} in a run of {steps} steps")
    except InputError as error:
        left = f"go on from the one before it, {saved[-2].name}" if len(saved) > 1 else without
        raise InputError(f"{error}\nremove the folder {saved[-1]} to {left}") from error
    return checkpoint


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        InputError: a file is missing, truncated or damaged, or the folder has the name of another step (a copy
            may have any other name); it names the file.
    """
    state_path = path / "state.json"
    record = read_sealed(state_path)
    try:
        step, files, state = int(record["step"]), dict(record["files"]), _decode(record["state"])
        if not all(str(name).isidentifier() for name in files):
            raise ValueError(f"files: {files}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RuntimeError) as error:
        raise InputError(f"{state_path}: not a readable checkpoint: {error}") from error
    if path.name.startswith("step-") and path.name != _name(step):  # a copy may be called anything else
        raise InputError(f"{state_path}: holds step {step}, but the folder is named {path.name}")
    tensors = {}
    for name, digest in files.items():
        file = path / f"{name}.safetensors"
        try:
            if file_digest(file) != digest:
                raise InputError(f"{file}: truncated or damaged: not the file that {state_path.name} names")
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: missing, truncated or not safetensors: {error}") from error
    return Checkpoint(step, tensors, state, where=path)


def _encode(value: Any) -> Any:
    """Plain JSON for plain values; a small tensor becomes its dtype, shape and bytes, so no bit is lost."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes()
        return {
            "__tensor__": [str(value.dtype).removeprefix("torch."), list(value.shape), base64.b64encode(raw).decode()]
        }
    if isinstance(value, dict):
        return {"__map__": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    """What ``_encode`` was given; a ValueError, TypeError or KeyError for anything else."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict) and "__map__" in value:
        return {_decode(key): _decode(item) for key, item in value["__map__"]}
    if isinstance(value, dict):
        name, shape, raw = value["__tensor__"]
        dtype, data = _DTYPES[name], bytearray(base64.b64decode(raw, validate=True))
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for a tensor of shape {shape}")
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(shape).clone()
    return value
