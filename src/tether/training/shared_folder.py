"""A run's folder seen by several processes, maybe of several machines: the same files, the same checkpoint."""

from __future__ import annotations

import contextlib
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tether.core.atomic_io import write_text
from tether.core.errors import InputError, WriteError
from tether.core.gather import process_gather
from tether.training.checkpoints import Checkpoint, newest_checkpoint, open_checkpoint
from tether.training.parallel import agree

SHARE = "checkpoints=sharded needs a folder that all machines share (checkpoints=whole is written by one process)"
_PATIENCE = 5.0
"""Seconds that a file may need to be seen by another machine."""


def checkpoint_to_resume(folder: Path, *, steps: int) -> Checkpoint | None:
    """``newest_checkpoint``, the same one in all processes; tensors of a sharded one stay in their files.

    Raises:
        InputError: as there, or the processes see different ones; all raise it.
    """
    refused, found = None, None
    gather = process_gather()
    try:
        found = newest_checkpoint(folder, steps=steps, read=partial(open_checkpoint, gather=gather))
    except InputError as error:
        refused = error
    agree(refused)
    if gather.world > 1:
        seen: list[Any] = [None] * gather.world
        dist.all_gather_object(seen, None if found is None else found.step)
        other = next((rank for rank, step in enumerate(seen) if step != seen[0]), None)
        if other is not None:
            raise InputError(
                f"{folder}: process 0 sees the checkpoint of step {seen[0]}, process {other} that of step "
                f"{seen[other]}: the folder must be one that all machines see"
            )
    return found


def check_shared(folder: Path) -> None:
    """See that all processes write into the same folder, before a step is taken for nothing.

    Raises:
        InputError: the first process wrote a file there that another one does not see.
    """
    if process_gather().world == 1:
        return
    said: list[Any] = [secrets.token_hex(8)]
    dist.broadcast_object_list(said, src=0)
    mark = folder / f".shared-{said[0]}"
    refused = None
    if process_gather().rank == 0:
        with contextlib.suppress(WriteError):  # which a run that cannot write says soon enough
            write_text(mark, said[0])
    dist.barrier()
    deadline = time.monotonic() + _PATIENCE
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if not mark.exists():
        refused = InputError(f"{folder}: process {process_gather().rank} does not see what process 0 writes: {SHARE}")
    try:
        agree(refused)
    finally:
        if process_gather().rank == 0:
            mark.unlink(missing_ok=True)
