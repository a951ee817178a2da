"""What stands where a file is expected, and files that go while a verb runs: one sentence or one bad row, no wait."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.anomaly_files import MapStore
from tether.models import create
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.store import Store
from tether.workflows.embed import embed

COUNT = 6


@contextmanager
def ends(seconds: int = 60):
    """An error in place of a wait that would never end."""

    def late(*_):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,caption,exif.iso"]
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        lines.append(f"{number}.jpg,photo {number},{100 * number}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def store(photos, tmp_path) -> Path:
    done = embed(photos, model=create("tiny").eval(), out=tmp_path / "e.parquet")
    build_index(done.path, out=tmp_path / "store")
    return tmp_path / "store"


def test_a_pipe_in_place_of_embeddings(photos, tmp_path):
    os.mkfifo(tmp_path / "e.parquet")
    with ends(), pytest.raises(InputError, match=r"e\.parquet: not a regular file"):
        embed(photos, model=create("tiny").eval(), out=tmp_path / "e.parquet")


def test_a_pipe_in_place_of_a_heat_map(tmp_path):
    files = MapStore(tmp_path / "out")
    found = AnomalyMap(0.5, np.zeros((4, 4), dtype=np.float32), size=(8, 8))
    path = files.write_heat("00.jpg", found, span=(0.0, 1.0))
    path.unlink()
    os.mkfifo(path)
    with ends(), pytest.raises(InputError, match="is there already and is no heat map"):
        files.write_heat("00.jpg", found, span=(0.0, 1.0))


@pytest.mark.parametrize("part", ["_indices", "_versions", "data"])
def test_a_pipe_in_a_store(store, part):
    os.mkfifo(store / "embeddings.lance" / part / "x.lance")
    with ends(), pytest.raises(InputError, match=r"x\.lance: not a regular file"):
        Store.open(store)


@pytest.mark.parametrize("length", [0, 1, 40, 100])
def test_a_cut_manifest_of_a_store(store, length):
    newest = min((store / "embeddings.lance" / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:length])
    with ends(), pytest.raises(InputError, match="cannot be read; damaged or out of reach"):
        Store.open(store)


def test_a_photo_that_goes_between_listing_and_reading_is_a_bad_row(photos, tmp_path, monkeypatch):
    from tether.data import paths

    real = paths.labels

    def listed_then_gone(*args, **keywords):
        (photos / "3.jpg").unlink(missing_ok=True)
        return real(*args, **keywords)

    monkeypatch.setattr("tether.data.sources.images.labels", listed_then_gone)
    done = embed(photos, model=create("tiny").eval(), out=tmp_path / "e.parquet")
    assert (done.rows, done.bad) == (COUNT - 1, 1)


def test_a_path_that_is_too_long_does_not_stop_its_folder(photos):
    here = Path.cwd()
    try:
        os.chdir(photos)
        for _ in range(18):  # past the 4,096 characters that a path may have
            Path("x" * 240).mkdir()
            os.chdir("x" * 240)
        shutil.copy(photos / "0.jpg", "deep.jpg")
    finally:
        os.chdir(here)
    source = open_source(photos)
    good = [row for block in source.blocks() for row in source.read(block) if not row.bad]
    assert len(good) >= COUNT
    shutil.rmtree(photos, ignore_errors=True)


@pytest.mark.parametrize("name", ["exif.iso", "exif`iso"])
def test_a_column_with_a_dot_or_backtick_is_stored_with_an_underscore(photos, tmp_path, name):
    listed = tmp_path / "table.csv"
    listed.write_text(listed.read_text().replace("exif.iso", name))
    table = f"csv:path={listed},root={photos}"
    done = embed(table, model=create("tiny").eval(), out=tmp_path / "e.parquet")
    build_index(done.path, out=tmp_path / "store")
    assert "exif_iso" in Store.open(tmp_path / "store").schema.names


def test_a_table_with_such_a_column_is_refused_before_a_store_is_made(store, tmp_path):
    rows = pq.read_table(tmp_path / "e.parquet")
    pq.write_table(rows.append_column("exif`iso", rows["key"]), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="column 'exif`iso': a store takes no dots or backticks; rename it"):
        build_index(tmp_path / "other.parquet", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
