"""tether rank: by words, by examples, by a head; and the hits of a search in another order."""

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
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.workflows import rank as ranking
from tether.workflows.order_ways import example_folds

BRIGHT = ["--by", "a bright wall"]
ORDER = {"steps": 4, "group": 6, "n_rank_tokens": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walls whose number is their brightness, and a model with random weights."""
    folder = tmp_path_factory.mktemp("rank")
    tether.save(create("tiny"), folder / "model")
    (folder / "walls").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(20):
        bright = 10 * int(rng.permutation(20)[0]) + 20
        pixels = np.clip(bright + rng.integers(-10, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "walls" / f"{number:02d}.png")
        rows.append([f"{number:02d}.png", bright])
    for name, some in (("rated", rows[:16]), ("few", rows[:7]), ("flat", [[key, 1] for key, _ in rows])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["key", "score"], *some])
    (folder / "walls" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


@pytest.fixture
def order(place: Path, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*more: object, code: int = 0) -> tuple[Any, list[list[str]]]:
        out = tmp_path / "order.csv"
        said = call("rank", place / "walls", "--model", place / "model", "--out", out, *more, code=code)
        return said, list(csv.reader(out.open())) if out.exists() else []

    return run


def test_by_words(order: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "order.html"
    said, rows = order(*BRIGHT, "--against", "a dark wall", "--html", page, "--shown", 3)
    assert "by the text alone, unmeasured" in said.err
    assert "1 bad row was skipped" in said.err
    assert rows[0] == ["rank", "key", "score"]
    scores = [float(score) for _, _, score in rows[1:]]
    assert len(scores) == 20
    assert scores == sorted(scores, reverse=True)
    shown = page.read_text()
    assert shown.count("data:image/jpeg;base64,") == 6
    assert "a bright wall: the first 3" in shown
    assert "a bright wall: the last 3" in shown
    assert "<span>18</span>" in shown
    assert "<span>4</span>" not in shown
    assert "cosine" not in shown
    assert "is there already" in order(*BRIGHT, code=2)[0].err


def test_examples_are_measured_and_the_best_way_is_used(order: Callable[..., Any], place: Path) -> None:
    said, rows = order(*BRIGHT, "--examples", place / "rated.csv", "--json")
    told = json.loads(said.out)
    assert told["used"] in ("ridge", "ridge_patches")
    assert set(told["correlations"]) == {"text", "ridge", "ridge_patches"}
    assert told["correlations"]["ridge"] > 0.9 > told["correlations"]["text"]
    assert "chance is 0" in said.err
    assert f"used: {told['used']}, the highest" in said.err
    truth = {key: float(score) for key, score in csv.reader((place / "rated.csv").open()) if key != "key"}
    known = [truth[key] for _, key, _ in rows[1:] if key in truth]
    assert np.corrcoef(known, range(len(known)))[0, 1] < -0.9


def test_what_ridge_regression_reads(order: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*BRIGHT, "--examples", place / "rated.csv", "--existing", "replace"]
    scores = {}
    for read, ways in (("embedding", {"text", "ridge"}), ("patches", {"text", "ridge_patches"})):
        said, scores[read] = order(*given, "--rows", read, "--json")
        told = json.loads(said.out)
        assert set(told["correlations"]) == ways
        assert told["correlations"][told["used"]] > 0.9
    assert scores["embedding"][1:] != scores["patches"][1:]
    monkeypatch.setattr("tether.workflows.order_ways.MOST_NUMBERS", 1000)
    said, _ = order(*given)
    assert "ridge_patches: not tried: 16,384 numbers for all examples, above 1,000" in said.err
    assert (
        "--rows patches: ridge regression learns from examples"
        in order(*BRIGHT, "--rows", "patches", "--existing", "replace", code=2)[0].err
    )

    def shows_none(model: object) -> None:
        raise UnsupportedModelError("no tokens")

    monkeypatch.setattr("tether.workflows.order_ways.TokenRows", shows_none)
    said, _ = order(*given)
    assert "ridge_patches: not tried: no tokens" in said.err
    assert "no tokens" in order(*given, "--rows", "patches", code=2)[0].err


def test_the_adapter_besides_and_as_a_head(order: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    model, steps = tether.load(place / "model"), []
    free = {name: one.requires_grad for name, one in model.named_parameters()}
    asked = {"model": model, "by": "a bright wall", "examples": place / "rated.csv", "using": "adapter"}
    found = tether.rank(
        place / "walls", **asked, settings=ORDER, folds=2, on_step=lambda done, total: steps.append((done, total))
    )
    assert set(found.correlations) == {"text", "ridge", "ridge_patches", "adapter"}
    assert found.used == max(found.correlations, key=found.correlations.get)
    assert steps[-1][0] in (8, 12)
    assert {name: one.requires_grad for name, one in model.named_parameters()} == free
    assert "data:image/jpeg;base64," in found._repr_html_()
    assert found.used in repr(found)

    rated = {"name": "csv", "path": str(place / "beside.csv")}
    header, *lines = (place / "rated.csv").read_text().splitlines()
    for name, some in (("beside", lines[::2]), ("others", lines[1::2])):
        text = "\n".join([header.replace("key", "image"), *(f"walls/{line}" for line in some)])
        (place / f"{name}.csv").write_text(text + "\n")
    others = {"name": "csv", "path": str(place / "others.csv")}
    recipe = {"name": "order", "text": "a bright wall", **ORDER}
    done = tether.adapt(model, rated, recipe=recipe, test=others, out=tmp_path / "head")
    assert done.report.own[0].chance == 0
    assert "tether rank PHOTOS" in " ".join(done.report.next)
    said, rows = order("--head", tmp_path / "head")
    assert "a trained head" in said.err
    assert {key for _, key, _ in rows[1:]} == {f"{number:02d}.png" for number in range(20)}
    for more, message in [
        (("--by", "dogs"), "the head orders by 'a bright wall', not by 'dogs'"),
        (("--examples", place / "rated.csv"), "--examples: a head has learnt its order"),
        (("--model", place / "other"), "was fitted on an image side with digest"),
    ]:
        tether.save(create("tiny", seed=1), place / "other")
        assert message in order("--head", tmp_path / "head", "--existing", "replace", *more, code=2)[0].err
    with pytest.raises(InputError, match="use tether rank --head"):
        tether.classify(place / "walls", model=model, head=tmp_path / "head")


def test_one_clear_message(order: Callable[..., Any], place: Path) -> None:
    (place / "one").mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(place / "one" / "a.png")
    for more, message in [
        ((), "--by: expected what to order by"),
        ((*BRIGHT, "--with", "adapter"), "--with adapter: it learns from examples"),
        ((*BRIGHT, "--against", "a bright wall"), "different ones"),
        ((*BRIGHT, "--examples", place / "few.csv"), "7 are too few to measure; expected at least 8"),
        ((*BRIGHT, "--examples", place / "flat.csv"), "all 20 have the number 1.0"),
        ((*BRIGHT, "--examples", place / "rated.csv", "--column", "stars"), "has no column 'stars'"),
        (("--head", place / "model"), "holds a model and no head"),
    ]:
        said, rows = order(*more, code=2)
        assert message in said.err
        assert not rows
    with pytest.raises(InputError, match="at least two images to order, got 1"):
        tether.rank(place / "one", model=create("tiny"), by="walls")


def test_parts_that_are_held_out_are_alike() -> None:
    part = example_folds(np.arange(22.0), folds=4, seed=0)
    assert sorted(np.bincount(part)) == [5, 5, 6, 6]
    assert all(sorted(part[start : start + 4]) == [0, 1, 2, 3] for start in range(0, 20, 4))
    assert ranking.LEAST_EXAMPLES >= 8


def test_hits_in_another_order(place: Path, call: Callable[..., Any]) -> None:
    asked = ("search", place / "walls", "a wall", "--model", place / "model", "--top", 5, "--json")
    plain, other = (
        [json.loads(line) for line in call(*asked, *more).out.splitlines()] for more in ((), ("--order-by", "dogs"))
    )
    assert {hit["key"]: hit["score"] for hit in plain} == {hit["key"]: hit["score"] for hit in other}
    assert [hit["order_by"] for hit in other] == sorted((hit["order_by"] for hit in other), reverse=True)
    listed = call(*asked[:-1], "--order-by", "dogs").out.splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [
        [f"{hit[name]:.4f}" for name in ("order_by", "score")] for hit in other
    ]
    assert "order-by: the text is empty" in call(*asked, "--order-by", " ", code=2).err
