"""Checkpoints: one folder a step, written atomically, safetensors and JSON only.

One process writes each group of tensors whole, or each process its own part of all of them (``training.sharded``).
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from tether.core.atomic_io import as_umask_says, flush
from tether.core.errors import InputError, WriteError
from tether.core.gather import LOCAL, Gather
from tether.core.model_digest import file_digest
from tether.core.tensor_file import sort_metadata
from tether.core.tensor_shards import TensorShards, shard_file, writer_of
from tether.models.convert.saved_files import separate
from tether.training.seal import read_sealed, sealed

_NAME = re.compile(r"step-(\d{8})")
_SAVING = ".saving-"
_REPLACED = ".replaced-"
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
        shards: where the tensors lie that are on the meta device here.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)
    where: Path | str = "checkpoint"
    shards: TensorShards | None = None

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group, whole: read from the files of all processes, or gathered from them.

        Where they are in memory and sharded, every process must call it.
        """
        found = dict(self.tensors.get(name, {}))
        for key, value in found.items():
            if value.is_meta and self.shards is not None:
                found[key] = self.shards.read(f"{name}/{key}")
            elif isinstance(value, DTensor):
                found[key] = value.full_tensor()
        return found

    def together(self) -> Checkpoint:
        """The same with all tensors whole, as ``group`` gives them."""
        return replace(self, tensors={name: self.group(name) for name in self.tensors}, shards=None)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write ``folder/step-N`` through a temporary folder and a rename, then drop all but the newest ``keep``.

    Raises:
        WriteError: for instance a full disk; the temporary folder is removed and earlier checkpoints stand.
    """
    target, temporary = folder / step_name(checkpoint.step), temporary_of(folder, checkpoint.step)
    remove_unfinished(folder)
    try:
        temporary.mkdir(parents=True)
        files = {}
        for name, tensors in checkpoint.tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file(separate(tensors), file, metadata=dict(checkpoint.about) or None)
            sort_metadata(file)
            files[name] = file_digest(file)
        publish(temporary, checkpoint, keep=keep, files=files)
    except (OSError, SafetensorError) as error:
        raise WriteError(target, error, safe=SAFE) from error
    finally:
        remove_unfinished(folder)
    return target


SAFE = "earlier checkpoints stand"
"""What is said of a checkpoint that could not be written."""


def publish(temporary: Path, checkpoint: Checkpoint, *, keep: int, **digests: Mapping[str, str]) -> None:
    """Write a checkpoint's state beside its tensors, give the folder its name, and drop the oldest.

    Args:
        temporary: folder that holds the tensors.
        checkpoint: what they are of.
        keep: how many stay.
        digests: ``files`` or ``shards``, each with its digest.

    Raises:
        OSError: for instance a full disk.
    """
    folder, target = temporary.parent, temporary.parent / step_name(checkpoint.step)
    state = sealed({"step": checkpoint.step, **digests, "state": _encode(checkpoint.state)})
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for path in temporary.iterdir():
        as_umask_says(path)
        flush(path)
    flush(temporary)
    if target.exists():  # of a run that went back; remove_unfinished puts it back, should the process be killed here
        target.rename(folder / f"{_REPLACED}{target.name}")
    temporary.rename(target)
    flush(folder)
    for old in list_checkpoints(folder)[:-keep]:
        old.rename(folder / f"{_SAVING}{old.name}")  # no longer listed, should the process be killed meanwhile


def temporary_of(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it has its name."""
    return folder / f"{_SAVING}{step_name(step)}"


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written or half removed; only for who holds the run's folder.

    A checkpoint that was about to be replaced by one of the same step gets its name back, if that one did not.
    """
    for replaced in folder.glob(f"{_REPLACED}*"):
        target = folder / replaced.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)
    for leftover in folder.glob(f"{_SAVING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def remove_after(folder: Path, *, step: int) -> None:
    """Remove the checkpoints of later steps, which the run has gone back from."""
    for path in list_checkpoints(folder):
        if path.name > step_name(step):
            path.rename(folder / f"{_SAVING}{path.name}")  # no longer listed, should the process be killed meanwhile
    remove_unfinished(folder)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder; a sharded one is put together.

    Raises:
        InputError: a file is missing, truncated or damaged, or the folder has the name of another step (a copy
            may have any other name); it names the file.
    """
    return open_checkpoint(path).together()


