"""A curation's folder and workers: one process at a time, resumed after a death, damage named, the same on Ray."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine_steps
from engine_steps import Broken, Deadly, Marks, Once, Shorter, Upper, Without, kept, recipe, texts_of, write_pool
from tables import contents
from tether.core.errors import InputError, LockedError
from tether.data.curate import MetaClipCurator
from tether.data.curate.engine.partition_state import load_state, save_state
from tether.data.curate.engine.plan import Plan
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.shard_writer import STATE
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import group

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path):
    pq.write_table(pa.table({"caption": ["red fox", "red owl", "a mole"] * 20}), tmp_path / "small.parquet")
    return open_pool(str(tmp_path / "small.parquet"))


def steps(t: float = 20) -> list:
    return [("metaclip", MetaClipCurator(entries=["red", "fox", "owl"], t=t))]


def test_where_no_piece_was_finished_other_settings_may_begin(small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tether.data.curate.engine.plan.save_state", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            curate(small, steps=steps(), out=out)
    for name in ("part-000007.parquet", ".manifest.json.abcdefgh.tmp", "dropped/part-000007.csv"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("of a killed process")
    manifest = curate(small, steps=steps(t=5), out=out)
    curate(small, steps=steps(t=5), out=tmp_path / "other")
    assert manifest["steps"][0]["t"] == 5
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (out, tmp_path / "other")]
    assert names[0] == names[1]


def test_the_second_process_is_refused(small, tmp_path, holder):
    with (
        holder(tmp_path / "out", "tether curate") as pid,
        pytest.raises(LockedError, match=rf"process {pid} on .*tether curate"),
    ):
        curate(small, steps=steps(), out=tmp_path / "out")
    curate(small, steps=steps(), out=tmp_path / "out")


def test_what_a_killed_run_was_writing_is_removed(small, tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError):
            curate(small, steps=recipe(Broken()), out=tmp_path / "out")
        left = tmp_path / "out" / STATE / "writing-part-000000-0123.dropped"
        assert not left.exists()
        left.write_bytes(b"half")


def test_an_abandoned_shard_is_removed_when_it_cannot_be_closed(small, tmp_path, monkeypatch):
    class Failing(Without):
        def keep(self, rows):
            if rows.column("text")[0].as_py() == "a mole":
                raise KeyError("a mistake")
            return super().keep(rows)

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 2)
    with monkeypatch.context() as patch:
        patch.setattr("tether.data.curate.engine.shard_writer._Parquet.close", full)
        with pytest.raises(KeyError, match="a mistake"):
            curate(small, steps=recipe(Failing("owl")), out=tmp_path / "out")
    assert not list((tmp_path / "out" / STATE).glob("writing-*"))


def test_a_finished_folder_that_lost_a_shard_is_refused(small, tmp_path):
    curate(small, steps=steps(), out=tmp_path / "out")
    (tmp_path / "out" / "part-000000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-000000\.parquet: no such file, though manifest\.json names it"):
        curate(small, steps=steps(), out=tmp_path / "out")


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
def test_damaged_state_of_a_piece_is_named(small, tmp_path, monkeypatch, change):
    work = Plan.work

    def interrupted(self, number, piece):
        return work(self, number, piece) if number == 0 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "work", interrupted)
        with pytest.raises(ZeroDivisionError):
            curate(small, steps=steps(), out=tmp_path / "out")
    (path,) = (tmp_path / "out" / ".curate" / "pass-0").iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(whole, load_state(path)))
    with pytest.raises(InputError, match=r"000000\.npz: .*done again"):
        curate(small, steps=steps(), out=tmp_path / "out")
    path.unlink()
    assert curate(small, steps=steps(), out=tmp_path / "out")["rows"]["good"] == 60


def test_state_comes_back_as_it_was(tmp_path):
    arrays = {"fate": np.arange(5, dtype=np.int16), "rows": np.asarray(3), "bad": np.asarray("[]"), "none": np.zeros(0)}
    save_state(tmp_path / "a.npz", arrays)
    found = load_state(tmp_path / "a.npz")
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: text.replace('"good": 60', '"good": "x"')])
def test_a_damaged_manifest_is_named(small, tmp_path, change):
    curate(small, steps=steps(), out=tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    assert json.loads(path.read_text())["rows"]["good"] == 60
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=r"manifest\.json"):
        curate(small, steps=steps(), out=tmp_path / "out")


@pytest.mark.distributed
def test_workers_give_the_same_files(pool, tmp_path):
    steps = recipe(Without("owl"), Once(), Upper("fox"), Marks("red"), MetaClipCurator(entries=["FOX", "red"], t=20))
    seen: list[tuple[int, int | None]] = []
    counted: dict[str, tuple[int, int]] = {}
    alone = curate(pool, steps=steps, out=tmp_path / "alone")
    manifest = curate(
        pool,
        steps=steps,
        out=tmp_path / "many",
        workers=3,
        on_progress=lambda done, total: seen.append((done, total)),
        on_counts=lambda name, asked, left: counted.update({name: (asked, left)}),
    )
    assert manifest == alone
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    assert seen[0] == (0, 15)
    assert seen[-1] == (15, 15)
    assert counted["without"] == (alone["by_step"][0]["in"], alone["by_step"][0]["kept"])
    assert counted["metaclipcurator"] == (alone["by_step"][4]["in"], alone["by_step"][4]["kept"])
    assert 0 < counted["marks"][1] < counted["marks"][0]


@pytest.mark.distributed
def test_a_worker_that_dies_loses_and_repeats_nothing(pool, tmp_path):
    marks, log = tmp_path / "marks", tmp_path / "log"
    marks.mkdir()
    steps = recipe(Deadly("pool.parquet:130", marks), Once(), Without("owl", log))
    whole = curate(pool, steps=steps, out=tmp_path / "whole")
    log.unlink()
    for name in ("one", "two"):
        (marks / name).touch()
    assert curate(pool, steps=steps, out=tmp_path / "out", workers=2) == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(marks.iterdir())
    keys = log.read_text().split()
    assert len(keys) == len(set(keys))


@pytest.mark.distributed
def test_a_piece_that_kills_every_worker_is_given_up(pool, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in range(3):
        (marks / str(name)).touch()
    steps = recipe(Deadly("pool.parquet:130", marks))
    with pytest.raises(
        InputError, match=r'3 workers died over piece 3; is there enough memory.* if __name__ == "__main__"'
    ):
        curate(pool, steps=steps, out=tmp_path / "out", workers=2)
    curate(pool, steps=steps, out=tmp_path / "out", workers=2)
    curate(pool, steps=steps, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.distributed
def test_errors_of_workers_arrive(pool, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed at piece \d:.*KeyError: 'a mistake'"):
        curate(pool, steps=recipe(Broken()), out=tmp_path / "out", workers=2)
    bad = write_pool(tmp_path / "bad.parquet", pa.array([b"red"] * 30 + [b"\xff"]))
    with pytest.raises(InputError, match=r"bad row 'bad\.parquet:30': a caption is not UTF-8"):
        curate(open_pool(bad), steps=recipe(Without("nothing")), out=tmp_path / "bad", workers=2, strict=True)


@pytest.mark.distributed
@pytest.mark.nightly
def test_a_killed_ray_worker_loses_and_repeats_nothing(pool, tmp_path, ray):
    marks, log = tmp_path / "marks", tmp_path / "log"
    marks.mkdir()
    steps = recipe(Deadly("pool.parquet:130", marks), Without("owl", log))
    whole = curate(pool, steps=steps, out=tmp_path / "whole")
    log.unlink()
    (marks / "one").touch()
    assert curate(pool, steps=steps, out=tmp_path / "out", engine="ray") == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(marks.iterdir())
    keys = log.read_text().split()
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.distributed, pytest.mark.nightly])])
def test_hugging_face_and_parquet_give_the_same_rows(tmp_path, engine, request):
    if engine == "ray":
        request.getfixturevalue("ray")
    datasets = pytest.importorskip("datasets")
    texts = [row or ["owl"] for row in texts_of(120)]
    path = write_pool(tmp_path / "pool.parquet", texts, keys=[f"k{index}" for index in range(120)])
    table = pq.read_table(path)
    datasets.Dataset.from_dict(table.to_pydict()).save_to_disk(str(tmp_path / "hf"), max_shard_size="2KB")
    metaclip = MetaClipCurator(entries=["fox", "red", "zebra"], t=15)
    steps = recipe(Without("owl"), Upper("blue"), Shorter(100, "book"), metaclip)
    found = []
    sources = [("a", path), ("b", str(tmp_path / "hf"))]
    for name, source in sources if engine == "local" else sources[1:]:
        manifest = curate(open_pool(source), steps=steps, out=tmp_path / f"out {name}", engine=engine, seed=4)
        found.append((manifest["by_step"], manifest["rows"], manifest["licences"]))
        rows = kept(tmp_path / f"out {name}")
        found[-1] += ([(row["key"], row.get("captions") or row.get("texts")) for row in rows],)
    if engine == "ray":
        manifest = curate(open_pool(path), steps=steps, out=tmp_path / "alone", seed=4)
        rows = [(row["key"], row["captions"]) for row in kept(tmp_path / "alone")]
        found.append((manifest["by_step"], manifest["rows"], manifest["licences"], rows))
    assert found[0] == found[1]
    assert found[0][3]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from engine_steps import Once, Upper, Without
from tether.core.errors import TetherError
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import group
from tether.data.curate.pools.pool import group
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.shard_writer import STATE
if __name__ == "__main__":
    group.__kwdefaults__["rows"] = 50
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    steps = [("without", Without("owl")), ("once", Once()), ("upper", Upper("fox"))]
    try:
        curate(open_pool(sys.argv[1]), steps=steps, out=Path(sys.argv[2]), workers=2)
    except TetherError as error:
        sys.exit(str(error))
"""


