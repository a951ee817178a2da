"""What a run leaves, and what search and classify make of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.evaluate.cutoff import fit_cutoffs
from tether.evaluate.embeddings import embed_source
from tether.models.encoders.truncated import NarrowEncoder
from tether.models.texts.long_texts import reading
from tether.tasks.classify.remarks import unseen_words
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.index import build_index

pytestmark = pytest.mark.slow

STORE = "scenes:rows=12,size=64"


def photos(folder, *, count: int, seed: int) -> str:
    """Noise with captions, in a folder as people keep it."""
    folder.mkdir()
    noise = np.random.default_rng(seed)
    lines = ["image,caption"]
    for at in range(count):
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{at}.png")
        lines.append(f"{at}.png,a {('red', 'blue')[at % 2]} circle {at}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("held out") / "photos", count=20, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs):
    place = tmp_path_factory.mktemp("run")
    settings = ["size=tiny", "model={}", "steps=2", "batch_size=20", f"evaluate={{source: '{pairs}', every: 2}}"]
    tether.train(photos(place / "photos", count=40, seed=0), recipe="demo", out=place / "run", settings=settings)
    return place / "run"


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_run_leaves_words_and_cutoffs(run):
    words, cutoff = (json.loads((run / name).read_text()) for name in ("words.json", "cutoff.json"))
    assert words["images"] == 40
    assert words["scratch"] is True
    assert cutoff["images"] == 20
    assert cutoff["digest"] == words["digest"]


def test_search_can_find_nothing_and_says_so(run, pairs):
    plain = tether.search(STORE, ["a red circle", "a zeppelin"], model=run, top=3)
    assert [len(hits) for hits in plain.hits.values()] == [3, 3]
    assert "zeppelin is in none of the" in plain.remarks()[-1]
    assert "guess" in plain.remarks()[-1]
    best = plain["a red circle"]
    between = (best[0].score + best[1].score) / 2
    found = tether.search(STORE, "a red circle", model=run, top=3, cutoff=between)
    assert [hit.key for hit in found["a red circle"]] == [best[0].key]
    assert "of 12 images" in found.remarks()[0]
    none = tether.search(STORE, "a red circle", model=run, cutoff="1.5")
    assert none["a red circle"] == []
    assert "nothing found: the best of 12 images scores" in none.nothing("a red circle")
    assert "nothing found" in none._repr_html_()
    auto = tether.search(STORE, "a red circle", model=run, cutoff="auto").cutoff
    again = tether.search(STORE, "a red circle", model=run, cutoff="auto", cutoff_from=pairs).cutoff
    assert auto.rates.false <= 0.01
    assert math.isclose(auto.threshold, again.threshold, abs_tol=1e-5)


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_a_cutoff_is_for_the_way_that_texts_are_read(run, pairs, tmp_path):
    told = "a red circle beside a blue square and a green triangle " * 4
    long = photos(tmp_path / "long", count=20, seed=1)
    table = tmp_path / "long" / "captions.csv"
    table.write_text(table.read_text().replace("circle", f"circle {told}"))
    options = {"model": run, "cutoff": "auto", "long_text": "windows"}
    short = tether.search(STORE, "a red circle", **options).cutoff
    assert short == tether.search(STORE, "a red circle", model=run, cutoff="auto").cutoff
    with pytest.raises(InputError, match=r"texts of up to 24 tokens, .*--long-text windows; .*--cutoff-from PAIRS"):
        tether.search(STORE, ["a red circle", told], **options)
    whole = tether.search(STORE, told, cutoff_from=long, **options).cutoff
    model = reading(tether.load(run), "windows")
    assert whole.threshold == fit_cutoffs(embed_source(model, open_source(long)), digest="", source="").auto().threshold
    assert whole.threshold != tether.search(STORE, told, model=run, cutoff="auto", cutoff_from=long).cutoff.threshold
    assert tether.search(STORE, told, model=run, cutoff=0.2, long_text="windows").cutoff.rates is None
    with pytest.raises(InputError, match="here are 8 of 64 numbers"):
        tether.search(STORE, "a red circle", model=run, cutoff="auto", dims=8)


def test_a_cutoff_of_whole_vectors_is_not_for_a_store_of_fewer_numbers(run, pairs, tmp_path):
    narrow = NarrowEncoder(tether.load(run), dims=8)
    rows = embed(open_source(STORE), model=narrow, model_name=str(run), out=tmp_path / "rows.parquet").path
    store = build_index(rows, out=tmp_path / "rows.db").uri
    with pytest.raises(InputError, match="here are 8 of 64 numbers"):
        tether.search(store, "a red circle", model=run, cutoff="auto")
    found = tether.search(store, "a red circle", model=run, cutoff="auto", cutoff_from=pairs).cutoff
    expected = fit_cutoffs(embed_source(narrow, open_source(pairs)), digest="", source="").auto()
    assert found.threshold == expected.threshold


def test_an_image_of_none_of_the_classes_gets_no_label(run):
    found = tether.classify(STORE, ["circle", "zeppelin"], model=run, none_of_these=1.5)
    assert found.counts() == {"": 12}
    assert [line.partition(":")[0] for line in found.unseen] == ["zeppelin"]
    assert tether.classify(STORE, ["circle"], model=run, none_of_these=-1.5).counts() == {"circle": 12}


def test_auto_without_a_calibration_says_how_to_get_one(run, pairs, tmp_path):
    tether.save(tether.load(run), tmp_path / "copy")
    with pytest.raises(InputError, match=r"--cutoff auto.*--cutoff-from PAIRS"):
        tether.search(STORE, "a red circle", model=tmp_path / "copy", cutoff="auto")
    with pytest.raises(InputError, match="--none-of-these: expected auto or a number, got 'often'"):
        tether.classify(STORE, ["circle"], model=run, none_of_these="often")
    with pytest.raises(InputError, match="no cutoff is asked for"):
        tether.search(STORE, "a red circle", model=run, cutoff_from=pairs)


def test_cutoffs_of_other_weights_are_not_used(run, tmp_path):
    tether.save(tether.load("tiny", random_weights=True), tmp_path)
    for name in ("words.json", "cutoff.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    found = tether.search(STORE, "a zeppelin", model=tmp_path, cutoff=0.0)
    assert found.cutoff.rates is None
    assert found.unseen == []


def test_what_cannot_be_fitted_is_refused_before_anything_is_embedded(run, pairs, tmp_path):
    seen = []
    few = photos(tmp_path / "few", count=9, seed=3)
    for options, said in (
        ({"model": "starter", "cutoff": "auto"}, r"starter has no cutoff.*--cutoff-from PAIRS"),
        ({"model": run, "cutoff": "auto", "cutoff_from": few}, "9 images with .* at least 10 are needed; give more"),
    ):
        with pytest.raises(InputError, match=said):
            tether.search(pairs, "a red circle", on_progress=lambda done, total: seen.append(done), **options)
    assert not seen


def test_a_run_with_few_held_out_images_is_named_as_the_reason(run, tmp_path):
    values = json.loads((run / "meaning.json").read_text())
    (tmp_path / "meaning.json").write_text(json.dumps(values | {"pool": 6}))
    with pytest.raises(InputError, match="10 held-out images or more have, and this one held out 6; fit one with"):
        tether.search(STORE, "a red circle", model=tmp_path, cutoff="auto")


def test_a_cutoff_fitted_on_what_was_learnt_says_so(run, pairs, tmp_path):
    own = str(run.parent / "photos")
    mixed = photos(tmp_path / "mixed", count=12, seed=4)
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / "mixed" / name).write_bytes((run.parent / "photos" / name).read_bytes())
    for source, count in ((own, 40), (mixed, 3), (pairs, 0)):
        found = tether.search(STORE, "a red circle", model=run, cutoff="auto", cutoff_from=source).cutoff
        assert found.learnt == count
        assert (f"learnt from {count} of these images" in found.line(pool=12)) == bool(count)


@pytest.mark.parametrize(
    ("classes", "known"),
    [
        (["tench", "English springer", "cassette player", "chain saw", "church"], 5),
        (["tench", "church", "cassette player", "smile", "frown"], 3),
        (["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"], 0),
        (["tench", "church"], 0),
    ],
)
def test_classes_that_starter_was_taught_are_no_zero_shot(classes, known):
    model = tether.load("tiny", random_weights=True)
    said = unseen_words(classes, model=model, name="starter")
    assert [line.partition(" classes are ImageNet's")[0] for line in said] == [f"{known} of 5"] * bool(known)
    assert unseen_words(classes, model=model, name="other") == []


def test_what_is_read_besides_is_told_and_classes_that_are_read_alike(pairs, tmp_path):
    for number in range(6):
        folder = tmp_path / "known" / ("red" if number % 2 else "Red")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    model, told = tether.load("tiny", random_weights=True), []
    given = {"model": model, "on_stage": lambda *stage: told.append(stage)}
    found = tether.classify(tmp_path / "known", ["Red", "red", "blue"], calibrate=tmp_path / "known", **given)
    assert told[-1] == ("calibrate", 6, 6)
    assert found.remarks()[0].startswith("the model reads 'Red' and 'red' alike and cannot tell them apart")
    assert {one.label for one in found.labels} <= {"Red", "blue"}
    assert not tether.classify(tmp_path / "known", ["red", "blue"], model=model, none_of_these=0.1).unseen
    with_cutoff = {"none_of_these": "auto", "cutoff_from": pairs, **given}
    tether.classify(tmp_path / "known", ["red", "blue"], **with_cutoff)
    assert told[-1][0] == "cutoff"
    tether.caption(tmp_path / "known", texts=["red", "blue"], judge=model, **given)
    assert told[-1] == ("judge", 6, 6)
