"""Scikit-learn's digits: the right picture with the right word, in splits that stay put."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tables import rows_of
from tether.core.protocols import Source
from tether.data.sets.digits import NAMES, DigitsSet


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "digits-cache"
    monkeypatch.setenv("TETHER_CACHE", str(folder))
    return folder


def test_it_is_a_source_of_captioned_digits():
    source = DigitsSet(split="test")
    assert isinstance(source, Source)
    found = rows_of(source)
    assert len(found) == len(source) == sum(block.rows for block in source.blocks())
    for row in found:
        assert row.texts == (f"the digit {NAMES[row.meta['label']]}",)
        assert row.image.shape == (32, 32, 3)
        assert row.image.dtype == np.uint8


def test_pictures_and_labels_are_scikit_learns():
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
