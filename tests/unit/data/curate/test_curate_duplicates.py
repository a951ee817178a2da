"""Exact and near duplicates: what is equal, what looks alike, and which one of them stays."""

from __future__ import annotations

import itertools
import pickle
import random

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from tables import encoded
from tether.core.errors import InputError
from tether.data.curate import ExactDuplicates, NearDuplicates
from tether.data.curate.engine.hashing import combined, hashed, row_keys
from tether.data.curate.steps.exact_duplicates import folded
from tether.data.curate.steps.near_duplicates import differing, near_pairs
from tether.data.curate.steps.phash import fingerprints


def rows(texts, images=None, keys=None, **columns) -> pa.RecordBatch:
    keys = keys or [f"row {i}" for i in range(len(texts))]
    batch = {"key": keys, "text": pa.array(texts, pa.string())}
    if images is not None:
        batch["image"] = pa.array(images, pa.binary())
    return pa.record_batch({**batch, **columns})


def kept(step, batch: pa.RecordBatch) -> list[bool]:
    return step.partial_fit(batch).keep(batch).astype(bool).tolist()


def drawing(seed: int, *, side: int = 96) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


# exact


def test_one_of_equal_pairs_stays():
    batch = rows(["a", "b", "a", "a"], [b"1", b"1", b"1", b"2"])
    stays = kept(ExactDuplicates(), batch)
    assert stays[1]
    assert stays[3]
    assert stays[0] != stays[2]
    assert kept(ExactDuplicates(of="text"), batch).count(True) == 2
    assert kept(ExactDuplicates(of="image"), batch).count(True) == 2


def test_which_one_stays_depends_on_keys_alone():
    names = [f"k{i}" for i in range(40)]
    winner = None
    for seed in range(5):
        random.Random(seed).shuffle(names)
        stays = kept(ExactDuplicates(of="text"), rows(["same"] * 40, keys=names))
        assert stays.count(True) == 1
        found = names[stays.index(True)]
        assert winner in (None, found)
        winner = found


def test_without_the_text_a_row_keeps_its_captions():
    batch = rows(list("abcd"), [b"1"] * 4, keys=["x#0", "x#1", "y#0", "y#1"])
    stays = kept(ExactDuplicates(of="image"), batch)
    assert stays in ([True, True, False, False], [False, False, True, True])
    assert row_keys(pa.array(["a#12", "a#b", "a#1#2", "a"])).to_pylist() == ["a", "a#b", "a#1", "a"]


def test_what_lacks_a_value_is_equal_to_none():
    batch = rows(["a", "a", None, None], [None, None, b"1", b"1"])
    assert kept(ExactDuplicates(), batch) == [True] * 4
    assert kept(ExactDuplicates(of="text"), batch).count(True) == 3


def test_any_column_can_be_compared():
    batch = rows(["a", "b", "c"], link=["x", "x", None], place=[1, 1, 2])
    step = ExactDuplicates(of=["link", "place"])
    assert step.columns == ("link", "place")
    assert kept(step, batch).count(True) == 2
    values = [b"\xff", b"\xff", None, b"\xfe"]
    codes = pa.array(values, pa.binary()).dictionary_encode()
    fixed = pa.array(values, pa.binary(1))
    for column in (*(pa.array(values, kind) for kind in (pa.binary(), pa.large_binary())), fixed, codes):
        assert kept(ExactDuplicates(of="code"), rows(["a"] * 4, code=column)).count(True) == 3
    with pytest.raises(InputError, match="column 'place': expected plain values, got list"):
        ExactDuplicates(of="place").partial_fit(rows(["a"], place=[[1]]))


def test_folded_captions_are_equal_without_case_marks_and_form():
    texts = ["A Café!", "a  cafe\u0301", "a cafe", "🙂", "🐶", "...", "!!!", "ＡＢＣ", "abc", None]
    found = folded(pa.array(texts)).to_pylist()
    assert found == ["a café", "a café", "a cafe", "🙂", "🐶", "...", "!!!", "abc", "abc", None]
    stays = kept(ExactDuplicates(of="text", text="folded"), rows(texts))
    assert stays[0] != stays[1]
    assert stays[2:7] == [True] * 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"", b"1", b"12"])), min_size=1, max_size=30))
