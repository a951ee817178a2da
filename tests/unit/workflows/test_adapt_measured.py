"""What ``tether adapt`` measures of heads that name pixels, of a few pairs, and the command that it tells."""

from __future__ import annotations

import numpy as np
import pytest

import tether
from memory_rows import MemoryRows
from tether.core.types import Row
from tether.models import create


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
@pytest.mark.parametrize("name", ["mask_text", "mask_aware"])
def test_a_head_of_masks_is_not_judged_by_recall(name, tmp_path) -> None:
    meta = {"boxes": [[0.0, 0.0, 0.5, 1.0]], "phrases": ["white cat"]}  # and what is left
    rows = [Row(str(n), np.full((32, 32, 3), n, np.uint8), (f"number {n}",), meta) for n in range(16)]
    recipe = {
        "name": name,
        "rest": "background",
        "steps": 1,
        "dim": 16,
        "queries": 2,
        "layers": 1,
        "doublings": 1,
        "batch_size": 8,
    }
    report = tether.adapt(
        create("tiny", seed=0).eval(), MemoryRows(rows), recipe=recipe, out=tmp_path / "head", keep=MemoryRows(rows)
    ).report
    recall = [one.name for one in report.own if "recall" in one.name]
    assert len(recall) == (name == "mask_aware")  # whole images are named as before where the encoder rests
    assert "tether segment" in report.next[-1]
    assert "--classes 'white cat" in report.next[-1]


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_ten_pairs_hold_out_one_image_which_measures_nothing(tmp_path) -> None:
    rows = [Row(str(n), np.full((32, 32, 3), n, np.uint8), (f"number {n}",)) for n in range(10)]
    recipe = {"name": "pairs", "steps": 1, "batch_size": 4}
    done = tether.adapt(create("tiny", seed=0).eval(), MemoryRows(rows), recipe=recipe, keep=MemoryRows(rows))
    assert done.report.verdict() == "Nothing was held out that says whether it became better."
