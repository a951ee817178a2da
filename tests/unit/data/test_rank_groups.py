"""Groups of images that are ordered together, and images with a number each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.rank_groups import RankGroups
from tether.data.rated import read_rated

TARGETS, GROUPS = torch.arange(1.0, 41.0), torch.arange(40) // 20


def groups(**settings: object) -> RankGroups:
    given = {"targets": TARGETS, "groups": GROUPS, "size": 10} | settings
    return RankGroups({"image": torch.arange(len(given["targets"]))[:, None]}, **given)


def test_a_batch_is_one_group_with_its_share_of_negatives() -> None:
    seen = set()
    for batch in (next(batches) for batches in [groups()] for _ in range(30)):
        rows, group = batch.image[:, 0], int(batch.extra["group"][0])
        negative, seen = batch.extra["negative"], seen | {group}
        assert len(rows) == len(rows.unique()) == 10
        assert int(negative.sum()) == 2
        assert torch.equal(GROUPS[rows] != group, negative)
        assert torch.equal(batch.extra["target"], TARGETS[rows].masked_fill(negative, 0))
    assert seen == {0, 1}


def test_a_small_group_keeps_the_share_and_a_group_of_one_is_never_drawn() -> None:
    sizes = torch.tensor([0] * 4 + [1] * 20 + [2])
    batches = groups(targets=TARGETS[:25], groups=sizes)
    for batch in (next(batches) for _ in range(30)):
        count = int((~batch.extra["negative"]).sum())
        assert count == (4 if batch.extra["group"][0] == 0 else 8)
        assert int(batch.extra["negative"].sum()) == (1 if count == 4 else 2)
    alone = next(groups(groups=torch.zeros(40, dtype=torch.int64)))
    assert (len(alone.image), int(alone.extra["negative"].sum())) == (10, 0)


def test_goes_on_where_another_stopped() -> None:
    first, other = groups(), groups()
    for _ in range(3):
        next(first)
    other.load_state_dict(first.state_dict())
    assert torch.equal(next(first).image, next(other).image)
    with pytest.raises(InputError, match="seed"):
        groups(seed=1).load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 1}, "a group of one has no order"),
        ({"groups": torch.arange(40)}, "at least two images"),
        ({"groups": GROUPS[:3]}, "one length"),
        ({"targets": torch.full((40,), torch.nan)}, "finite"),
        ({"negatives": 1.0}, "negatives"),
    ],
)
def test_bad_groups(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        groups(**settings)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.full((20, 20, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def rated(folder: Path, table: str, **more: object) -> dict[str, float]:
    (folder / "rated.csv").write_text(table)
    among = open_source(folder / "photos")
    return dict(read_rated(folder / "rated.csv", column="score", among=among, **more).numbers)


def test_numbers_by_key_or_beside_images(photos: Path) -> None:
    assert rated(photos, "key,score\n2.png,1.5\n0.png,-3\n") == {"0.png": -3, "2.png": 1.5}
    assert list(rated(photos, "image,score\nphotos/2.png,1e2\nphotos/0.png,4\n").values()) == [100, 4]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("key,score\n2.png,1\n2.png,2\n", r"rated.csv: '2.png' comes twice"),
        ("image,score\nphotos/2.png,1\nphotos/2.png,1\n", r"2.png' comes twice, again in row 'rated.csv:3'"),
        ("key,score\n2.png,high\n", r"row '2.png': score: expected a finite number, got 'high'"),
        ("key,score\n2.png,nan\n", "expected a finite number, got 'nan'"),
        ("key,score\n2.png,\n", "expected a finite number, got ''"),
        ("key,score\n9.png,1\n2.png,1\n", r"1 of 2 keys are no image of .*photos: '9.png'"),
        ("key,stars\n2.png,1\n", "has no column 'score'; its columns: stars"),
        ("image,score\nphotos/9.png,1\n", r"9.png: no such file"),
        ("name,score\n2.png,1\n", "no column of images found"),
    ],
)
def test_bad_examples(photos: Path, table: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rated(photos, table)
