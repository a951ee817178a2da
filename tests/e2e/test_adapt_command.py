"""``tether adapt`` from a folder of classes to a head and a model that are used."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from PIL import Image

import tether
from memory_rows import squares
from tether.core.model_digest import model_digest
from tether.models.features.image_digest import image_digest

pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a folder with one folder for each class, and one with captions."""
    folder = tmp_path_factory.mktemp("adapt")
    tether.save(tether.load("tiny", random_weights=True), folder / "model")
    lines = []
    for row in squares(48).rows:
        name = f"{row.key.replace(' ', '-')}.png"
        for path in (folder / "photos" / row.meta["label"] / name, folder / "pairs" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.image).save(path)
        lines.append([name, row.texts[0]])
    with (folder / "pairs" / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption"], *lines])
    return folder


@pytest.fixture
def adapt(call, place):
    def run(*words, data="photos", code=0):
        return call("adapt", place / "model", place / data, *words, "--keep", place / "pairs", code=code)

    return run


def test_without_a_recipe_it_says_what_fits_and_takes_the_cheapest(adapt, call, place, tmp_path):
    said = adapt("--shots", "8", "--out", tmp_path / "head", "--json", tmp_path / "told.json")
    assert "taken: probe: " in said.err
    assert "fits too: " in said.err
    assert "Learnt from 24 images of 3 classes" in said.out
    assert "Better than the base on held-out data: accuracy" in said.out
    assert "Nothing is forgotten: a head leaves the base as it is, and knows its own classes only." in said.out
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == json.loads((tmp_path / "head" / "report.json").read_text())
    assert (told["recipe"], told["own"][0]["after"]["value"], told["own"][0]["chance"]) == ("probe", 1.0, 1 / 3)
    assert told["digest"] == model_digest(tether.load(place / "model"))
    assert (told["validation"], list(told["picked"])) == (12, ["strength"])
    assert "Chosen on 12 rows that were neither learnt from nor measured on: strength" in said.out
    page = (tmp_path / "head" / "report.html").read_text()
    assert "before and after" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    named = tmp_path / "named.csv"
    call("classify", place / "photos", "--model", place / "model", "--head", tmp_path / "head", "--out", named)
    rows = list(csv.DictReader(named.open()))
    assert all(row["label"] == row["key"].split("/")[0] for row in rows)
    assert "logit_1" in rows[0]
    calibrated = call(
        *("classify", place / "photos", "--model", place / "model", "--head", tmp_path / "head"),
        *("--calibrate", place / "photos", "--out", named, "--existing", "replace"),
    )
    assert "confidence: calibrated on 48 images (100.0% right)" in calibrated.err


def test_a_model_is_opened_and_interpolated(adapt, call, place, tmp_path):
    said = adapt("--recipe", "full", "steps=6", "learning_rate=0.001", "--interpolate", "--out", tmp_path / "tuned")
    assert "of the way from the base (0%) to the tuned model (100%)." in said.out
    told = json.loads((tmp_path / "tuned" / "report.json").read_text())
    assert [one["share"] for one in told["curve"]] == [0, 0.25, 0.5, 0.75, 1]
    best = max(one["validation"] for one in told["curve"])
    chosen = next(one for one in told["curve"] if one["validation"] == best)
    assert told["chosen"] == chosen["share"]
    assert told["own"][0]["after"]["value"] == pytest.approx(chosen["own"])
    assert told["own"][0]["before"]["value"] == pytest.approx(told["curve"][0]["own"])
    assert told["settings"] == {"steps": 6, "learning_rate": 0.001}
    assert told["frozen"]["changed"] == []
    assert told["frozen"]["text_side"]
    call("classify", place / "photos", "--model", tmp_path / "tuned", "--classes", "red,green,blue", "--out",
         tmp_path / "named.csv")  # fmt: skip
    assert not (tmp_path / "tuned" / "unfinished").exists()


def test_pairs_are_recalled_and_the_gap_is_told(adapt, tmp_path):
    said = adapt("--recipe", "close_the_gap", "steps=2", "--out", tmp_path / "out", data="pairs")
    assert "text to image, recall at 1" in said.out
    assert "modality gap" in said.out


def test_a_folder_that_is_there_is_refused_or_replaced(adapt, tmp_path):
    words = ("--recipe", "probe", "strength=1", "--out", tmp_path / "head")
    adapt(*words)
    assert "is there already; give another name, or --existing replace" in adapt(*words, code=2).err
    before = (tmp_path / "head" / "head.safetensors").read_bytes()
    adapt(*words, "--shots", "2", "--existing", "replace")
    assert (tmp_path / "head" / "head.safetensors").read_bytes() != before
    whole = {path.name: path.read_bytes() for path in (tmp_path / "head").iterdir() if path.is_file()}
    adapt("--recipe", "debias", "attribute=nope", "--out", tmp_path / "head", "--existing", "replace", code=2)
    assert all((tmp_path / "head" / name).read_bytes() == held for name, held in whole.items())
    adapt("--recipe", "full", "steps=1", "--out", tmp_path / "head", "--existing", "replace")
    assert not (tmp_path / "head" / "head.safetensors").exists()
    (tmp_path / "head" / "report.json").write_text("{}")
    assert "holds no adaptation" in adapt(*words, "--existing", "replace", code=2).err
    shutil.rmtree(tmp_path / "head")
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "mine.txt").write_text("not yours")
    said = adapt(*words, "--existing", "replace", code=2)
    assert "is not empty and holds no adaptation" in said.err
    assert (tmp_path / "head" / "mine.txt").exists()
    (tmp_path / "file").write_text("")
    assert "is a file; expected a folder" in adapt("--recipe", "probe", "--out", tmp_path / "file", code=2).err


