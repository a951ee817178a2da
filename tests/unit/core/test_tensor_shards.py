"""Blocks of tensors in several files: put together as they were, and refused where they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.core.errors import InputError
from tether.core.tensor_shards import TensorShards, shard_file, shards_beside, write_shard, writer_of

PARTS = [
    {
        "m/rows": (torch.arange(6.0).reshape(2, 3), (0, 0)),
        "m/columns": (torch.ones(2, 1, dtype=torch.bfloat16), (0, 0)),
        "m/flag": (torch.tensor(True), ()),
        "o/none": (torch.empty(0, 4), (0, 0)),
    },
    {
        "m/rows": (torch.arange(6.0, 9.0).reshape(1, 3), (2, 0)),
        "m/columns": (torch.zeros(2, 2, dtype=torch.bfloat16), (0, 1)),
        "o/none": (torch.empty(0, 4), (0, 0)),
    },
    {"m/rows": (torch.empty(0, 3), (3, 0))},
]


def written(folder: Path, parts=PARTS) -> list[Path]:
    files = [folder / shard_file(rank, len(parts)) for rank in range(len(parts))]
    for file, pieces in zip(files, parts, strict=True):
        write_shard(file, pieces, about={"geometry": "clip"})
    return files


def test_blocks_come_back_as_one(tmp_path):
    files = written(tmp_path)
    shards = TensorShards(files)
    assert {name: tuple(one.shape) for name, one in shards.tensors.items()} == {
        "m/rows": (3, 3),
        "m/columns": (2, 3),
        "m/flag": (),
        "o/none": (0, 4),
    }
    found = shards.group("m/")
    assert torch.equal(found["rows"], torch.arange(9.0).reshape(3, 3))
    assert torch.equal(found["columns"], torch.tensor([[1, 0, 0]] * 2, dtype=torch.bfloat16))
    assert found["flag"].item() is True
    assert shards.read("o/none").shape == (0, 4)
    assert torch.equal(shards.part("m/rows", (0, 0), (1, 1), (1, 2)), torch.tensor([[4.0, 5.0]]))
    assert shards_beside(files[1]) == files
    assert shards_beside(tmp_path / "model.safetensors") == []


def test_torch_reads_them_too(tmp_path):
    hugging_face = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
    import torch.distributed.checkpoint as dcp

    written(tmp_path, [{name: one for name, one in part.items() if "rows" in name} for part in PARTS[:2]])
    found = {"m/rows": torch.empty(3, 3)}
    with pytest.warns(UserWarning, match="single process"):
        dcp.load(found, storage_reader=hugging_face.HuggingFaceStorageReader(str(tmp_path)))
    assert torch.equal(found["m/rows"], torch.arange(9.0).reshape(3, 3))


@pytest.mark.parametrize("name", ["rank-00002-of-00002.safetensors", "rank-0-of-1.safetensors", "../rank", "model", ""])
def test_other_names_are_of_no_process(name):
    with pytest.raises(ValueError, match="expected a name like rank-00000-of-00002"):
        writer_of(name)


def forged(rank: int, name: str, **change):
    def damage(files):
        parts = [dict(part) for part in PARTS]
        tensor, offsets = parts[rank][name]
        parts[rank][name] = (change.get("tensor", tensor), change.get("offsets", offsets))
        written(files[0].parent, parts)

    return damage


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def places(value: str):
    return lambda files: save_file({"a": torch.ones(3)}, files[1], metadata={"DCP_SHARDING_INFO": value})


@pytest.mark.parametrize(
    ("damage", "rank"),
    [
        (lambda files: files[1].unlink(), 1),
        (lambda files: files[2].write_bytes(files[2].read_bytes()[:-4]), 2),
        (lambda files: files[0].write_bytes(files[0].read_bytes()[:-4]), 0),
        (lambda files: files[1].write_bytes(b"\xff" * 7 + b"\x7f" + b"{" * 64), 1),
        (lambda files: files[0].write_bytes(pickle.dumps(Bomb())), 0),
        (lambda files: save_file({"m/rows": torch.ones(1, 3)}, files[1]), 1),
        *((places(value), 1) for value in ("{", "3", "{}", '{"a": 3}', '{"a": {"saved_offsets": [true]}}')),
        *((places(json.dumps({"a": {"saved_offsets": value}})), 1) for value in ([-3], [2**70], [0, 0], [], [0.5], 3)),
        (places("[" * 99_999), 1),
        (forged(1, "m/rows", offsets=(2**47, 0)), 1),
        (forged(1, "m/rows", offsets=(1, 0)), 1),
        (forged(1, "m/rows", offsets=(3, 0)), 1),
        (forged(1, "m/rows", offsets=(0, 0)), 1),
        (forged(1, "m/rows", offsets=(2, 1)), 1),
        (forged(1, "m/rows", tensor=torch.ones(1, 2)), 1),
        (forged(1, "m/rows", tensor=torch.ones(1, 3, dtype=torch.float64)), 1),
        (forged(1, "m/rows", tensor=torch.ones(1, 3, 1), offsets=(2, 0, 0)), 1),
        (forged(0, "m/rows", tensor=torch.tensor(1.0), offsets=()), 0),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, damage, rank):
    files = written(tmp_path)
    damage(files)
    with pytest.raises(InputError, match=rf"rank-0000{rank}-of-00003\.safetensors"):
        TensorShards(files)
