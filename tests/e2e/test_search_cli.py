"""embed, index, search and classify on the command line, from a folder of images to a page and a table."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tether
from processes import tether as tether_process
from processes import wait_for
from tether.models import create

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    tether.save(create("tiny"), folder / "model")
    tether.save(create("tiny", seed=1), folder / "other")
    for i in range(24):
        path = folder / "images" / ("cat" if i % 3 == 0 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    (folder / "images" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


def test_from_a_folder_to_a_page(place: Path, call: Callable[..., Any]) -> None:
    embeddings, store, page = place / "e.parquet", place / "db", place / "page.html"
    made = call("embed", place / "images", "--model", place / "model", "--out", embeddings, "--thumbnail", 32)
    assert "24 images, 24 of them new" in made.out
    assert "1 bad row was skipped" in made.err
    assert "broken.jpg" in (place / "e.bad_rows.jsonl").read_text()
    again = call("embed", place / "images", "--model", place / "model", "--out", embeddings)
    assert "24 images, 0 of them new" in again.out
    assert "24 rows of 64 numbers" in call("index", embeddings, "--out", store).out
    assert "already holds a store" in call("index", embeddings, "--out", store, code=2).err

    image = place / "images" / "cat" / "03.png"
    found = call("search", store, "a red apple", "--image", image, "--where", "label = 'cat'", "--html", page, "--json")
    hits = [json.loads(line) for line in found.out.splitlines()]
    words = [hit for hit in hits if hit["query"] == "a red apple"]
    like = [hit for hit in hits if hit["query"] == f"like {image}"]
    assert len(words) == len(like) == 8
    assert {hit["label"] for hit in hits} == {"cat"}
    assert like[0]["key"].endswith("03.png")
    assert like[0]["score"] == pytest.approx(1, abs=1e-4)
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 16

    assert "no row passes" in call("search", store, "apple", "--where", "label = 'cow'").out
    assert "No field named lable" in call("search", store, "apple", "--where", "lable = 'cat'", code=2).err
    wrong = call("search", store, "apple", "--model", place / "other", code=2)
    assert "scores between two models mean nothing" in wrong.err
    call("search", store, code=2)


def test_the_first_numbers_of_vectors(place: Path, call: Callable[..., Any]) -> None:
    whole, cut = place / "whole.parquet", place / "cut.parquet"
    for out, dims in ((whole, []), (cut, ["--dims", 16])):
        call("embed", place / "images", "--model", place / "model", "--out", out, *dims)
    rows, less = (np.stack(pq.read_table(path)["embedding"].to_pylist()) for path in (whole, cut))
    np.testing.assert_allclose(less, rows[:, :16], atol=1e-5)
    for path in (whole, cut):
        call("index", path, "--out", path.with_suffix(".db"))

    def found(path: Path, *options: Any) -> dict[str, float]:
        ask = ("search", path.with_suffix(".db"), "a red apple", "--json", "--top", 100)
        return {hit["key"]: hit["score"] for hit in map(json.loads, call(*ask, *options).out.splitlines())}

    first, stored = found(whole, "--dims", 16), found(cut)
    assert first == pytest.approx(stored, abs=1e-4)  # rows as good as equal may change places
    assert first != pytest.approx(found(whole), abs=1e-2)
    assert "dims" in call("search", whole.with_suffix(".db"), "apple", "--dims", 65, code=2).err


def test_a_set_of_other_settings_is_another_store(place: Path) -> None:
    model = tether.load(place / "model")
    first, again = (tether.search("scenes:rows=6,size=64", "a circle", model=model) for _ in range(2))
    other = tether.search("scenes:rows=6,size=80", "a circle", model=model)
    scores = [[hit.score for hit in found["a circle"]] for found in (first, again, other)]
    assert scores[0] == scores[1] != scores[2]


def test_killed_while_embedding(place: Path, call: Callable[..., Any]) -> None:
    out = place / "parts"
    command = ["embed", place / "images", "--model", place / "model", "--out", out]
    command += ["--part-rows", 1, "--batch-size", 1]
    child = tether_process(*command)
    wait_for(lambda: list(out.glob("part-*.parquet")), child)
    child.kill()
    child.communicate()
    before = len(list(out.glob("part-*.parquet")))
    assert before > 0
    assert f"24 images, {24 - before} of them new" in call(*command).out
    keys = [key for part in sorted(out.glob("*.parquet")) for key in pq.read_table(part)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == 24


def test_classify(place: Path, call: Callable[..., Any]) -> None:
    out = place / "c.csv"
    common = ["classify", place / "images", "--model", place / "model", "--out", out]
    done = call(*common, "--classes", "cat,dog", "--top", 2, "--calibrate", place / "images", "--abstain", 0.3)
    assert "24 images, 0 without a label" in done.out
    assert "calibrated on 24 images" in done.err
    with out.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 24
    assert {line["label"] for line in lines} <= {"cat", "dog"}
    common += ["--existing", "replace"]
    assert "not calibrated" in call(*common, "--classes", "cat,dog").err
    told = json.loads(call(*common, "--classes", "cat,dog", "--json").out)
    assert list(told) == ["path", "rows", "abstained", "bad", "bad_rows", "calibration"]
    assert (told["path"], told["rows"], told["abstained"], told["calibration"]) == (str(out), 24, 0, None)
    assert "'cat' comes twice" in call(*common, "--classes", "cat,dog,cat", code=2).err
    assert "got none" in call(*common, "--classes", "", code=2).err


@pytest.mark.nightly
def test_a_few_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kill_store.py", "--kills", "2", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 of 2 kills survived; 0 of ")


@pytest.mark.filterwarnings("always::tether.models.tokenizer.TextCutWarning")
def test_long_queries_are_never_cut_in_silence(place: Path, call: Callable[..., Any]) -> None:
    ask = ("search", place / "images", "a red dog " * 12, "--model", place / "model", "--top", 3)
    cut = call(*ask)
    assert cut.err.count("1 text is longer than 24 tokens and lost the end") == 1
    assert "--long-text" in cut.err
    found = {how: call(*ask, "--long-text", how) for how in ("windows", "stretch", "linear")}
    assert not any("longer than" in one.err for one in found.values())
    assert all(one.out != cut.out for one in found.values())
    short = ("search", place / "images", "a dog", "--model", place / "model", "--top", 3)
    assert call(*short).out == call(*short, "--long-text", "windows").out