def newest_checkpoint(
    folder: Path,
    *,
    steps: int,
    without: str = "begin again; there is no other",
    read: Callable[[Path], Checkpoint] = load_checkpoint,
) -> Checkpoint | None:
    """The checkpoint that a run goes on from, or None where there is none.

    A damaged one is never passed over in silence for the one before it.

    Args:
        folder: of the checkpoints.
        steps: of the whole run.
        without: what a run does that has none, for the message.
        read: reads one.

    Raises:
        InputError: it is damaged, or of a step past the run's end; the message says what to remove and what is left.
    """
    saved = list_checkpoints(folder)
    if not saved:
        return None
    try:
        checkpoint = read(saved[-1])
        if checkpoint.step > steps:
            raise InputError(f"{saved[-1]}: a checkpoint after step {checkpoint.step} in a run of {steps} steps")
    except InputError as error:
        left = f"go on from the one before it, {saved[-2].name}" if len(saved) > 1 else without
        raise InputError(f"{error}\nremove the folder {saved[-1]} to {left}") from error
    return checkpoint


def open_checkpoint(path: Path, *, gather: Gather = LOCAL) -> Checkpoint:
    """Read one checkpoint folder, of a sharded one the state alone: its tensors are on the meta device.

    Args:
        path: the folder.
        gather: this process among those that read it; together they look at all bytes of a sharded one.

    Raises:
        InputError: as of ``load_checkpoint``; each process finds what is wrong with the files that it looks at.
    """
    state_path = path / "state.json"
    record = read_sealed(state_path)
    try:
        step, state = int(record["step"]), _decode(record["state"])
        sharded = "shards" in record
        files = dict(record["shards" if sharded else "files"])
        if sharded:
            _, world = writer_of(next(iter(files), ""))
            if sorted(files) != [shard_file(rank, world) for rank in range(world)]:
                raise ValueError(f"shards: expected those of {world} processes, got {files}")
        elif not all(str(name).isidentifier() for name in files):
            raise ValueError(f"files: {files}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RuntimeError) as error:
        raise InputError(f"{state_path}: not a readable checkpoint: {error!s:.500}") from error
    if path.name.startswith("step-") and path.name != step_name(step):  # a copy may be called anything else
        raise InputError(f"{state_path}: holds step {step}, but the folder is named {path.name}")
    if sharded:
        return _open_shards(Checkpoint(step, {}, state, where=path), files, path, gather=gather)
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


def _open_shards(checkpoint: Checkpoint, files: Mapping[str, str], path: Path, *, gather: Gather) -> Checkpoint:
    """The checkpoint with what lies in the files of so many processes, each of which is looked at by one of these."""
    for number, name in enumerate(sorted(files)):
        file, (rank, world) = path / name, writer_of(name)
        whose = f"the part of process {rank} of {world}"
        if not file.is_file():
            raise InputError(f"{file}: missing: {whose}")
        if number % gather.world == gather.rank and file_digest(file) != files[name]:
            raise InputError(f"{file}: truncated or damaged: not {whose} that state.json names")
    shards = TensorShards(path / name for name in sorted(files))
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, outline in shards.tensors.items():
        group, _, key = name.partition("/")
        if not key:
            file = shards.pieces[name][0].file
            raise InputError(f"{file}: {name!r:.200}: expected the name of a group, a slash and that of a tensor")
        tensors.setdefault(group, {})[key] = outline
    return replace(checkpoint, tensors=tensors, shards=shards)


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
