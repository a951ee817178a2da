"""A curation's folder: one process at a time, begun again where nothing was finished, and damage named."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.core.errors import InputError, LockedError
from tether.data.curate import MetaClipCurator
from tether.data.curate.engine.partition_state import load_state, save_state
from tether.data.curate.engine.plan import Plan
from tether.data.curate.engine.run import curate
from tether.data.curate.pools.opening import open_pool


@pytest.fixture
def pool(tmp_path):
    pq.write_table(pa.table({"caption": ["red fox", "red owl", "a mole"] * 20}), tmp_path / "pool.parquet")
    return open_pool(str(tmp_path / "pool.parquet"))


def steps(t: float = 20) -> list:
    return [("metaclip", MetaClipCurator(entries=["red", "fox", "owl"], t=t))]


def test_where_no_piece_was_finished_other_settings_may_begin(pool, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tether.data.curate.engine.plan.save_state", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            curate(pool, steps=steps(), out=out)
    for name in ("part-000007.parquet", ".manifest.json.abcdefgh.tmp", "dropped/part-000007.csv"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("of a killed process")
    manifest = curate(pool, steps=steps(t=5), out=out)
    curate(pool, steps=steps(t=5), out=tmp_path / "other")
    assert manifest["steps"][0]["t"] == 5
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (out, tmp_path / "other")]
    assert names[0] == names[1]


def test_the_second_process_is_refused(pool, tmp_path, holder):
    with (
        holder(tmp_path / "out", "tether curate") as pid,
        pytest.raises(LockedError, match=rf"process {pid} on .*tether curate"),
    ):
        curate(pool, steps=steps(), out=tmp_path / "out")
    curate(pool, steps=steps(), out=tmp_path / "out")


def packed(arrays: dict, *, compressed: bool = False) -> bytes:
    data = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(data, **arrays)
    return data.getvalue()


def header_of(shape: tuple[int, ...]) -> bytes:
    header, data = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("fate.npy", header.getvalue())
    return data.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda whole, arrays: whole[: len(whole) // 2],
        lambda whole, arrays: whole.replace(b"rows", b"cols"),
        lambda whole, arrays: whole.replace(b"'descr': '<i2'", b"'descr': '|O'   "),
        lambda whole, arrays: b"",
        lambda whole, arrays: b"\x00" * 500,
        lambda whole, arrays: packed({**arrays, "rows": np.asarray("x")}),
        lambda whole, arrays: packed({**arrays, "rows": np.asarray([object()])}),
        lambda whole, arrays: packed({name: arrays[name] for name in arrays if name != "tally"}),
        lambda whole, arrays: packed({"fate": np.zeros(10**7, np.uint8)}, compressed=True),
        lambda whole, arrays: header_of((10**15,)),
        lambda whole, arrays: header_of((-1,)),
    ],
)
def test_damaged_state_of_a_piece_is_named(pool, tmp_path, monkeypatch, change):
    work = Plan.work

    def interrupted(self, number, piece):
        return work(self, number, piece) if number == 0 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "work", interrupted)
        with pytest.raises(ZeroDivisionError):
            curate(pool, steps=steps(), out=tmp_path / "out")
    (path,) = (tmp_path / "out" / ".curate" / "pass-0").iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(whole, load_state(path)))
    with pytest.raises(InputError, match=r"000000\.npz: .*done again"):
        curate(pool, steps=steps(), out=tmp_path / "out")
    path.unlink()
    assert curate(pool, steps=steps(), out=tmp_path / "out")["rows"]["good"] == 60


def test_state_comes_back_as_it_was(tmp_path):
    arrays = {"fate": np.arange(5, dtype=np.int16), "rows": np.asarray(3), "bad": np.asarray("[]"), "none": np.zeros(0)}
    save_state(tmp_path / "a.npz", arrays)
    found = load_state(tmp_path / "a.npz")
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: text.replace('"good": 60', '"good": "x"')])
def test_a_damaged_manifest_is_named(pool, tmp_path, change):
    curate(pool, steps=steps(), out=tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    assert json.loads(path.read_text())["rows"]["good"] == 60
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=r"manifest\.json"):
        curate(pool, steps=steps(), out=tmp_path / "out")