def test_exactly_one_of_every_group_stays(pairs):
    texts, images = zip(*pairs, strict=True)
    batch = rows(list(texts), list(images))
    step = ExactDuplicates()
    stays = kept(step, batch)
    staying = [pair for pair, stay in zip(pairs, stays, strict=True) if stay]
    assert sorted(staying) == sorted(set(pairs))
    assert step.report() == {"pairs": len(pairs), "compared": len(pairs), "distinct": len(set(pairs))}


def test_counts_come_together_in_any_number_of_pieces():
    rng = random.Random(3)
    texts = [str(rng.randrange(900)) for _ in range(2000)]
    batch = rows(texts)
    whole = ExactDuplicates(of="text").partial_fit(batch)
    total = ExactDuplicates(of="text")
    for start in range(0, 2000, 7):
        total.merge(ExactDuplicates(of="text").partial_fit(batch.slice(start, 7)))
        total._table()  # as a saved state would
    np.testing.assert_array_equal(total.keep(batch), whole.keep(batch))
    assert whole.keep(batch).sum() == len(set(texts))
    with pytest.raises(InputError, match="cannot add"):
        total.merge(ExactDuplicates(of="image"))


def test_names_are_the_same_everywhere():
    assert hashed(pa.array(["abc", "", None])).tolist() == hashed(pa.array([b"abc", b"", b""])).tolist()
    assert hashed(pa.array(["abc"])).tolist() == [6455300059550759896]
    one, other = hashed(pa.array(["a", "b"])), hashed(pa.array(["b", "a"]))
    assert (combined(one, other) != combined(other, one)).all()
    assert hashed(pa.array(["a" * 1_000_000] * 2)).tolist() == hashed(pa.array(["a" * 1_000_000])).tolist() * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": []}, "of: expected columns"),
        ({"of": ["text", "text"]}, "each once"),
        ({"of": ["image"], "text": "folded"}, "needs the text"),
    ],
)
def test_wrong_settings_of_exact_duplicates_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ExactDuplicates(**settings)


# fingerprints


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_the_shape_is_the_librarys_hash(kind):
    images = [drawing(seed, side=64 + seed) for seed in range(30)]
    ours = fingerprints([encoded(image, kind) for image in images]).shape
    theirs = np.array([int(str(imagehash.phash(image)), 16) for image in images], np.uint64)
    np.testing.assert_array_equal(ours, theirs)


def test_plain_and_symmetric_images_have_no_noise_in_their_bits():
    plain = [encoded(Image.new("RGB", (50, 40), (value, value, value))) for value in range(1, 256, 7)]
    assert set(fingerprints(plain).shape.tolist()) == {1 << 63}
    row = np.minimum(np.arange(64), np.arange(64)[::-1]).astype(np.uint8)
    waves = [encoded(Image.fromarray(np.tile(row * scale, (64, 1)))) for scale in (1, 2, 3, 4)]
    possible = np.uint64(0xAA << 56)  # frequencies 0, 2, 4 and 6 across, 0 down; all others are 0
    assert not (fingerprints(waves).shape & ~possible).any()


