"""Which caption a batch uses: picks, pools with guards, chances and fallbacks, and draws that resume."""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import ImageSpec, Row
from tether.data import open_source
from tether.data.captions import (
    CAPTION_PICKS,
    CaptionPool,
    CaptionSampler,
    FirstOften,
    MixedCaption,
    MixedCaptions,
    Rewritten,
    SomeSentences,
    sentences,
)
from tether.data.loader import Loader
from tether.models.tokenizer import ClipTokenizer

ROW = Row("key", None, ("name", "", "one", "two"))
DRAWS = [hash_int(str(number)) for number in range(4000)]


SETTINGS = {"mixed": {"probs": {"text": 1.0}}, "augmented": {"remove": 0.0}, "shortened": {"context": 4}}


@pytest.mark.parametrize("name", CAPTION_PICKS)
def test_every_pick_gives_a_caption_of_the_row_and_the_same_for_the_same_draw(name):
    pick = CAPTION_PICKS[name](**SETTINGS.get(name, {}))
    found = [pick(ROW, draw=draw) for draw in DRAWS[:50]]
    assert set(found) <= {"name", "one", "two"}
    assert found == [pick(ROW, draw=draw) for draw in DRAWS[:50]]
    assert pick(Row("key", None, ("alone",)), draw=DRAWS[0]) == "alone"


def test_random_is_fair():
    counts = Counter(CAPTION_PICKS["random"]()(ROW, draw=draw) for draw in DRAWS)
    assert all(abs(count / len(DRAWS) - 1 / 3) < 0.03 for count in counts.values())


def test_the_first_comes_with_its_chance_and_the_others_share_the_rest():
    counts = Counter(FirstOften(chance=0.7)(ROW, draw=draw) for draw in DRAWS)
    assert abs(counts["name"] / len(DRAWS) - 0.7) < 0.03
    assert abs(counts["one"] / len(DRAWS) - 0.15) < 0.03


POOL = CaptionPool(["cat on mat", "solo"], rewrites=[["", "cat", " x", "a cat, resting"], ["one two"]])
SOURCES = {"alt": ["IMG_1", "", " "], "vecap": ["a cat", "a dog", "a fox"], "none": ["", "", ""]}


def test_the_guard_counts_pieces_between_single_blanks():
    assert [POOL.pick(0, choice=place) for place in range(5)] == [
        "cat on mat",
        "cat on mat",  # empty
        "cat on mat",  # one word
        " x",  # two pieces, as the released code counts
        "a cat, resting",
    ]
    assert POOL.pick(1, choice=0) == "solo"  # the original is never guarded
    assert POOL.texts(0)[2] == "cat"


def test_other_guards():
    one = CaptionPool(["cat on mat"], rewrites=[["cat", "", "a b"]], min_pieces=0)
    assert [one.pick(0, choice=place) for place in range(4)] == ["cat on mat", "cat", "", "a b"]
    many = CaptionPool(["cat on mat"], rewrites=[["a b c", "a b"]], min_pieces=3)
    assert [many.pick(0, choice=place) for place in range(3)] == ["cat on mat", "a b c", "cat on mat"]


def test_rows_go_round():
    assert POOL.texts(2) == POOL.texts(0)
    assert POOL.pick(5, choice=1) == "one two"
    with pytest.raises(InputError, match="row"):
        POOL.texts(-1)


def test_every_text_is_drawn_equally_often_and_one_number_is_taken():
    generator = np.random.default_rng(0)
    counts = Counter(POOL.sample(0, generator=generator) for _ in range(20_000))
    assert counts["cat on mat"] / 20_000 == pytest.approx(0.6, abs=0.02)
    assert counts[" x"] / 20_000 == pytest.approx(0.2, abs=0.02)
    one, other = random.Random(3), random.Random(3)
    POOL.sample(0, generator=one)
    other.random()
    assert one.getstate() == other.getstate()


def test_weights_are_chances_and_zero_is_never_drawn():
    pool = CaptionPool(["o o"], rewrites=[["a a", "b b", "c c"]], weights=[2, 0, 1, 0])
    assert [pool.drawn(0, u=u) for u in (0, 0.6666, 0.6667, math.nextafter(1, 0))] == ["o o", "o o", "b b", "b b"]


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"rewrites": [[]]}, "expected 2 lists"),
        ({"rewrites": [["a"], ["b"]], "min_pieces": -1}, "min_pieces"),
        ({"rewrites": [["a"], ["b"]], "weights": [1, -1]}, "weights"),
        ({"rewrites": [["a"], ["b"]], "weights": [0, 0]}, "weights"),
        ({"rewrites": [["a"], ["b"]], "weights": [1, math.nan]}, "weights"),
        ({"rewrites": [["a"], ["b"]], "weights": [math.inf, 1]}, "weights"),
        ({"rewrites": [["a"], ["b", "c"]], "weights": [1, 1]}, "caption 1"),
        ({"rewrites": [["a"], ["b"]], "weights": []}, "weights"),
    ],
)
def test_refused_pools(keywords, says):
    with pytest.raises(InputError, match=says):
        CaptionPool(["x", "y"], **keywords)


