"""tether read --page, and tether adapt where a reader of pages comes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError, StoppedError
from tether.data.lettering.pages import draw_pages, random_texts
from tether.models import create
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.tasks.read import RapidWords, VisionLM, load_reader

RECIPE = {
    "name": "read_page", "rendered": 12, "negatives": 3, "pretrain_steps": 3, "steps": 3, "batch_size": 4,
    "patch": 4, "width": 16, "depth": 2, "heads": 2, "window": 4, "lm_width": 16, "lm_layers": 1, "longest": 12,
}  # fmt: skip
SETTINGS = [f"{name}={value}" for name, value in RECIPE.items() if name != "name"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of two lines with their texts, and a model of 4 x 4 patches."""
    folder = tmp_path_factory.mktemp("pages")
    tether.save(create("tiny", image_size=32, patch=8), folder / "model")
    texts = random_texts(20, lengths=(2, 4), lines=(2, 2))
    pages = draw_pages(texts, size=64, points=(10, 12))
    lines = ["image,caption"]
    for number, text in enumerate(texts):
        Image.fromarray(pages.image[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        lines.append(f'{number}.png,"{text}"')
    (folder / "pages.csv").write_text("\n".join(lines) + "\n")
    tether.adapt(folder / "model", folder / "pages.csv", recipe=RECIPE, out=folder / "reader")
    return folder


def test_learns_and_reads(place: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    made, out, data = tmp_path / "reader", tmp_path / "pages.csv", place / "pages.csv"
    said = call("adapt", place / "model", data, "--recipe", "read-page", *SETTINGS, "--out", made).out
    assert f"next: tether read IMAGES --page --head {made}" in said
    assert "texts read right" in said
    told = json.loads((made / "report.json").read_text())
    assert told["gives"] == "page reader"
    assert "12 rendered pages, 3 images without text" in " ".join(told["data"])
    call("read", data, "--page", "--head", made, "--out", out, "--compare", "--html", tmp_path / "pages.html")
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 20
    again = tether.read(data, head=made, page=True)
    assert list(again.texts.words) == [row["text"] for row in found]
    for name in ("vocabulary", "language_model", "model"):
        assert (made / name).is_dir()


def test_a_vocabulary_is_used_alone(place: Path, tmp_path: Path) -> None:
    kept = VisionVocabulary.load(place / "reader" / "vocabulary")
    recipe = RECIPE | {"vocabulary": str(place / "reader" / "vocabulary")}
    done = tether.adapt(place / "model", place / "pages.csv", recipe=recipe, out=tmp_path / "other")
    assert isinstance(done.reader, VisionLM)
    assert done.reader.vision.vocabulary is not None
    for one, other in zip(kept.parameters(), done.reader.vision.vocabulary.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stop", [2, 5])
def test_goes_on_where_it_stopped(place: Path, tmp_path: Path, stop: int) -> None:
    asked = iter(range(1, 99))
    data, out = place / "pages.csv", tmp_path / "reader"
    with pytest.raises(StoppedError):
        tether.adapt(place / "model", data, recipe=RECIPE, out=out, should_stop=lambda: next(asked) == stop)
    tether.adapt(place / "model", data, recipe=RECIPE, out=out)
    one, other = (load_reader(folder) for folder in (place / "reader", out))
    assert isinstance(one, VisionLM)
    assert isinstance(other, VisionLM)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_refuses_words_for_pages(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads pages; say it"):
        tether.read(place / "pages.csv", head=place / "reader")
    with pytest.raises(InputError, match="reads words; leave it out"):
        tether.read(place / "pages.csv", head=RapidWords(), page=True)
    recipe = RECIPE | {"vocabulary": str(other_vocabulary(tmp_path))}
    with pytest.raises(InputError, match="of 2 x 2, the CLIP's of 4 x 4"):
        tether.adapt(place / "model", place / "pages.csv", recipe=recipe)


def other_vocabulary(folder: Path) -> Path:
    net = VisionVocabulary(
        image_size=32, patch=4, width=8, depth=1, heads=1, window=0, global_blocks=[], channels=[4, 6, 8]
    )
    return net.save(folder / "vocabulary")


def test_gives_way_to_another_adaptation(place: Path, tmp_path: Path) -> None:
    made = tmp_path / "reader"
    tether.adapt(place / "model", place / "pages.csv", recipe=RECIPE, out=made)
    words = {"name": "read", "steps": 2, "batch_size": 4, "heads": 4, "longest": 12}
    with pytest.raises(InputError, match="the recipe read_page learns texts of several lines"):
        tether.adapt(place / "model", place / "pages.csv", recipe=words, out=made, existing="replace")
    assert isinstance(load_reader(made), VisionLM)
    (place / "words.csv").write_text("image,caption\n" + "".join(f"{number}.png,A{number}\n" for number in range(20)))
    tether.adapt(place / "model", place / "words.csv", recipe=words, out=made, existing="replace")
    assert not (made / "vocabulary").exists()
    assert not (made / "vision_lm.safetensors").exists()
    assert not isinstance(load_reader(made), VisionLM)
