"""Labels as tables of regions: what recipes read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.regions import RegionColumns
from tether.workflows.mask_regions import mask_regions


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, two of them with labels, one of those without a class."""
    for name in ("photos", "truth"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((20, 30, 3), 90, dtype=np.uint8)).save(tmp_path / "photos" / f"{name}.jpg")
    truth = np.full((20, 30), 255, dtype=np.uint8)
    truth[:5], truth[10:, 4:9], truth[7, :3] = 2, 0, 1
    Image.fromarray(truth).save(tmp_path / "truth" / "a.png")
    Image.fromarray(np.full_like(truth, 255)).save(tmp_path / "truth" / "b.png")
    return tmp_path


def test_each_class_of_an_image_is_a_region(photos: Path) -> None:
    out = photos / "regions.parquet"
    assert mask_regions(photos / "photos", labels=photos / "truth", classes="car,sign,sky", out=out) == 1
    source = open_source(out)
    (first,) = (row for block in source.blocks() for row in source.read(block))
    columns = RegionColumns(most=4, phrases="phrases", masks="masks", unit="pixel")
    found = columns.read(first, size=(20, 30))
    assert found.phrases == ["car", "sky"]
    assert (found.boxes * [30, 20, 30, 20]).round().tolist() == [[4, 10, 9, 20], [0, 0, 30, 5]]
    assert np.unique(np.asarray(Image.open(photos / "truth" / "a.png"))).tolist() == [0, 1, 2, 255]
    assert first.texts == ("car, sky",)


def test_labels_that_fit_no_image_are_refused_and_nothing_is_written(photos: Path) -> None:
    out = photos / "regions.parquet"
    with pytest.raises(InputError, match=r"a.png: class 2 is unknown; expected 0 \(car\) to 1 \(sign\)"):
        mask_regions(photos / "photos", labels=photos / "truth", classes="car,sign", out=out)
    for name in ("a", "b"):
        (photos / "truth" / f"{name}.png").rename(photos / "truth" / f"other {name}.png")
    with pytest.raises(InputError, match="no file for any of 3 images"):
        mask_regions(photos / "photos", labels=photos / "truth", classes="car,sign,sky", out=out)
    assert not out.exists()
