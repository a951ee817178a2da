"""Every file and folder that a verb leaves has the permissions that the umask asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tether.data.sets.prepare import prepared
from tether.models import create
from tether.models.save import save

TRAIN = ("data=pairs", "size=tiny", "steps=1", "save_every=1", "batch_size=2", "precision=fp32", "threads=1")
CALLS = (
    ("train", *TRAIN, "--out", "out/run"),
    ("report", "out/run", "--source", "pairs", "--bootstrap", "0"),
    ("eval", "model", "pairs", "--bootstrap", "0", "--json", "out/n.json"),
    ("embed", "pairs", "--model", "model", "--out", "out/e.parquet"),
    ("embed", "pairs", "--model", "model", "--out", "out/parts"),
    ("index", "out/e.parquet", "--out", "out/db"),
    ("search", "out/db", "a", "--html", "out/g.html"),
    ("classify", "pairs", "--model", "model", "--classes", "a,b", "--out", "out/c.csv"),
    ("inspect", "model", "--pairs", "pairs", "--probe", "gap", "--out", "out/i"),
    ("export", "model", "out/exported"),
    ("curate", "pairs", "--entries", "entries.txt", "--t", "1", "--workers", "1", "--out", "out/kept"),
)


@pytest.fixture
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mask", [0o027, 0o002], indirect=True, ids=oct)
def test_files_and_folders_follow_the_umask(
    tmp_path: Path, mask: int, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(create("tiny"), tmp_path / "out" / "model")
    (tmp_path / "model").symlink_to("out/model")
    (tmp_path / "pairs").mkdir()
    for name in ("red", "blue", "lime"):
        Image.new("RGB", (40, 40), name).save(tmp_path / "pairs" / f"{name}.png")
        (tmp_path / "pairs" / f"{name}.txt").write_text(name)
    Image.new("RGB", (2, 2)).save(tmp_path / "pairs" / "bad.gif")
    (tmp_path / "pairs" / "bad.png").write_bytes(b"no image")
    (tmp_path / "entries.txt").write_text("red\n")
    monkeypatch.setenv("TETHER_CACHE", "out/cache")
    prepared("set", key="1", build=lambda folder: (folder / "a").mkdir())
    for arguments in CALLS:
        call(*arguments)
    made = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    wanted = {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in made}
    assert {str(path): oct(modes[path]) for path in made if modes[path] != wanted[path]} == {}
    assert len(made) > 40
