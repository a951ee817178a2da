"""Tensors in pieces over several safetensors files, each piece with its place in the whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.core.tensor_file import sort_metadata

_PLACES, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""Where a file says where its pieces belong: as torch's ``HuggingFaceStorageReader`` looks for it."""
_VERSION = {"DCP_VERSION": "1.0", "format": "pt"}
_FILE = re.compile(r"rank-(\d{5})-of-(\d{5})\.safetensors")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of a tensor.

    Attributes:
        file: that holds it.
        offsets: of its first entry in the whole tensor.
        shape: of the block.
        kind: of its numbers, as safetensors calls it.
    """

    file: Path
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    kind: str


def shard_file(rank: int, world: int) -> str:
    """The name of the file that one of so many processes writes."""
    return f"rank-{rank:05d}-of-{world:05d}.safetensors"


def writer_of(name: str) -> tuple[int, int]:
    """Rank and number of the processes that wrote a file of this name.

    Raises:
        ValueError: no name that ``shard_file`` gives.
    """
    found = _FILE.fullmatch(name)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"expected a name like {shard_file(0, 2)}, got {name!r:.100}")
    return int(found[1]), int(found[2])


def shards_beside(file: Path) -> list[Path]:
    """The file that one process wrote and those that the others wrote with it; empty for any other file."""
    try:
        _, world = writer_of(file.name)
    except ValueError:
        return []
    return [file.with_name(shard_file(rank, world)) for rank in range(world)]


def write_shard(path: Path, pieces: Mapping[str, tuple[Tensor, Sequence[int]]], *, about: Mapping[str, str]) -> None:
    """Write one process's blocks.

    Args:
        path: of the file, named by ``shard_file``; it is not written atomically.
        pieces: each block, contiguous and on the CPU, with its offsets in the whole tensor.
        about: what the file says of itself besides.
    """
    from safetensors.torch import save_file

    places = {name: {_OFFSETS: list(offsets)} for name, (_, offsets) in pieces.items()}
    said = {**about, **_VERSION, _PLACES: json.dumps(places)}
    save_file({name: tensor for name, (tensor, _) in pieces.items()}, path, metadata=said)
    sort_metadata(path)


class TensorShards:
    """What lies in the files of several processes: nothing is read before it is asked for.

    What a file says is believed only where its own bytes bear it out: the blocks of a tensor lie one behind the other
    and fill it, so none is larger than the files are.

    Attributes:
        tensors: names, shapes and kinds of number, as tensors of the meta device.
        pieces: the blocks of each, in order.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from tether.core.tensor_shards import TensorShards, shard_file, write_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = [Path(folder) / shard_file(rank, 2) for rank in range(2)]
        ...     for rank, file in enumerate(files):
        ...         write_shard(file, {"a": (torch.full((2,), float(rank)), (2 * rank,))}, about={})
        ...     TensorShards(files).read("a")
        tensor([0., 0., 1., 1.])
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Read what the files say of themselves.

        Raises:
            InputError: a file is missing or truncated, is not one of blocks, or blocks of a tensor do not fit together.
        """
        self._open: dict[Path, Any] = {}
        blocks: dict[str, list[StoredBlock]] = {}
        for file in files:
            for name, piece in self._blocks(file):
                blocks.setdefault(name, []).append(piece)
        self.pieces = {name: _in_order(name, found) for name, found in blocks.items()}
        self.tensors = {name: _outline(name, found) for name, found in self.pieces.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, put together."""
        pieces, like = self.pieces[name], self.tensors[name]
        whole = torch.empty(like.shape, dtype=like.dtype)
        for piece in pieces:
            block = tuple(slice(start, start + size) for start, size in zip(piece.offsets, piece.shape, strict=True))
            whole[block] = self.part(name, piece.offsets, [0] * whole.ndim, piece.shape)
        return whole

    def part(self, name: str, offsets: Sequence[int], inside: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Some entries of the block of a tensor that begins at ``offsets``.

        Args:
            name: of the tensor.
            offsets: of the block.
            inside: offsets in the block.
            lengths: how many entries along each dimension.
        """
        piece = next(one for one in self.pieces[name] if one.offsets == tuple(offsets))
        wanted = tuple(slice(start, start + size) for start, size in zip(inside, lengths, strict=True))

        def read(file: Any) -> Tensor:
            return file.get_slice(name)[wanted] if wanted else file.get_tensor(name)

        return self._told(piece.file, read)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose names begin so, put together, by the rest of their names."""
        return {name.removeprefix(prefix): self.read(name) for name in self.tensors if name.startswith(prefix)}

    def _blocks(self, file: Path) -> Iterable[tuple[str, StoredBlock]]:
        """What one file holds."""

        def look(opened: Any) -> list[tuple[str, list[int], str]]:
            return [
                (name, part.get_shape(), part.get_dtype())
                for name in opened.keys()  # noqa: SIM118 (not a mapping)
                for part in [opened.get_slice(name)]
            ]

        found = self._told(file, look)
        said = self._told(file, lambda opened: (opened.metadata() or {}).get(_PLACES, "{}"))
        places = parse_json(said, where=f"{file}: {_PLACES}")
        for name, shape, kind in found:
            try:
                offsets = [one for one in places[name][_OFFSETS] if type(one) is int and 0 <= one < 2**48]
            except (KeyError, TypeError, IndexError):
                offsets = []
            if len(offsets) != len(shape) or kind not in _DTYPES:
                raise InputError(
                    f"{file}: {name!r:.200}: expected a block of numbers with its place in the whole tensor, got "
                    f"{kind} of shape {tuple(shape)} at {offsets or str(places)[:60]}"
                )
            yield name, StoredBlock(file, tuple(offsets), tuple(shape), kind)

    def _told(self, file: Path, ask: Callable[[Any], Any]) -> Any:
        """What an open file answers, or an error that names it."""
        from safetensors import SafetensorError, safe_open

        try:
            if file not in self._open:
                self._open[file] = safe_open(file, framework="pt")
            return ask(self._open[file])
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise InputError(f"{file}: missing, truncated or not safetensors: {error!s:.300}") from error


def _in_order(name: str, pieces: Sequence[StoredBlock]) -> list[StoredBlock]:
    """Blocks that lie one behind the other along one dimension, from its start."""
    pieces = [one for one in pieces if 0 not in one.shape] or list(pieces[:1])
    ranks = len(pieces[0].shape)
    moving = [axis for axis in range(ranks) if len({one.offsets[axis : axis + 1] for one in pieces}) > 1]
    axis = moving[0] if moving else 0
    found, end = sorted(pieces, key=lambda one: one.offsets[axis : axis + 1]), 0
    for one in found:
        wanted = tuple(end if place == axis else 0 for place in range(ranks))
        rest = {(*other.shape[:axis], *other.shape[axis + 1 :], other.kind) for other in (one, found[0])}
        if one.offsets != wanted or len(one.shape) != ranks or len(rest) > 1 or (not ranks and len(found) > 1):
            raise InputError(
                f"{one.file}: {name!r:.200}: expected the block at {wanted} of {found[0].kind}, got one of shape "
                f"{one.shape} at {one.offsets} of {one.kind}"
            )
        end += one.shape[axis] if ranks else 1
    return found


def _outline(name: str, pieces: Sequence[StoredBlock]) -> Tensor:
    """Shape and kind of number of a whole tensor."""
    shape = [last + size for last, size in zip(pieces[-1].offsets, pieces[-1].shape, strict=True)]
    try:
        return torch.empty(shape, dtype=_DTYPES[pieces[0].kind], device="meta")
    except (RuntimeError, TypeError, OverflowError) as error:
        raise InputError(f"{pieces[0].file}: {name!r:.200}: no tensor has the shape {tuple(shape)}") from error
