"""What a run says of its settings before it begins, and of its data at its end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tether
from tether.training.config import load_config
from tether.workflows.remarks import remarks, shared_captions

PAIRS = "step={views: {image: {}, text: {}, pairs_text: {}, pairs_positive_text: {}}, "
PAIRS += "terms: [objective, {name: info_nce, image: pairs_text, text: pairs_positive_text, tau: 0.05, as: texts}]}"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty images with two captions each, and pairs of all of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines, pairs = ["image,caption"], []
    for number in range(20):
        Image.fromarray(np.full((32, 32, 3), 12 * number, np.uint8)).save(folder / f"{number}.png")
        texts = [f"a wall, number {number}", f"wall {number}"]
        lines += [f'{number}.png,"{text}"' for text in texts]
        pairs.append(json.dumps({"query": texts[0], "positive": texts[1]}))
    (folder / "captions.csv").write_text("\n".join(lines))
    (folder / "all.jsonl").write_text("\n".join(pairs))
    return folder


def settings(photos: Path, pairs: str) -> dict:
    parts = {
        part: {"name": "split", "source": str(photos / "captions.csv"), "part": part} for part in ("train", "held_out")
    }
    beside = {"pairs": {"data": pairs, "contents": {"images": False, "pairs": {}}}}
    return {"data": parts["train"], "evaluate": {"source": parts["held_out"]}, "beside": beside}


def test_text_pairs_with_captions_of_held_out_images_are_told(photos, tmp_path):
    spec = f"text_pairs:path={photos / 'all.jsonl'}"
    overrides = ["size=tiny", "steps=1", "batch_size=4", PAIRS]
    config = load_config(values=settings(photos, spec), overrides=overrides)
    assert [line for line in remarks(config) if "hold 4 captions of held-out images" in line]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings(photos, spec)))
    done = tether.train(recipe=recipe, out=tmp_path / "run", settings=overrides)
    assert done.meaning.shared == 4
    assert "Its text pairs hold 4 captions" in str(done)
    assert any("--measure text_retrieval" in line for line in done.next)


def test_pairs_of_the_training_part_are_not(photos):
    values = settings(photos, "")
    values["beside"]["pairs"]["data"] = values["data"]
    assert shared_captions(load_config(values=values), values["evaluate"]["source"]) == 0
    del values["beside"]
    assert shared_captions(load_config(values=values), values["evaluate"]["source"]) is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["steps=50", "schedule.warmup=100"], ["schedule.warmup of 100 steps is longer than the run, 50 steps"]),
        (["steps=50", "schedule.warmup=50"], []),
        (
            ["steps=50", "stages=[{share: 0.5}, {share: 0.5, schedule: {name: cosine, warmup: 30}}]"],
            ["schedule.warmup of 30 steps is longer than the stage from step 25, 25 steps"],
        ),
    ],
)
def test_a_warm_up_that_does_not_end_is_told(overrides, said):
    found = list(remarks(load_config(values={"data": "digits"}, overrides=overrides)))
    assert len(found) == len(said)
    assert all(line.startswith(words) for line, words in zip(found, said, strict=True)), found
