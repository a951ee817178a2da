"""Sharded checkpoints: each process writes its own part, by torch.distributed.checkpoint, and none the whole.

torch plans who writes and who reads what, so a run may go on with other processes and another sharding. The files are
ours: its own storage keeps the plan as a pickle, and pickles are never opened here (``core.tensor_shards``).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from tether.core.errors import InputError, WriteError, reason_of
from tether.core.gather import process_gather
from tether.core.model_digest import file_digest
from tether.core.tensor_shards import TensorShards, shard_file, write_shard
from tether.models.convert.saved_files import separate
from tether.training.checkpoints import SAFE, Checkpoint, publish, remove_unfinished, step_name, temporary_of
from tether.training.shared_folder import SHARE


def save_sharded(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write ``folder/step-N``, each process its own part; every process must call it, with the same names.

    What is not sharded, the state among it, is that of the first process. The folder has its name when all parts are on
    disk, so one whose processes were killed before is not seen.

    Raises:
        WriteError: for instance a full disk of one process; all raise it, and earlier checkpoints stand.
    """
    main = process_gather().rank == 0
    temporary = temporary_of(folder, checkpoint.step)
    tensors = {f"{group}/{name}": value for group, found in checkpoint.tensors.items() for name, value in found.items()}
    writer = _ShardWriter(
        temporary,
        about=checkpoint.about,
        finish=lambda digests: publish(temporary, checkpoint, keep=keep, shards=digests),
    )
    planner = DefaultSavePlanner(
        flatten_state_dict=False,
        flatten_sharded_tensors=False,
        dedup_save_to_lowest_rank=True,  # buffers may differ between processes, and those of the first one count
    )
    if main:
        remove_unfinished(folder)
    try:
        with _alone_is_meant():
            dcp.save(tensors, storage_writer=writer, planner=planner)
    except CheckpointException as error:
        raise WriteError(folder / step_name(checkpoint.step), OSError(_reason(error)), safe=SAFE) from error
    finally:
        if main:
            remove_unfinished(folder)


def read_sharded(shards: TensorShards, targets: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or not, with what the files hold under their names; every process must call it.

    Raises:
        InputError: a file that cannot be read, in any process.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with _alone_is_meant():
            dcp.load(dict(targets), storage_reader=_ShardReader(shards), planner=planner)
    except CheckpointException as error:
        raise InputError(_reason(error)) from error


class _ShardWriter(dcp.StorageWriter):
    """A file for each process; nothing is pickled."""

    def __init__(self, folder: Path, *, about: Mapping[str, str], finish: Callable[[Mapping[str, str]], None]) -> None:
        self._folder, self._about, self._finish = folder, about, finish

    def reset(self, checkpoint_id: object = None) -> None:
        """There is one checkpoint for each writer."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self._folder.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=shard_file(rank, len(plans))) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        file = self._folder / plan.storage_data
        if not self._folder.is_dir():
            raise InputError(f"{self._folder} is not there: {SHARE}")
        blocks: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        for item in plan.items:
            value, block = planner.resolve_data(item), item.tensor_data
            assert isinstance(value, Tensor)
            assert block is not None
            blocks[item.index.fqn] = value, tuple(block.chunk.offsets)
        assert len(blocks) == len(plan.items)  # of each tensor one block
        parts = separate({name: value for name, (value, _) in blocks.items()})
        try:
            write_shard(file, {name: (part, blocks[name][1]) for name, part in parts.items()}, about=self._about)
        except SafetensorError as error:  # what it makes of a full disk; no other process could read it
            raise OSError(str(error)) from None
        written = WriteResult(MetadataIndex(file.name), file.stat().st_size, file_digest(file))
        done: Future[list[WriteResult]] = Future()
        done.set_result([written])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [one for result in results for one in result]
        for one in written:
            file = self._folder / one.index.fqn
            if not file.is_file() or file.stat().st_size != one.size_in_bytes:
                raise InputError(f"{file.name} was written, but process 0 does not see it: {SHARE}")
        self._finish({one.index.fqn: one.storage_data for one in written})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False


class _ShardReader(dcp.StorageReader):
    """Reads what ``_ShardWriter`` wrote, and of each file only what this process needs."""

    def __init__(self, shards: TensorShards) -> None:
        self._shards = shards

    def reset(self, checkpoint_id: object = None) -> None:
        """There is one checkpoint for each reader."""

    def read_metadata(self) -> Metadata:
        found: dict[str, Any] = {}
        for name, outline in self._shards.tensors.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(one.offsets), torch.Size(one.shape))
                for one in self._shards.pieces[name]
            ]
            found[name] = TensorStorageMetadata(TensorProperties(outline.dtype), outline.shape, chunks)
        return Metadata(found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The files are open already."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            offsets = item.storage_index.offset
            assert offsets is not None
            part = self._shards.part(item.storage_index.fqn, offsets, item.storage_offsets, item.lengths)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False


def _reason(error: CheckpointException) -> str:
    """Why the first of the processes failed that did; only for what is nobody's mistake in the code."""
    rank, (reason, _) = min(error.failures.items())
    if not isinstance(reason, Exception):  # Ctrl-C
        raise reason
    said = reason_of(reason) if isinstance(reason, OSError) else str(reason)
    said = f"process {rank}: {said}" if process_gather().world > 1 else said
    if not isinstance(reason, (OSError, InputError)):
        raise RuntimeError(f"{said} ({type(reason).__name__})") from error
    return said


@contextlib.contextmanager
def _alone_is_meant() -> Iterator[None]:
    """Without torch's warning to a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .* the intent is", category=UserWarning)
        yield
