"""Textile pictures by path; without their library a clear word about the extra."""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import Source
from tether.data.sets import textile
from tether.data.sets.textile import CAPTIONS, TextileSet


def keys(**settings: object) -> list[str]:
    source = TextileSet(**settings)
    return [row.key for block in source.blocks() for row in source.read(block)]


class TestWithItsLibrary:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("conformal_clip_data")

    def test_it_is_a_source_of_pictures_by_path(self):
        from PIL import Image

        source = TextileSet(split="all")
        assert isinstance(source, Source)
        assert Counter(source.labels) == {"normal": 1000, "local": 500, "global": 500}
        row = next(source.read(source.blocks()[-1], start=3))
        assert row.texts == CAPTIONS["global"][:1]
        with Image.open(row.image) as image:
            assert image.size == (250, 250)

    def test_splits_are_disjoint_whole_and_fixed(self):
        parts = {split: keys(split=split) for split in ("train", "validation", "test")}
        together = [key for part in parts.values() for key in part]
        assert sorted(together) == sorted(keys(split="all"))
        assert len(set(together)) == len(together) == 2000
        digest = hashlib.sha256(" ".join(parts["test"]).encode()).hexdigest()[:16]
        assert digest == "e52ce54c3a246426"
        for part in parts.values():
            assert set(Counter(key.split("/")[0] for key in part)) == set(CAPTIONS)

    def test_one_class_alone(self):
        assert all(key.startswith("normal/") for key in keys(classes=("normal",)))
        assert TextileSet(classes=["local"], captions="several").row(0).texts == CAPTIONS["local"]

    def test_missing_files_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(textile, "_root", lambda: tmp_path)
        with pytest.raises(InputError, match=r"nominal.*found none"):
            TextileSet()


def test_without_its_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "conformal_clip_data", None)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[textile\]"):
        TextileSet()