def test_an_unfinished_adaptation_goes_on_for_the_same_words_only(adapt, place, tmp_path):
    asked = iter([False, True])
    spec = {"name": "full", "steps": 4}
    with pytest.raises(tether.core.errors.StoppedError, match="stopped after step 2 of 4"):
        tether.adapt(place / "model", place / "photos", recipe=spec, keep=place / "pairs", out=tmp_path / "out",
                     should_stop=lambda: next(asked))  # fmt: skip
    assert (tmp_path / "out" / "unfinished" / "step-00000002").is_dir()
    words = ("--out", tmp_path / "out", "--recipe", "full", "steps=4")
    said = adapt(*words, "--seed", "1", code=2)
    assert "holds an unfinished adaptation that was asked for with another seed" in said.err
    adapt(*words)
    whole = tether.adapt(place / "model", place / "photos", recipe=spec, keep=place / "pairs")
    assert model_digest(tether.load(tmp_path / "out")) == model_digest(whole.model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "prob"), "no recipe 'prob'; did you mean 'probe'? known: "),
        (("--recipe", "lora", "rnk=3"), "unknown key 'rnk'; did you mean 'rank'?"),
        (("--recipe", "lora", "rank=0"), "rank: expected a whole number of at least 1, got 0"),
        (("--recipe", "lora", f"rank={2**62}"), "rank: expected at most 64, the smaller side of the largest weight"),
        (("--recipe", "lora", "name=probe"), "the recipe is named by --recipe; settings of lora: rank, alpha"),
        (
            ("--recipe", "lora", "steps=12", "learning_rate=1e20"),
            "learning_rate=1e+20 is far above the default",
        ),
        (("--recipe", "lora", "steps=1", "learning_rate=1e20"), "learning_rate=1e+20 is far above the default"),
        (("rank=3",), "settings go with --recipe NAME"),
        (("--recipe", "lora", "rank"), "expected key=value, got 'rank'"),
        (("--recipe", "pairs"), "--recipe pairs: takes images with captions"),
        (("--recipe", "probe", "--shots", "20"), "has 16 different images; expected at least 28: 20 to learn from"),
        (("--recipe", "probe", "--classes", "red,green"), "'blue' is none of the 2 classes"),
        (("--recipe", "probe", "--classes", "red,green,blue,black"), "class 'black' has no image"),
        (("--recipe", "probe", "--label", "kind"), "has no column 'kind'; known: label"),
        (
            ("--recipe", "probe", "--interpolate"),
            "goes with a recipe that gives a model like the base, probe gives a head",
        ),
        (("--recipe", "maps"), "takes images with captions"),
    ],
)
def test_bad_input_is_refused(adapt, tmp_path, words, message):
    said = adapt(*words, "--out", tmp_path / "out", code=2)
    assert message in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["adapt", "train"])
def test_a_folder_that_is_a_link_to_nothing_is_named(call, place, tmp_path, verb):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    words = [place / "model", place / "photos"] if verb == "adapt" else [place / "pairs"]
    said = call(verb, *words, "--out", tmp_path / "out" / "in", code=2)
    assert f"{tmp_path / 'out'}: a link to {tmp_path / 'gone'}, which is missing" in said.err


def test_a_head_of_another_model_is_refused_with_both_digests(adapt, call, place, tmp_path):
    adapt("--recipe", "probe", "strength=1", "--out", tmp_path / "head")
    other = tether.models.create("tiny", seed=9).eval()
    tether.save(other, tmp_path / "other")
    classify = ("classify", place / "photos", "--model", tmp_path / "other", "--out", tmp_path / "named.csv")
    said = call(*classify, "--head", tmp_path / "head", code=2)
    assert image_digest(other)[:12] in said.err
    assert image_digest(tether.load(place / "model"))[:12] in said.err
    assert (
        "--classes: a head has classes of its own"
        in call(*classify, "--head", tmp_path / "head", "--classes", "a,b", code=2).err
    )
    assert "--classes: expected names, or --head FOLDER" in call(*classify, code=2).err


def test_a_model_and_a_head_in_each_other_s_place_are_told_apart(adapt, call, place, tmp_path):
    head = tmp_path / "head"
    adapt("--recipe", "probe", "strength=1", "--out", head)
    for words in (
        ("classify", place / "photos", "--model", head, "--classes", "a,b", "--out", tmp_path / "named.csv"),
        ("search", place / "photos", "red", "--model", head),
    ):
        assert f"{head}: a head of tether adapt and no model; give it as --head FOLDER" in (call(*words, code=2).err)
    classify = ("classify", place / "photos", "--model", place / "model", "--out", tmp_path / "named.csv", "--head")
    for folder, found in ((place / "model", "holds a model and no head"), (head / "head.safetensors", "is a file")):
        said = call(*classify, folder, code=2).err
        assert f"{folder}: {found}; expected the folder of a head that tether adapt made, as --head takes it" in said


def test_a_test_set_that_is_the_training_set_is_refused(adapt, place, tmp_path):
    said = adapt("--recipe", "probe", "--test", place / "photos", "--out", tmp_path / "out", code=2)
    assert "every image of it is among" in said.err
