"""Manifests of shards as sources: here, behind HTTP and in fsspec's memory, and what one may not name."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data import manifests, open_source
from tether.data.bad_rows import BadRows
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.parquet import ParquetPool
from tether.data.in_order import ordered
from tether.data.manifests import read_shards


def png(at: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), at, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as archive:
        for at in numbers:
            for name, data in ((f"{at:03d}.png", png(at)), (f"{at:03d}.txt", b"a shade")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tars, two Parquet files and manifests of them."""
    tar(tmp_path / "b.tar", range(3))
    tar(tmp_path / "a.tar", range(3, 8))
    for name, numbers in (("x", range(4)), ("y", range(4, 6))):
        columns = {
            "key": [str(at) for at in numbers],
            "image": [png(at) for at in numbers],
            "text": ["a"] * len(numbers),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    listed = [
        {"file": name, "rows": rows, "bytes": (tmp_path / name).stat().st_size}
        for name, rows in (("b.tar", 3), ("a.tar", 5))
    ]
    (tmp_path / "tars.json").write_text(json.dumps({"shards": listed}))
    (tmp_path / "tars.txt").write_text(f"# of today\n\nb.tar\r\n{tmp_path}/a.tar\n")
    (tmp_path / "tables.json").write_text(json.dumps(["y.parquet", {"url": "x.parquet", "rows": 4}]))
    return tmp_path


def keys(spec: object, *, bad: BadRows | None = None) -> list[str]:
    source = open_source(spec)  # type: ignore[arg-type]
    batches = ordered(source, image_spec=ImageSpec((8, 8)), batch_size=3, on_bad=bad)
    return [row.key for rows, _ in batches for row in rows]


def test_shards_come_in_the_order_of_the_manifest(shards):
    assert keys(str(shards / "tars.json")) == keys(shards / "tars.txt") == [f"{at:03d}" for at in range(8)]
    assert [block.rows for block in open_source(str(shards / "tars.json")).blocks()] == [3, 5]
    assert [block.rows for block in open_source(str(shards / "tars.txt")).blocks()] == [None, None]
    assert keys({"name": "webdataset", "path": str(shards / "tars.json"), "text": "whole"})[-1] == "007"
    assert keys(f"{shards}/tables.json") == ["4", "5", "0", "1", "2", "3"]
    for name in ("p", "q"):
        (shards / f"{name}.png").write_bytes(png(9))
        (shards / f"{name}.csv").write_text(f"filepath,title\n{name}.png,a shade\n")
    (shards / "tables.txt").write_text("q.csv\np.csv\n")
    assert keys(f"{shards}/tables.txt") == ["q.png", "p.png"]
    assert isinstance(open_pool(f"{shards}/tables.json"), ParquetPool)


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(shards))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_the_same_from_elsewhere(shards, server):
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe_file(f"/manifests/{path.name}", path.read_bytes())
    try:
        for place in ("memory://manifests", f"file://{shards}", server):
            assert keys(f"{place}/tars.json") == [f"{at:03d}" for at in range(8)], place
            if place != server:  # Python's own server gives no parts of files, which Parquet is read by
                assert keys(f"{place}/tables.json") == ["4", "5", "0", "1", "2", "3"], place
        memory.pipe_file("/manifests/whole.txt", b"memory://manifests/b.tar\n")
        assert keys("memory://manifests/whole.txt") == ["000", "001", "002"]
    finally:
        memory.rm("/manifests", recursive=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "lists no shards"),
        ('{"files": []}', "a list 'shards'"),
        ("[3]", "shard 0: expected a name"),
        ('["b.tar", "b.tar"]', "shard 1: 'b.tar' comes twice"),
        ('[{"file": "b.tar", "rows": -1}]', "rows: expected a whole number, got -1"),
        ('["../b.tar"]', "shard 0: '../b.tar' leads out"),
        ('["/etc/b.tar"]', "leads out"),
        ('["~/b.tar"]', "leads out"),
        ('["http://169.254.169.254/b.tar"]', "leads out of the manifest's folder, or to another host"),
        ('["file:///etc/b.tar"]', "leads out"),
        ('["s3://a/b.tar::http://b"]', "leads out"),
        ('[{"file": "b.tar", "bytes": 7}]', r"b\.tar: has 10,240 bytes, the manifest says 7"),
        ('["x.parquet", "b.tar"]', r"lists '.*b\.tar'; expected names that end in .parquet"),
        ('[{"file": "x.parquet", "rows": 5}]', r"x\.parquet: holds 4 rows, the manifest says 5"),
        ('["gone.tar"]', r"gone\.tar': No such file or directory; names are relative to its folder"),
        ("[", "not valid JSON"),
        ('["s3://[/b.tar"]', "leads out"),
        ('["link.tar"]', "leads out"),
        ('["circle.tar"]', "leads out|symbolic links"),  # Python 3.13 follows a circle without an error
        ('[{"file": "b.tar", "rows": 21}]', r"b\.tar: has 10,240 bytes, which cannot hold the 21 rows"),
        ('[{"file": "b.tar", "rows": 1000000000}, {"file": "a.tar", "rows": 5}]', "cannot hold the 1,000,000,000 rows"),
        ('[{"file": "b.tar", "rows": 0}]', r"b\.tar: holds rows, its manifest says 0"),
    ],
)
def test_what_is_no_manifest_is_named(shards, tmp_path_factory, text, reason):
    outside = tmp_path_factory.mktemp("outside") / "b.tar"
    tar(outside, range(2))
    (shards / "link.tar").symlink_to(outside)
    (shards / "circle.tar").symlink_to("circle.tar")
    (shards / "bad.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        open_source(str(shards / "bad.json"))


@pytest.mark.parametrize("name", ["link.tar", "inner/c.tar", "file://{}/link.tar"])
def test_links_do_not_lead_out_of_a_folder_that_is_a_url(shards, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside")
    tar(outside / "c.tar", range(2))
    (shards / "link.tar").symlink_to(outside / "c.tar")
    (shards / "inner").symlink_to(outside)
    (shards / "bad.json").write_text(json.dumps([name.format(shards)]))
    with pytest.raises(InputError, match="leads out"):
        open_source(f"file://{shards}/bad.json")


def test_a_list_of_millions_ends_soon(shards, monkeypatch):
    monkeypatch.setattr(manifests, "MOST_SHARDS", 3)
    (shards / "long.txt").write_text("a.tar\n" * 5)
    (shards / "long.json").write_text(json.dumps([f"{at}.tar" for at in range(5)]))
    for name in ("long.txt", "long.json"):
        with pytest.raises(InputError, match="lists more than 3 shards"):
            read_shards(str(shards / name))


def test_object_stores_may_be_named_from_anywhere(tmp_path):
    (tmp_path / "list.txt").write_text("s3://bucket/a.tar\ngs://other/b.tar\n")
    assert [shard.path for shard in read_shards(str(tmp_path / "list.txt"))] == [
        "s3://bucket/a.tar",
        "gs://other/b.tar",
    ]


def test_captions_are_no_manifest(tmp_path):
    (tmp_path / "captions.txt").write_text("a.jpg\ta red fox\n")
    with pytest.raises(InputError, match=r"--data: .*captions.txt.*ends in none of .*name the folder: "):
        open_source(str(tmp_path / "captions.txt"))


def test_what_cannot_be_reached_is_not_taken_for_captions():
    with pytest.raises(InputError, match=r"^nothing://bucket/manifest\.json: cannot reach it") as told:
        open_source("nothing://bucket/manifest.json")
    assert "captions" not in str(told.value)


@pytest.mark.parametrize(("said", "reason", "left"), [(4, "holds more than the 4 rows", 3), (7, "holds 5 rows", 5)])
def test_rows_that_a_manifest_miscounts_are_named(shards, said, reason, left):
    (shards / "wrong.json").write_text(json.dumps([{"file": "a.tar", "rows": said}]))
    bad = BadRows("wrong")
    assert len(keys(str(shards / "wrong.json"), bad=bad)) == left
    assert reason in bad.latest
