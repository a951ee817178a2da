"""The curation step that writes which mask fits each noun, and what the engine asks of steps that add columns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.cli.curate import summary
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.curate import ColumnStep, TextRules, TidyText
from tether.data.curate.engine.manifest import read_manifest
from tether.data.curate.engine.run import curate
from tether.data.curate.pools.opening import open_pool
from tether.data.regions import RegionColumns
from tether.evaluate.datasheet import write_datasheet
from tether.methods.ovseg import mask_pairs
from tether.methods.ovseg.curate_step import MaskPairs
from tether.methods.ovseg.masked_regions import masked_regions
from tether.models import create
from tether.models.save import save
from tether.tasks.classify.zero_shot import class_weights


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def left_right() -> list[bytes]:
    left = np.zeros((20, 40))
    left[:, :10] = 255
    return [png(left), png(left[:, ::-1])]


@pytest.fixture
def step(tmp_path: Path) -> MaskPairs:
    save(create("tiny", seed=0), tmp_path / "model")
    return MaskPairs(model=str(tmp_path / "model"))


def pool(folder: Path, **changed: list) -> Path:
    noise = np.random.default_rng(0)
    columns = {
        "image": [png(noise.integers(0, 256, (20, 40, 3))) for _ in range(4)],
        "caption": ["a dog and a star", "IMG_0031.jpg", "the dog", "on in at"],
        "proposals": [left_right(), left_right(), [], left_right()],
    }
    pq.write_table(pa.table(columns | changed), folder / "pool.parquet")
    return folder / "pool.parquet"


def test_nouns_get_masks_and_boxes_that_recipes_read(tmp_path: Path, step: MaskPairs) -> None:
    assert isinstance(step, ColumnStep)
    steps = [("text_rules", TextRules()), ("mask_pairs", step)]
    manifest = curate(open_pool(str(pool(tmp_path))), steps=steps, out=tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "part-000000.parquet").to_pylist()
    assert [row["phrases"] for row in rows] == [["dog", "star"], [], []]
    assert {tuple(box) for box in rows[0]["boxes"]} <= {(0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)}
    assert all(mask in left_right() for mask in rows[0]["masks"])
    assert manifest["by_step"][1] | {"examples": {}} == {
        "name": "mask_pairs",
        "kind": "columns",
        "in": 3,
        "kept": 3,
        "added": ["boxes", "phrases", "masks"],
        "report": {},
        "examples": {},
    }
    columns = RegionColumns(most=4, phrases="phrases", masks="masks", unit="share")
    found = masked_regions(open_source(str(tmp_path / "out")), columns=columns, size=(8, 8))
    assert found.phrases == ("dog", "star")


def test_a_noun_is_encoded_once_for_all_rows(tmp_path: Path, step: MaskPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(model: object, words: list[str], **rest: object) -> object:
        asked.extend(words)
        return class_weights(model, words, **rest)

    monkeypatch.setattr(mask_pairs, "class_weights", spy)
    given = pool(tmp_path, caption=["a dog and a star", "the star", "the dog", "a dog and a moon"])
    curate(open_pool(str(given)), steps=[("mask_pairs", step)], out=tmp_path / "out")
    assert sorted(asked) == ["dog", "moon", "star"]


def test_one_file_may_number_all_masks_and_what_cannot_be_read_has_none(tmp_path: Path, step: MaskPairs) -> None:
    numbers = np.zeros((20, 40))
    numbers[:, :10], numbers[5:, 30:] = 1, 2
    files = [png(numbers), b"no image", png(numbers[:5]), None]
    where = pool(tmp_path, proposals=files, caption=["a dog"] * 4)
    curate(open_pool(str(where)), steps=[("mask_pairs", step)], out=tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "part-000000.parquet").to_pylist()
    assert [len(row["masks"]) for row in rows] == [1, 0, 0, 0]
    assert rows[0]["boxes"][0] in ([0.0, 0.0, 0.25, 1.0], [0.75, 0.25, 1.0, 1.0])


def test_where_a_step_that_adds_columns_may_stand(tmp_path: Path, step: MaskPairs) -> None:
    where = str(pool(tmp_path))
    with pytest.raises(InputError, match="text_rules: cannot follow mask_pairs, which adds columns to what is left"):
        curate(open_pool(where), steps=[("mask_pairs", step), ("text_rules", TextRules())], out=tmp_path / "a")
    with pytest.raises(InputError, match="tidy_text: cannot follow mask_pairs"):
        curate(open_pool(where), steps=[("mask_pairs", step), ("tidy_text", TidyText())], out=tmp_path / "a")
    with pytest.raises(InputError, match="adds columns, which --format parquet takes; got webdataset"):
        curate(open_pool(where), steps=[("mask_pairs", step)], out=tmp_path / "a", written_as="webdataset")
    (tmp_path / "more").mkdir()
    taken = str(pool(tmp_path / "more", boxes=[0] * 4))
    with pytest.raises(InputError, match="has a column 'boxes' already"):
        curate(open_pool(taken), steps=[("mask_pairs", step)], out=tmp_path / "a")
    with pytest.raises(InputError, match="expected different names"):
        MaskPairs(model="tiny", boxes="masks")


def test_summary_and_datasheet_know_the_kind(tmp_path: Path, step: MaskPairs) -> None:
    opened = open_pool(str(pool(tmp_path)))
    curate(opened, steps=[("mask_pairs", step)], out=tmp_path / "out")
    lines = summary(read_manifest(tmp_path / "out" / "manifest.json"))
    assert "mask_pairs: 4 in, boxes, phrases, masks added to their rows" in lines
    page, _ = write_datasheet(tmp_path / "out", pool=opened)
    assert "mask_pairs" in page.read_text()