def test_refused_draws():
    for u in (1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="u:"):
            POOL.drawn(0, u=u)
    with pytest.raises(InputError, match="choice"):
        POOL.pick(0, choice=5)
    with pytest.raises(InputError, match="at least one caption"):
        CaptionPool([], rewrites=[])


def mixed(**keywords) -> MixedCaptions:
    return MixedCaptions(SOURCES, **{"probs": {"alt": 0.25, "none": 0.0, "vecap": 0.75}, **keywords})


def test_chances_add_up_in_the_order_given():
    pool = mixed()
    assert [pool.drawn(0, u=u) for u in (0.0, math.nextafter(0.25, 0), 0.25, 0.999)] == [
        "IMG_1",
        "IMG_1",
        "a cat",
        "a cat",
    ]
    turned = mixed(probs={"vecap": 0.75, "none": 0.0, "alt": 0.25})
    assert [turned.drawn(0, u=u) for u in (0.0, 0.74, 0.75)] == ["a cat", "a cat", "IMG_1"]


def test_a_silent_source_gives_way():
    pool = mixed(probs={"alt": 0.5, "none": 0.5, "vecap": 0.0}, fallback="vecap")
    assert {pool.drawn(row, u=0.1) for row in (1, 2)} == {"a dog", "a fox"}
    deaf = mixed(probs={"alt": 0.5, "none": 0.5, "vecap": 0.0}, fallback="none")
    assert deaf.drawn(1, u=0.1) == "a dog"  # the fallback is silent too


@pytest.mark.parametrize(
    ("sources", "keywords", "says"),
    [
        (SOURCES, {"probs": {"alt": 0.5, "vecap": 0.5}}, "probs"),
        (SOURCES, {"probs": {"alt": 0.5, "vecap": 0.5, "none": 0.5}}, "sum of 1"),
        (SOURCES, {"probs": {"alt": 1.5, "vecap": -0.5, "none": 0.0}}, "probs"),
        (SOURCES, {"fallback": "other"}, "fallback"),
        ({}, {"probs": {}}, "at least one"),
        ({"alt": ["a"], "vecap": ["b", "c"]}, {"probs": {"alt": 0.5, "vecap": 0.5}}, "equally many"),
        ({"alt": ["a", " "], "vecap": ["b", ""]}, {"probs": {"alt": 0.5, "vecap": 0.5}}, "row 1"),
        ({"alt": []}, {"probs": {"alt": 1.0}}, "at least one row"),
    ],
)
def test_refused_mixtures(sources, keywords, says):
    with pytest.raises(InputError, match=says):
        MixedCaptions(sources, **{"probs": {"alt": 0.5, "none": 0.25, "vecap": 0.25}, **keywords})


def test_a_row_outside_is_refused():
    with pytest.raises(InputError, match="row"):
        mixed().texts(3)


@pytest.mark.parametrize("pool", [POOL, mixed()], ids=["rewrites", "mixture"])
def test_a_restored_run_draws_the_same(pool):
    sampler = CaptionSampler(pool, seed=1, worker=2)
    [sampler(row % 2) for row in range(7)]
    state = json.loads(json.dumps(sampler.state_dict()))
    after = [sampler(row % 2) for row in range(50)]
    other = CaptionSampler(pool, seed=9)
    other.load_state_dict(state)
    assert [other(row % 2) for row in range(50)] == after


def test_workers_draw_differently_and_states_of_other_pools_are_refused():
    draws = [[CaptionSampler(POOL, seed=1, worker=worker)(0) for _ in range(1)] for worker in range(20)]
    assert len({tuple(draw) for draw in draws}) > 1
    with pytest.raises(InputError, match="the state is of a pool"):
        CaptionSampler(POOL, seed=0).load_state_dict(CaptionSampler(mixed(), seed=0).state_dict())
    other = mixed(probs={"alt": 0.5, "none": 0.0, "vecap": 0.5})
    with pytest.raises(InputError, match="probs"):
        CaptionSampler(mixed(), seed=0).load_state_dict(CaptionSampler(other, seed=0).state_dict())
    with pytest.raises(InputError, match="worker"):
        CaptionSampler(POOL, seed=0, worker=-1)


