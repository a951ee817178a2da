"""Embedding on Ray: the file of the local engine, whoever dies in between and whoever began it."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ray_rows
import tether
from processes import tether as tether_process
from processes import wait_for
from ray_rows import Deadly, Shots, Stream, shot
from tether.core.errors import InputError, MissingExtraError
from tether.core.ray_cluster import connect, connected
from tether.core.types import ImageSpec
from tether.data.bad_rows import named_in
from tether.data.features.parquet import keys_in
from tether.data.features.remote_parts import PartWork
from tether.tasks.retrieve.embed import EmbeddedFile, embed
from tether.tasks.retrieve.ray_workers import RayWorkers
from tether.tasks.retrieve.vectors import VectorsThere

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(ray_rows.__file__).parent), prepend=":")
        with connected(cpus=2) as found:
            yield found


@pytest.fixture
def model(tmp_path: Path) -> Deadly:
    (tmp_path / "marks").mkdir()
    return Deadly(29, tmp_path / "marks")


def run(source: Any, out: Path, model: Deadly, *, workers: int = 0, **settings: Any) -> EmbeddedFile:
    ray = RayWorkers(workers) if workers else None
    settings = {"batch_size": 4, "part_rows": 8, "thumbnail": 16, **settings}
    return embed(source, model=model, model_name="deadly", out=out, ray=ray, **settings)


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


SHOTS: dict[str, Any] = {"lost": [5, 12, 13], "twice": [1, 5, 40, 41, 41]}


@pytest.mark.distributed
def test_a_killed_worker_loses_and_repeats_nothing(tmp_path, model, ray):
    source = Shots(48, **SHOTS)
    whole = run(source, tmp_path / "local.parquet", model)
    (model.marks / "one").touch()
    seen: list[tuple[int, int | None]] = []
    found = run(source, tmp_path / "ray.parquet", model, workers=2, on_progress=lambda *step: seen.append(step))
    assert not list(model.marks.iterdir())  # somebody died
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert (
        sorted(named_in(found.bad_rows))
        == sorted(named_in(whole.bad_rows))
        == ["k01", "k05", "k12", "k13", "k40", "k41"]
    )
    assert (found.rows, found.new, found.bad) == (whole.rows, whole.new, whole.bad) == (45, 45, 6)
    assert seen == sorted(seen)
    assert seen[-1] == (53, 53)


@pytest.mark.distributed
@pytest.mark.nightly
def test_what_one_engine_began_the_other_finishes(tmp_path, model, ray):
    source = Stream(Shots(40, lost=[5], twice=[1]))
    run(source, tmp_path / "whole", model)
    stopped = Stream(Shots(40, lost=[5], twice=[1], stop=27))
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path / "first", model)
    assert len(parts(tmp_path / "first")) == 3
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "first").glob("part-*")}
    first = run(source, tmp_path / "first", model, workers=1)
    assert (first.rows, first.new, first.bad) == (39, 16, 2)
    assert parts(tmp_path / "first") == parts(tmp_path / "whole")
    assert {name: (tmp_path / "first" / name).stat().st_mtime_ns for name in before} == before
    (model.marks / "a").touch()
    (model.marks / "b").touch()
    (model.marks / "c").touch()
    with pytest.raises(InputError, match=r"3 workers died over part 3 of stream \(8 rows, the first 'k24'\).*memory"):
        run(source, tmp_path / "second", model, workers=1)
    assert len(parts(tmp_path / "second")) == 3
    second = run(source, tmp_path / "second", model)
    assert (second.rows, second.new) == (39, 16)
    assert parts(tmp_path / "second") == parts(tmp_path / "whole")
    with pytest.raises(InputError, match="bad row 'k05': not an image"):
        run(source, tmp_path / "strict", model, workers=1, strict=True)


def parents() -> dict[int, int]:
    """Of every living process."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """Processes that came of one."""
    found, known = {pid}, parents()
    while more := {one for one, parent in known.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.nightly
def test_a_killed_driver_leaves_no_process_and_is_resumed_from(tmp_path):
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    photos.mkdir()
    for at in range(60):
        Image.fromarray(shot(at)).save(photos / f"{at:02d}.png")
    (photos / "07.png").write_bytes(b"no image")
    common = ["--model", "tiny", "--random-weights", "--part-rows", 2, "--batch-size", 2]
    command = ["embed", photos, *common, "--out", tmp_path / "killed"]
    child = tether_process(*command, "--engine", "ray", "--workers", 1)
    wait_for(lambda: (tmp_path / "killed" / "part-00003.parquet").exists(), child, seconds=600)
    started = descendants(child.pid)
    child.kill()
    left = parts(tmp_path / "killed")
    deadline = time.monotonic() + 300
    assert len(started) > 3
    while started & parents().keys():
        assert time.monotonic() < deadline, "the cluster outlives the one who started it"
        time.sleep(0.1)
    found = tether.embed(photos, model="tiny", random_weights=True, part_rows=2, batch_size=2, out=tmp_path / "killed")
    whole = tether.embed(photos, model="tiny", random_weights=True, part_rows=2, batch_size=2, out=tmp_path / "whole")
    assert parts(found.path) == parts(whole.path)
    assert left.items() <= parts(whole.path).items()
    assert whole.new - found.new == sum(len(keys_in(whole.path / name)) for name in left) > 6


def test_what_is_refused_before_anything_starts(tmp_path, monkeypatch):
    out = tmp_path / "e.parquet"
    with pytest.raises(InputError, match="engine: expected local or ray, got 'spark'"):
        tether.embed("digits", model="tiny", random_weights=True, out=out, engine="spark")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1 worker of Ray, got 0"):
        tether.embed("digits", model="tiny", random_weights=True, out=out, engine="ray", workers=0)
    with pytest.raises(InputError, match="address: 'auto' is of a Ray cluster, but the engine is local"):
        tether.embed("digits", model="tiny", random_weights=True, out=out, address="auto")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no Ray cluster at '{place}': Connection refused"):
            connect(address=place)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[ray\]"):
        tether.embed("digits", model="tiny", random_weights=True, out=out, engine="ray")
    assert not list(tmp_path.iterdir())


def test_a_worker_that_does_not_see_the_files_says_so(tmp_path, model):
    settings = {"batch_size": 4, "threads": 1, "image_spec": ImageSpec((32, 32))}
    work = PartWork(VectorsThere(model, {}, "cpu"), seen=str(tmp_path / "gone"), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"gone: No such file.*under the same path"):
        work.begin()