def test_an_image_is_upright_over_white_and_its_first_frame():
    turned = drawing(1).transpose(Image.Transpose.ROTATE_90)
    marked = Image.Exif()
    marked[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = [encoded(drawing(1)), encoded(turned, "PNG", exif=marked)]
    see_through = drawing(2).convert("RGBA")
    see_through.putalpha(Image.new("L", see_through.size, 0))
    data += [encoded(see_through), encoded(Image.new("RGB", (96, 96), "white"))]
    found = fingerprints(data)
    assert found.shape[0] == found.shape[1]
    assert found.shape[2] == found.shape[3]
    np.testing.assert_array_equal(found.colours[0], found.colours[1])
    np.testing.assert_array_equal(found.colours[2], 255)
    assert found.pixels.tolist() == [96 * 96] * 4


def test_sixteen_bits_palettes_and_grey_are_read():
    grey = drawing(3).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    found = fingerprints([encoded(grey), encoded(deep), encoded(grey.convert("P")), encoded(grey.convert("1"))])
    assert found.readable.all()
    assert found.shape[0] == found.shape[1] == found.shape[2]


def test_what_is_no_image_is_unreadable():
    good = encoded(drawing(0), "JPEG")
    bad = [None, b"", b"no image", good[: len(good) // 2], encoded(drawing(0))[:60]]
    found = fingerprints([good, *bad])
    assert found.readable.tolist() == [True, *[False] * 5]
    assert fingerprints([]).shape.shape == (0,)


# near


def test_copies_are_found_and_others_are_not():
    originals = [drawing(seed) for seed in range(40)]
    changes = [
        lambda image: encoded(image, "JPEG", quality=60),
        lambda image: encoded(image.resize((60, 60), Image.Resampling.BICUBIC)),
        lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.04)),
        lambda image: encoded(image.filter(ImageFilter.GaussianBlur(1))),
    ]
    images = [encoded(image) for image in originals]
    images += [change(image) for image, change in zip(originals, itertools.cycle(changes), strict=False)]
    stays = np.array(kept(NearDuplicates(), rows(["x"] * 80, images)))
    assert ((stays[:40].astype(int) + stays[40:]) == 1).sum() >= 38
    assert stays.sum() <= 42


def test_the_largest_stays_or_any():
    images = [encoded(drawing(1, side=side)) for side in (40, 96, 60)]
    for seed in range(4):
        keys = [f"{seed} {i}" for i in range(3)]
        assert kept(NearDuplicates(), rows(["x"] * 3, images, keys)) == [False, True, False]
    found = {
        tuple(kept(NearDuplicates(prefer="any"), rows(["x"] * 3, images, [f"{seed} {i}" for i in range(3)])))
        for seed in range(20)
    }
    assert len(found) == 3


def test_one_shape_in_two_colours_is_two_images():
    grey = drawing(5).convert("L")
    dark = grey.point(lambda value: value // 3)
    red, blue = Image.merge("RGB", [grey, dark, dark]), Image.merge("RGB", [dark, dark, grey])
    batch = rows(["x", "x"], [encoded(red), encoded(blue)])
    assert kept(NearDuplicates(distance=16), batch) == [True, True]
    assert kept(NearDuplicates(distance=16, colour=255), batch).count(True) == 1


def test_captions_of_one_image_stay_or_go_together():
    image = encoded(drawing(1))
    batch = rows(list("abcde"), [image] * 5, keys=["x#0", "x#1", "x#2", "y#0", "y#1"])
    stays = kept(NearDuplicates(), batch)
    assert stays in ([True] * 3 + [False] * 2, [False] * 3 + [True] * 2)


def test_rows_without_a_readable_image_stay():
    step = NearDuplicates()
    batch = rows(["x"] * 4, [None, None, b"no", b"no"])
    assert kept(step, batch) == [True] * 4
    assert step.report() == {"pairs": 4, "images": 0, "stay": 0, "unreadable": 2}
    assert kept(NearDuplicates(), rows(["x"], image=pa.nulls(1))) == [True]
    with pytest.raises(InputError, match="expected encoded images"):
        step.partial_fit(rows(["x"], image=["text"]))


def counted(shape, colours, pixels, **settings) -> NearDuplicates:
    step = NearDuplicates(**settings)
    n = len(shape)
    keys = hashed(pa.array([str(i) for i in range(n)]))
    step._add((keys, shape, colours, pixels))
    step.pairs = n
    return step


@pytest.mark.parametrize(("distance", "colour"), [(0, 0), (2, 24), (4, 24), (6, 255), (9, 60)])
@pytest.mark.parametrize("prefer", ["largest", "any"])
def test_it_is_the_plain_rule(distance, colour, prefer):
    rng = np.random.default_rng(distance)
    centres = rng.integers(0, 2**64, 12, dtype=np.uint64)
    flips = np.where(rng.random((300, 64)) < 0.05, np.uint64(1) << np.arange(64, dtype=np.uint64), np.uint64(0))
    shape = centres[rng.integers(0, 12, 300)] ^ np.bitwise_or.reduce(flips, axis=1)
    colours = (rng.integers(0, 4, (300, 1)) * 30 + rng.integers(0, 12, (300, 108))).astype(np.uint8)
    pixels = rng.integers(1, 5, 300).astype(np.uint32)
    step = counted(shape, colours, pixels, distance=distance, colour=colour, prefer=prefer)

    keys = hashed(pa.array([str(i) for i in range(300)])).tolist()
    order = sorted(range(300), key=lambda i: (-int(pixels[i]) if prefer == "largest" else 0, keys[i]))
    best: dict[tuple, int] = {}
    for i in order:
        best.setdefault((int(shape[i]), tuple((colours[i].astype(int) // (colour + 1)).tolist())), i)

    def alike(i: int, j: int) -> bool:
        bits = bin(int(shape[i]) ^ int(shape[j])).count("1")
        return bits <= distance and np.abs(colours[i].astype(int) - colours[j]).max() <= colour

    staying: list[int] = []
    for i in sorted(best.values(), key=order.index):
        if not any(alike(i, j) for j in staying):
            staying.append(i)
    expected = [i in staying for i in range(300)]
    batch = rows(["x"] * 300, [None] * 300, keys=[str(i) for i in range(300)])
    assert step.keep(batch).astype(bool).tolist() == expected
    assert 0 < len(staying) < (300 if colour else 301)


def test_another_process_gets_the_decision_alone():
    rng = np.random.default_rng(0)
    shape = np.repeat(rng.integers(0, 2**64, 500, dtype=np.uint64), 2)
    step = counted(shape, np.zeros((1000, 108), np.uint8), np.ones(1000, np.uint32))
    sent = pickle.dumps(step)
    assert len(sent) < 16 * 1000
    there = pickle.loads(sent)
    batch = rows(["x"] * 1001, [None] * 1001, keys=[str(i) for i in range(1001)])
    assert there.keep(batch).tolist() == step.keep(batch).tolist()
    assert there.keep(batch).sum() == 501
    assert there.report() == step.report()
    for count in (there.state_dict, lambda: step.merge(there), lambda: there.partial_fit(batch)):
        with pytest.raises(InputError, match="decision alone"):
            count()
    assert step.merge(NearDuplicates()).report()["images"] == 1000


def test_near_words_are_all_found():
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [1 << int(bit) for bit in rng.integers(0, 64, 60)]
    words = np.concatenate([words, words ^ np.array(flips, np.uint64), words[:5], [np.uint64(0), np.uint64(2**64 - 1)]])
    bits = np.array([[bin(int(a) ^ int(b)).count("1") for b in words] for a in words])
    np.testing.assert_array_equal(differing(words[:, None], words[None]), bits)
    for distance in (0, 1, 3, 5, 16, 28):
        near = [np.stack(pair) for pair in near_pairs(words, distance=distance)]
        found = {tuple(sorted(pair)) for pair in np.concatenate(near, axis=1).T.tolist()}
        first, second = np.nonzero(np.triu(bits <= distance, 1))
        assert found == set(zip(first.tolist(), second.tolist(), strict=True))
    assert list(near_pairs(words[:1], distance=4)) == list(near_pairs(words[:0], distance=4)) == []


def test_thousands_of_one_colour_are_put_together_quickly():
    rng = np.random.default_rng(2)
    colours = np.repeat(rng.integers(0, 256, (20_000, 1), dtype=np.uint8), 108, axis=1)
    step = counted(np.full(20_000, 1 << 63, np.uint64), colours, np.ones(20_000, np.uint32))
    assert 256 // 49 <= step.report()["stay"] <= 11
