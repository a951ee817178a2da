"""``tether caption``, and ``tether adapt`` where a captioner comes of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.models.encoders.causal_lm import small_causal_lm
from tether.tasks.caption import TextOnlyCaptioner
from tether.tasks.caption.text_only import Captioned
from tether.workflows import caption as captions
from tether.workflows.adaptation.folder import replaced_result
from tether.workflows.captioning.learn import CaptionerReport

TEXTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green", "pink") for thing in ("ball", "cube", "star")]
RECIPE = {"name": "caption_from_texts", "width": 16, "n_queries": 2, "steps": 6}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    (folder / "texts.csv").write_text("caption\n" + "\n".join(TEXTS) + "\n")
    (folder / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(folder / "images" / f"{number}.png")
    torch.manual_seed(0)
    tether.save(create("tiny"), folder / "base")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestCaptionCommand:
    def test_learns_and_writes(self, place: Path, tmp_path: Path, call: Any) -> None:
        made, out, page = tmp_path / "captioner", tmp_path / "out.csv", tmp_path / "out.html"
        model = str(place / "base")
        settings = ["width=16", "n_queries=2", "steps=3"]
        recipe = ["--recipe", "caption-from-texts", *settings]
        said = call("adapt", model, str(place / "texts.csv"), *recipe, "--out", str(made))
        assert "nats a token" in said.out
        assert "page:" not in said.out
        assert json.loads((made / "report.json").read_text())["gives"] == "captioner"
        images = str(place / "images")
        more = ["--candidates", "2", "--tone", "a photo of", "--judge", model, "--html", str(page), "--longest", "5"]
        call("caption", images, "--model", model, "--captioner", str(made), "--out", str(out), *more)
        found = rows_of(out)
        assert [row["key"] for row in found] == ["0.png", "1.png", "2.png"]
        for row in found:
            listed = json.loads(row["candidates"])
            assert len(listed) == 2
            assert float(row["score"]) == pytest.approx(max(score for _, score in listed), abs=1e-5)
            assert float(row["judge"]) == pytest.approx(float(row["score"]), abs=1e-4)
        assert page.read_text().count("data:image/jpeg") == 3
        assert "different captions of 3 images" in page.read_text()

    def test_says_when_it_does_not_listen(self) -> None:
        common = {"recipe": "r", "settings": {}, "base": "b", "digest": "d", "data": [], "moved": 1, "cpu_seconds": 1.0}
        for own, said in ((4.3601, "It does NOT tell"), (3.1, "It tells")):
            report = CaptionerReport(held_out=155, own=own, other=4.3602, **common)
            assert report.lines()[0].startswith(said)
            (then,) = report.next_steps("tether caption PHOTOS --captioner made")
            assert ("--captioner" in then, "does not listen yet" in then) == (own < 4, own > 4)
        alike, other = (Captioned(text, 0.0, ()) for text in ("a man", "a dog"))
        assert captions._variety([alike] * 9 + [other]).startswith("2 different captions of 10 images: it hardly")
        assert captions._variety([alike, other]) == "2 different captions of 2 images"

    def test_learns_from_the_lines_of_a_text_file(self, place: Path, tmp_path: Path, call: Any) -> None:
        (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS) + "\n")
        recipe = ["--recipe", "caption_from_texts", "width=16", "n_queries=2", "steps=1"]
        given = ["adapt", place / "base", tmp_path / "texts.txt", *recipe, "--out", tmp_path / "made"]
        assert "Learnt from 10 texts" in call(*given).out  # two of twelve are held out
        (tmp_path / "texts.txt").write_text("\n \n")
        said = call("adapt", place / "base", tmp_path / "texts.txt", *recipe, "--out", tmp_path / "none", code=2)
        assert "expected at least one line of text" in said.err

    def test_nearest_of_given_sentences(self, place: Path, tmp_path: Path, call: Any) -> None:
        out = tmp_path / "out.csv"
        texts = tmp_path / "texts.txt"
        texts.write_text("=a red ball\n\na blue cube\n")
        arguments = ["--model", str(place / "base"), "--texts", str(texts), "--out", str(out), "--candidates", "9"]
        said = call("caption", str(place / "images"), *arguments)
        assert "nearest of 2 given sentences" in said.err
        assert {row["caption"] for row in rows_of(out)} <= {"'=a red ball", "a blue cube"}
        assert all(len(json.loads(row["candidates"])) == 2 for row in rows_of(out))

    def test_a_language_model_of_ones_own(self, place: Path, tmp_path: Path, call: Any) -> None:
        words = small_causal_lm(TEXTS, width=16, layers=1, heads=2)
        words.save(tmp_path / "lm")
        before = words.model.state_dict()
        arguments = ["--recipe", "caption_from_texts", "n_queries=2", "steps=2", "--lm", str(tmp_path / "lm")]
        call("adapt", str(place / "base"), str(place / "texts.csv"), *arguments, "--out", str(tmp_path / "made"))
        made = TextOnlyCaptioner.load(tmp_path / "made", model=tether.load(place / "base"))
        after = made.captioner.language_model.model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


class TestLearningCaptions:
    def test_goes_on_where_it_stopped(self, place: Path, tmp_path: Path) -> None:
        def learn(out: Path, *, stop: int | None = None) -> Path:
            asked = iter(range(1, 99))
            tether.adapt(
                place / "base",
                place / "texts.csv",
                recipe=RECIPE,
                out=out,
                should_stop=lambda: next(asked) == stop,
            )
            return out

        whole = learn(tmp_path / "whole")
        with pytest.raises(StoppedError):
            learn(tmp_path / "stopped", stop=3)
        with pytest.raises(InputError, match="another recipe"):
            tether.adapt(place / "base", place / "texts.csv", recipe=RECIPE | {"steps": 7}, out=tmp_path / "stopped")
        again = learn(tmp_path / "stopped")
        for name in ("captioner.safetensors", "language_model/model.safetensors"):
            assert (whole / name).read_bytes() == (again / name).read_bytes()
        assert not (again / "unfinished").exists()

    def test_the_encoder_stays(self, place: Path) -> None:
        model = tether.load(place / "base")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        done = tether.adapt(model, place / "texts.csv", recipe=RECIPE)
        assert done.model is None
        assert done.head is None
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        found = tether.caption(place / "images", model=model, captioner=done.captioner, gap="both", longest=4)
        assert "<table>" in found._repr_html_()

    def test_what_replaces_a_captioner_leaves_nothing_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "language_model").mkdir()
        (tmp_path / "captioner.safetensors").touch()
        (tmp_path / "notes").touch()
        with replaced_result(tmp_path) as new:
            (new / "head.safetensors").touch()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["head.safetensors", "notes"]

    def test_refuses(self, place: Path, tmp_path: Path) -> None:
        model = tether.load(place / "base")
        with pytest.raises(InputError, match="--shots: does not go with"):
            tether.adapt(model, place / "texts.csv", recipe=RECIPE, shots=3)
        with pytest.raises(InputError, match="noise"):
            tether.adapt(model, place / "texts.csv", recipe=RECIPE | {"noise": -1.0})
        with pytest.raises(InputError, match=r"config\.json"):
            tether.adapt(model, place / "texts.csv", recipe=RECIPE | {"lm": str(tmp_path)})
        with pytest.raises(InputError, match="--captioner: expected"):
            tether.caption(place / "images", model=model)
        with pytest.raises(InputError, match="--captioner: does not go with --texts"):
            tether.caption(place / "images", model=model, captioner=tmp_path, texts=["a"])
        with pytest.raises(InputError, match="--tone: does not go with --texts"):
            tether.caption(place / "images", model=model, texts=["a"], tone="a poem about")
        with pytest.raises(InputError, match="got none"):
            tether.caption(place / "images", model=model, texts=[])
        with pytest.raises(InputError, match="n_noise"):
            tether.caption(place / "images", model=model, texts=["a"], candidates=0)
        with pytest.raises(InputError, match=r"holds no captioner; .* tether adapt MODEL TEXTS --recipe caption_from"):
            tether.caption(place / "images", model=model, captioner=tmp_path)
        with pytest.raises(InputError, match="caption_from_texts --out FOLDER makes one"):
            tether.caption(place / "images", model=model)
        for recipe in ("caption_reward", {"name": "caption_reward", "captioner": str(tmp_path)}):
            with pytest.raises(InputError, match="tether adapt MODEL TEXTS --recipe caption_from_texts --out FOLDER"):
                tether.adapt(model, place / "images", recipe=recipe)
        (tmp_path / "empty.csv").write_text("caption\n\n")
        with pytest.raises(InputError):
            tether.caption(place / "images", model=model, texts=tmp_path / "empty.csv")
