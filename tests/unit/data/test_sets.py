"""Prepared sets, written atomically; scikit-learn's digits; textile images by path."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tables import rows_of
from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import Source
from tether.data.sets import textile
from tether.data.sets.digits import NAMES, DigitsSet
from tether.data.sets.prepare import prepared
from tether.data.sets.textile import CAPTIONS, TextileSet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    return tmp_path


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".building-*"))


def test_it_is_built_once_and_then_found(cache: Path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "a.txt").write_text("whole")

    first = prepared("toy", key="v1", build=build)
    assert prepared("toy", key="v1", build=build) == first
    assert (first / "a.txt").read_text() == "whole"
    assert len(calls) == 1
    assert calls[0] != first
    assert not leftovers(cache)


def test_another_key_is_another_folder():
    folders = {
        prepared("toy", key=key, build=lambda folder: (folder / "a").write_text("x") and None) for key in ("1", "2")
    }
    assert len(folders) == 2


def test_a_failing_build_leaves_nothing_and_can_be_repeated(cache: Path):
    def fails(folder: Path) -> None:
        (folder / "half.npy").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        prepared("toy", key="v1", build=fails)
    assert not list((cache / "sets" / "toy").iterdir())
    assert prepared("toy", key="v1", build=lambda folder: (folder / "a").touch()).is_dir()


def test_a_key_cannot_leave_the_cache(cache: Path):
    folder = prepared("toy", key="../../outside", build=lambda folder: (folder / "a").touch())
    assert folder.parent == cache / "sets" / "toy"


def test_two_at_once_both_get_a_whole_folder(cache: Path):
    gate = threading.Barrier(2)
    found: list[tuple[Path, str]] = []

    def prepare(who: str) -> None:
        def build(folder: Path) -> None:
            gate.wait(10)  # both are building before either is done
            for part in "abc":
                (folder / part).write_text(who)

        folder = prepared("toy", key="v1", build=build)
        found.append((folder, "".join((folder / part).read_text() for part in "abc")))

    threads = [threading.Thread(target=prepare, args=(who,)) for who in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert found[0] == found[1]
    assert found[0][1] in ("111", "222")
    assert not leftovers(cache)


def test_what_a_killed_process_left_is_no_set_and_is_swept_after_a_day(cache: Path):
    script = (
        "import os, pathlib, signal\n"
        "from tether.data.sets.prepare import prepared\n"
        "def build(folder):\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepared('toy', key='v1', build=build)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TETHER_CACHE": str(cache)}, check=False)
    assert run.returncode == -9
    (left,) = leftovers(cache)
    assert prepared("toy", key="v1", build=lambda folder: (folder / "a").touch()).is_dir()
    assert left.exists()  # it may belong to somebody who is still at work
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    prepared("toy", key="v2", build=lambda folder: (folder / "a").touch())
    assert not left.exists()


def test_it_is_a_source_of_captioned_digits():
    source = DigitsSet(split="test")
    assert isinstance(source, Source)
    found = rows_of(source)
    assert len(found) == len(source) == sum(block.rows for block in source.blocks())
    for row in found:
        assert row.texts == (f"the digit {NAMES[row.meta['label']]}",)
        assert row.image.shape == (32, 32, 3)
        assert row.image.dtype == np.uint8


def test_images_and_labels_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    source = DigitsSet(split="all", size=8)
    assert np.array_equal(source.labels, original.target)
    expected = (255 - original.images * 255 / 16).round().astype(np.uint8)
    assert np.abs(source.pixels[..., 0].astype(int) - expected).max() <= 1
    assert (source.pixels == source.pixels[..., :1]).all()


def test_splits_are_disjoint_whole_and_fixed():
    splits = ("train", "validation", "test")
    keys = {split: [row.key for row in rows_of(DigitsSet(split=split, size=8))] for split in splits}
    together = [key for part in keys.values() for key in part]
    assert len(together) == len(set(together)) == 1797
    assert 0.17 < len(keys["test"]) / 1797 < 0.23
    assert hashlib.sha256(" ".join(keys["test"]).encode()).hexdigest()[:16] == "4d421ea0f2c7bc12"


def test_every_digit_is_in_every_split():
    for split in ("train", "validation", "test"):
        assert set(DigitsSet(split=split, size=8).labels.tolist()) == set(range(10))


def test_several_captions():
    source = DigitsSet(split="validation", captions="several")
    index = int(np.flatnonzero(source.labels == 7)[0])
    assert source.captions[index] == ("the digit seven", "a handwritten seven", "the number 7")


def test_the_second_use_imports_no_scikit_learn(cache: Path):
    DigitsSet(split="test")
    script = "import sys; from tether.data.sets.digits import DigitsSet; DigitsSet(); print('sklearn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def keys(**settings: object) -> list[str]:
    source = TextileSet(**settings)
    return [row.key for block in source.blocks() for row in source.read(block)]


class TestWithItsLibrary:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("conformal_clip_data")

    def test_it_is_a_source_of_images_by_path(self):
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