def test_picks_of_the_loader():
    row = Row("key", None, ("a cat", "", "cat", "it is a cat"), {"vecap": "a grey cat", "hole": None})
    pick = Rewritten()
    assert [pick(row, draw=draw) for draw in range(4)] == ["a cat", "a cat", "a cat", "it is a cat"]
    weighed = Rewritten(weights=(0.0, 0.0, 0.0, 1.0))
    assert weighed(row, draw=12345) == "it is a cat"
    with pytest.raises(InputError, match="row other: expected 4 texts"):
        weighed(Row("other", None, ("a",)), draw=0)
    half = MixedCaption(probs={"text": 0.5, "vecap": 0.5})
    assert [half(row, draw=draw) for draw in (0, 1 << 63)] == ["a cat", "a grey cat"]
    empty = MixedCaption(probs={"hole": 1.0, "text": 0.0})
    assert empty(row, draw=0) == "a cat"
    with pytest.raises(InputError, match=r"no column 'alt', the row has text, vecap, hole"):
        MixedCaption(probs={"alt": 1.0}, fallback="alt")(row, draw=0)
    with pytest.raises(InputError, match="fallback"):
        MixedCaption(probs={"alt": 1.0})
    with pytest.raises(InputError, match="sum of 1"):
        MixedCaption(probs={"text": 0.4})


def test_recipes_name_them():
    spec = {"name": "mixed", "probs": {"text": 0.5, "vecap": 0.5}}
    assert build(spec, CAPTION_PICKS, where="test").columns == ("text", "vecap")
    assert build({"name": "rewritten", "weights": [1, 2]}, CAPTION_PICKS, where="test").min_pieces == 2
    augmented = build(
        {"name": "augmented", "inner": {"name": "first_often"}, "strength": "weak"}, CAPTION_PICKS, where=""
    )
    assert augmented(Row("key", None, ("the cat is in the house",)), draw=5) in ("cat house", "the cat is in the house")


def test_columns_of_a_file_are_mixed_in_batches(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    columns = {
        "image": [file.getvalue()] * 64,
        "text": [f"alt {number}" for number in range(64)],
        "vecap": [f"a red lamp {number}" if number else None for number in range(64)],
    }
    pq.write_table(pa.table(columns), tmp_path / "pool.parquet")

    def batches():
        source = open_source(str(tmp_path / "pool.parquet"), where="test")
        pick = MixedCaption(probs={"text": 0.5, "vecap": 0.5})
        return Loader(
            source,
            batch_size=64,
            image_spec=ImageSpec((32, 32)),
            tokenizer=ClipTokenizer(),
            seed=0,
            caption=pick,
        )

    loader = batches()
    first, second = (sorted(next(loader).extra["texts"]) for _ in range(2))
    assert first != second  # drawn at every visit
    assert sorted(int(text.split()[-1]) for text in first) == list(range(64))
    assert 16 < sum(text.startswith("alt") for text in first) < 48
    assert "alt 0" in first
    assert sorted(next(batches()).extra["texts"]) == first


def test_sentences_of_long_captions():
    text = "Growth over time. (A) Control, see Fig. 2. Bars are s.e.m. of e.g. three runs!  What is B? It is 3.5 cm."
    assert sentences(text) == [
        "Growth over time.",
        "(A) Control, see Fig. 2.",
        "Bars are s.e.m. of e.g. three runs!",
        "What is B?",
        "It is 3.5 cm.",
    ]
    assert sentences("  ") == []
    assert sentences("no end") == ["no end"]


def test_some_sentences_at_every_visit():
    text = " ".join(f"Sentence number {number} is here." for number in range(30))
    pick = CAPTION_PICKS["sentences"](most_words=12)
    assert isinstance(pick, SomeSentences)
    row = Row("k", None, (text, " "), {})
    seen = {pick(row, draw=(start << 32) | start) for start in range(60)}
    assert len(seen) == 30
    assert all(len(part.split()) <= 12 and part in text and part.startswith("Sentence") for part in seen)
    assert pick(row, draw=5 << 32) == pick(row, draw=5 << 32)
    long = Row("k", None, ("word " * 40,), {})
    assert len(pick(long, draw=0).split()) == 12
    with pytest.raises(InputError, match="most_words"):
        SomeSentences(most_words=0)
