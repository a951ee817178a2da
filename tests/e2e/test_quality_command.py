"""tether quality: by prompts alone, by what the recipe has trained, on a page, and bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.models import create


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several sizes, one of them cut off and one of 16-bit grey, and a model with random weights."""
    folder = tmp_path_factory.mktemp("quality")
    tether.save(create("tiny"), folder / "model")
    (folder / "photos").mkdir()
    (folder / "equal").mkdir()
    for number in range(8):
        rng = np.random.default_rng(number)
        pixels = np.kron(rng.integers(0, 256, (8, 6 + number, 3)), np.ones((9, 9, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / "equal" / f"{number}.png")
    grey = np.linspace(0, 65535, 40 * 50).astype(np.uint16).reshape(40, 50)
    Image.fromarray(grey).save(folder / "photos" / "deep.png")
    Image.fromarray(np.full((3, 4, 3), 200, np.uint8)).save(folder / "photos" / "small.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


@pytest.fixture
def judge(place: Path, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*more: object, model: object = None, code: int = 0) -> tuple[Any, list[list[str]]]:
        out = tmp_path / "quality.csv"
        given = place / "model" if model is None else model
        said = call("quality", place / "photos", "--model", given, "--out", out, *more, code=code)
        return said, list(csv.reader(out.open())) if out.exists() else []

    return run


def test_by_the_prompts_alone(judge: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "quality.html"
    said, rows = judge("--html", page, "--shown", 2, "--json")
    assert json.loads(said.out) | {"path": ""} == {"path": "", "rows": 10, "bad": 1, "trained": False}
    assert "by the prompts alone, untrained" in said.err
    assert "the order is not that of sharpness (Spearman's correlation" in said.err
    assert "best score" not in page.read_text()
    assert "1 bad row was skipped" in said.err
    assert "broken.jpg" in (tmp_path / "quality.bad_rows.jsonl").read_text()
    assert rows[0] == ["rank", "key", "score", "sharpness"]
    scores = {key: float(score) for _, key, score, _ in rows[1:]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert {"deep.png", "small.png", "0.png"} <= set(scores)
    sharp = {key: float(value) for _, key, _, value in rows[1:]}
    assert sharp["small.png"] == 0 < sharp["deep.png"] < sharp["0.png"]
    shown = page.read_text()
    assert shown.count("data:image/jpeg;base64,") == 4
    assert "the last 2" in shown
    assert "<span>9</span>" in shown
    assert "is there already" in judge(code=2)[0].err


def test_by_what_the_recipe_trained(
    judge: Callable[..., Any], call: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "judge"
    settings = ["steps=3", "batch_size=2", "kinds=[gaublur,jpeg]"]
    said = call("adapt", place / "model", place / "photos", "--recipe", "quality", *settings, "--out", folder)
    assert "quality score against level of degradation" in said.out + said.err
    assert f"tether quality PHOTOS --model {folder} --head {folder} --out quality.csv" in said.out + said.err
    told, rows = judge("--head", folder, model=folder)
    assert "by a trained head" in told.err
    assert len(rows) == 11
    assert "was trained with an image side of digest" in judge("--head", folder, "--existing", "replace", code=2)[0].err
    refused = judge("--head", folder, "--prompt", "a", "--prompt", "b", "--existing", "replace", model=folder, code=2)
    assert "a head has its own" in refused[0].err
    done = tether.adapt(tether.load(place / "model"), place / "photos", recipe={"name": "quality", "steps": 1})
    found = tether.quality(place / "photos", model=done.model, head=done.head, shown=1)
    assert (found.trained, len(found.hits)) == (True, 2)
    assert "by a trained head" in found._repr_html_()


def test_equal_photos_and_one_alone(place: Path) -> None:
    model = tether.load(place / "model")
    found = tether.quality(place / "equal", model=model, shown=0)
    assert "all 8 photos have one score" in found.remarks()[1]
    assert found.order.tolist() == list(range(8))
    assert (found.sharpness == 0).all()
    single = tether.quality(str(place / "equal" / "0.png"), model=model)
    assert (len(single.scores), len(single.hits)) == (1, 1)


def test_refused(judge: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    assert "good and bad ones in turn" in judge("--prompt", "a sharp photo", code=2)[0].err
    assert "holds no head" in judge("--head", place / "model", code=2)[0].err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="all 1 rows are bad, the latest: not an image"):
        tether.quality(tmp_path / "bad", model=place / "model")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        tether.quality(place / "photos", model=place / "model", strict=True)