@pytest.mark.distributed
def test_a_full_disk_leaves_whole_files_and_is_resumed_from(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = [rng.bytes(size) for size in [300] * 150 + [3_000] * 50]
    table = pa.table({"caption": [f"{'red' if i % 5 else 'owl'} fox {i}" for i in range(200)], "image": noise})
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=25)
    (tmp_path / "limited.py").write_text(_LIMITED)
    arguments = [tmp_path / "pool.parquet", tmp_path / "out", Path(engine_steps.__file__).parent]
    command = [sys.executable, str(tmp_path / "limited.py"), *map(str, arguments)]
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 50})
    pool = open_pool(str(tmp_path / "pool.parquet"))
    assert pool.pieces() == 4
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(r"part-\d+.parquet: could not be written: .*File too large; .* same command resumes", done.stderr)
    steps = [("without", Without("owl")), ("once", Once()), ("upper", Upper("fox"))]
    curate(pool, steps=steps, out=tmp_path / "whole")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".curate" not in path.parts]
    assert [path.name for path in written if path.suffix == ".parquet"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(tmp_path / "out")).read_bytes()
    curate(pool, steps=steps, out=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_disappears_is_named_and_its_return_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 40})
    (tmp_path / "pool").mkdir()
    for name in "abc":
        write_pool(tmp_path / "pool" / f"{name}.parquet", texts_of(60, seed=ord(name)))
    steps = recipe(Without("owl"), Once(), Upper("fox"))
    pool = open_pool(str(tmp_path / "pool"))
    work = Plan.work

    def losing(self, number, piece):
        if number == 1 and piece == 2:
            (tmp_path / "pool" / "b.parquet").rename(tmp_path / "b.parquet")
        return work(self, number, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "work", losing)
        with pytest.raises(InputError, match=r"b\.parquet: .*No such file"):
            curate(pool, steps=steps, out=tmp_path / "out")
    (tmp_path / "b.parquet").rename(tmp_path / "pool" / "b.parquet")
    curate(open_pool(str(tmp_path / "pool")), steps=steps, out=tmp_path / "out")
    curate(pool, steps=steps, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.distributed
@pytest.mark.usefixtures("ray")
@pytest.mark.nightly
def test_ray_gives_the_same_files(pool, tmp_path):
    for engine in ("local", "ray"):
        curate(pool, steps=steps(), out=tmp_path / engine, engine=engine)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    bad = write_pool(tmp_path / "bad.parquet", pa.array([b"red", b"\xff"]))
    with pytest.raises(InputError, match="a caption is not UTF-8"):
        curate(open_pool(bad), steps=steps(), out=tmp_path / "strict", engine="ray", strict=True)
