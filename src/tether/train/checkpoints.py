"""Checkpoints: one folder a step, whole or absent, safetensors and JSON only."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tether.core.errors import InputError
from tether.models.save import separate

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        tensors: named groups of tensors (``model``, ``optimizer``, ``ema``), one file each.
        state: plain values and small tensors (data position, clipper, scaler, generators).
        about: what each file says of itself: the kind of its tensors, the model's geometry.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write ``folder/step-N`` through a temporary folder and a rename, then drop all but the newest ``keep``.

    Raises:
        OSError: for instance a full disk; the temporary folder is removed and earlier checkpoints stand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        for name, tensors in checkpoint.tensors.items():
            save_file(separate(tensors), temporary / f"{name}.safetensors", metadata=dict(checkpoint.about) or None)
        state = {"step": checkpoint.step, "files": sorted(checkpoint.tensors), "state": _encode(checkpoint.state)}
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _flush(folder)
    except SafetensorError as error:
        raise OSError(f"{target}: could not write the checkpoint: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".saving-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        InputError: a file is missing, truncated or malformed; it names the file.
    """
    state_path = path / "state.json"
    try:
        record = json.loads(state_path.read_text(encoding="utf-8"))
        step, names, state = int(record["step"]), record["files"], _decode(record["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{state_path}: not a readable checkpoint: {error}") from error
    tensors = {}
    for name in names:
        file = path / f"{name}.safetensors"
        try:
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: missing, truncated or not safetensors: {error}") from error
    return Checkpoint(step, tensors, state)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict) and "__map__" in value:
        return {_decode(key): _decode(item) for key, item in value["__map__"]}
    if isinstance(value, dict):
        name, shape, raw = value["__tensor__"]
        dtype, data = getattr(torch, name), bytearray(base64.b64decode(raw))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(shape).clone()
    return value
