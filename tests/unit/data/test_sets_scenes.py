"""The scenes as a source: fixed rows, disjoint splits, planted biases; images of several objects."""

import dataclasses
import hashlib
import itertools
import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Block
from tether.data.sets.scenes import (
    HELD_OUT_PAIRS,
    HELD_OUT_TEMPLATES,
    PARTNERS,
    TEMPLATES,
    Dice,
    Scene,
    ScenesSet,
    Thing,
    World,
    draw_biased,
    long,
    render,
    short,
)
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES
from tether.methods.comco.scenes import MultiObjectWorld

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test", "compositions")
RED_STAR = Thing("star", "red", "large", "striped", "whole", 0.3, 0.3, 27)
BLUE_RING = Thing("ring", "blue", "small", "plain", "broken", 0.75, 0.8, 12)
TWO = Scene((BLUE_RING, RED_STAR), "sand")


def samples(count: int = 300, **settings: object):
    source = ScenesSet(rows=count, **settings)
    return [source.sample(index) for index in range(count)]


class TestCaptions:
    def test_examples(self):
        assert short(TWO) == "a red star and a blue ring"
        assert short(TWO, template="there", order="given") == "there is a blue ring and a red star"
        assert short(TWO, details=("size", "texture", "state", "colour"), background="say") == (
            "a large whole striped red star and a small broken plain blue ring on sand"
        )
        assert short(TWO, most=1, template="appear") == "a red star appears in the scene"
        orange = replace(TWO, things=(replace(RED_STAR, colour="orange"),))
        assert short(orange) == "an orange star"

    def test_long_example(self):
        assert long(TWO, telling=(0, "state"), most=3) == (
            "There are two things: a red star and a blue ring. Everything is on sand."
            " The red star is in the top left. The blue ring is broken."
        )
        assert long(replace(TWO, things=(RED_STAR,)), most=0) == "There is one thing: a red star."

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: short(TWO, template="shout"), "template.*plain.*'shout'"),
            (lambda: short(TWO, order="weight"), "order.*'weight'"),
            (lambda: short(TWO, order="random"), "random order need dice"),
            (lambda: short(TWO, details=("mood",)), "details.*mood"),
            (lambda: long(TWO, telling=(2, "size")), "telling.*2 things"),
        ],
    )
    def test_bad_requests(self, call, message: str):
        with pytest.raises(InputError, match=message):
            call()


class TestSplits:
    def test_rows_of_different_splits_and_seeds_differ(self):
        drawn = {
            (split, seed): {sample.image.pixels.tobytes() for sample in samples(200, split=split, seed=seed)}
            for split in SPLITS
            for seed in (0, 1)
        }
        assert all(len(images) == 200 for images in drawn.values())
        assert len(set().union(*drawn.values())) == 200 * len(drawn)

    def test_held_out_pairs_are_shown_by_compositions_only(self):
        assert 8 <= len(HELD_OUT_PAIRS) <= 25
        for split in SPLITS:
            for sample in samples(400, split=split, negatives="attribute"):
                scenes = [sample.scene] + ([sample.negative.other] if sample.negative else [])
                pairs = {(thing.colour, thing.shape) for scene in scenes for thing in scene.things}
                if split != "compositions":
                    assert not pairs & HELD_OUT_PAIRS
                else:
                    assert {(thing.colour, thing.shape) for thing in sample.scene.things} & HELD_OUT_PAIRS

    def test_every_part_of_a_held_out_pair_is_seen_in_training(self):
        things = [thing for sample in samples(1500) for thing in sample.scene.things]
        assert {thing.colour for thing in things} == set(COLOURS)
        assert {thing.shape for thing in things} == set(SHAPES)
        assert {thing.texture for thing in things} == set(TEXTURES)
        assert {thing.size for thing in things} == set(SIZES)

    def test_the_held_out_pairs_never_change(self):
        words = " ".join(sorted(f"{colour}-{shape}" for colour, shape in HELD_OUT_PAIRS))
        assert hashlib.sha256(words.encode()).hexdigest()[:16] == "74cfbb85f9a35ac3"

    def test_the_scenes_and_captions_of_a_row_never_change(self):
        lines = []
        for split in SPLITS:
            for sample in samples(50, split=split, captions="both", order="random", lettering="word", agree=0.5):
                scene = sample.scene
                places = [(thing.shape, thing.colour, thing.units, round(thing.x, 6)) for thing in scene.things]
                lines.append(json.dumps([scene.background, places, scene.lettering.text, sample.captions]))
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "48e65f2a40190969"

    def test_held_out_templates_never_appear_in_training_captions(self):
        parts = {
            name: frame.replace("{things}", "|").replace("{appear}", "|") for name, frame in HELD_OUT_TEMPLATES.items()
        }
        telling = {name: max(part.split("|"), key=len).strip() for name, part in parts.items()}
        assert not set(TEMPLATES) & set(HELD_OUT_TEMPLATES)
        seen = [sample.captions[0] for sample in samples(600)]
        unseen = [sample.captions[0] for sample in samples(600, templates="held_out")]
        for fragment in telling.values():
            assert len(fragment) >= 8
            assert not any(fragment in caption for caption in seen)
            assert sum(fragment in caption for caption in unseen) > 60
        assert len({caption.split()[0] for caption in seen}) >= 4


class TestSource:
    def test_it_is_a_source_that_can_start_anywhere(self):
        source = ScenesSet(rows=1100, captions="both")
        assert isinstance(source, Source)
        assert [block.rows for block in source.blocks()] == [512, 512, 76]
        last = source.blocks()[-1]
        rows = list(source.read(last, start=70))
        assert [row.key for row in rows] == [f"train/0/{index:08d}" for index in range(1094, 1100)]
        again = source.row(1094)
        assert np.array_equal(again.image, rows[0].image)
        assert again.texts == rows[0].texts

    def test_a_row_carries_its_ground_truth(self):
        source = ScenesSet(rows=40, size=96, lettering="word", defects=0.5, negatives="object")
        flawed = 0
        for row in islice(source.read(source.blocks()[0]), 40):
            assert row.image.shape == (96, 96, 3)
            assert row.image.dtype == np.uint8
            things = row.meta["things"]
            assert row.meta["label"] == things[0]["shape"]
            assert len(things) == len(row.meta["boxes"]) == row.meta["labels"].max()
            assert row.meta["text_mask"].any()
            flawed += row.meta["flaw_mask"].any()
            assert row.meta["negative_image"].shape == row.image.shape
            assert row.meta["negative_text"] != row.meta["text"]
        assert 8 < flawed < 32

    def test_a_near_miss_keeps_lettering_and_defects(self):
        for sample in samples(60, lettering="word", defects=1.0, negatives="attribute", things=(2, 4)):
            if sample.negative is not None:
                assert sample.negative.scene == sample.scene
                assert sample.negative.other.lettering == sample.scene.lettering
                assert sample.negative.other.defects == sample.scene.defects
                assert (sample.image.pixels != sample.negative_image.pixels).any()

    def test_up_to_eight_things_stand_clear_of_one_another(self):
        found = samples(150, things=(4, 8), captions="both", size=128)
        counts = [len(sample.scene.things) for sample in found]
        assert set(counts) == {4, 5, 6, 7, 8}
        for sample in found:
            things = sample.scene.things
            assert World(things=(1, 8)).allows(sample.scene)
            if len(things) > 4:
                assert sum(thing.size != "small" for thing in things) <= (2 if len(things) < 7 else 1)
            for thing in things:
                low, high = SIZES[thing.size]
                assert low <= thing.units <= high
            assert set(np.unique(sample.image.labels)) == set(range(len(things) + 1))
        assert sum(any(thing.size == "large" for thing in sample.scene.things) for sample in found) > 60
        eight = next(sample for sample in found if len(sample.scene.things) == 8)
        assert eight.captions[0].count(" and ") == 1
        assert eight.captions[1].startswith("There are eight things: ")

    def test_lettering_agrees_as_often_as_asked(self):
        for kind in ("word", "number", "watermark"):
            agreed = [sample.scene.lettering.agrees for sample in samples(800, lettering=kind, agree=0.7)]
            assert np.mean(agreed) == pytest.approx(0.7, abs=0.06)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"things": (0, 2)}, "things"),
            ({"things": (3, 2)}, "things"),
            ({"things": (1, 9)}, "1 <= least <= greatest <= 8"),
            ({"things": (4, 8), "sizes": ("large",)}, "more than 4 things need small ones"),
            ({"bias": "colour", "split": "compositions"}, "compositions"),
        ],
    )
    def test_bad_settings(self, settings: dict, message: str):
        with pytest.raises(InputError, match=message):
            ScenesSet(**settings)

    def test_bad_rows_and_blocks(self):
        source = ScenesSet(rows=10)
        for index in (-1, 10):
            with pytest.raises(InputError, match="row"):
                source.sample(index)
        for name in ("000000000512", "3", "first"):
            with pytest.raises(InputError, match="no block"):
                list(source.read(Block(name, 1)))

    def test_bad_calls_of_the_makers(self):
        with pytest.raises(InputError, match=r"size.*20"):
            render(TWO, size=20)
        with pytest.raises(InputError, match="pairs of colour and shape"):
            World(colours=("blue",), backgrounds=("water",))
        with pytest.raises(InputError, match=r"shapes.*blob"):
            World(shapes=("blob",))
        with pytest.raises(InputError, match=r"colours.*none"):
            World(colours=())


class TestBias:
    @pytest.mark.parametrize("kind", ["colour", "texture", "background"])
    @pytest.mark.parametrize("strength", [0.0, 0.5, 0.9, 1.0])
    def test_the_partner_is_as_frequent_as_the_strength_says(self, kind: str, strength: float):
        world, dice = World(things=(1, 2)), Dice(np.random.default_rng([7, int(10 * strength)]))
        drawn = [draw_biased(world, dice, kind=kind, strength=strength) for _ in range(1500)]
        hits, chance = [], []
        for biased in drawn:
            first = biased.scene.things[0]
            value = {"colour": first.colour, "texture": first.texture, "background": biased.scene.background}[kind]
            assert first.shape == biased.label
            assert biased.aligned == (value == PARTNERS[kind][biased.label])
            assert world.allows(biased.scene)
            hits.append(biased.aligned)
            free = {
                "colour": [colour for colour in COLOURS if (colour, first.shape) not in HELD_OUT_PAIRS],
                "texture": TEXTURES,
                "background": list(BACKGROUNDS),
            }[kind]
            chance.append(1 / len(free))
        measured = (np.mean(hits) - np.mean(chance)) / (1 - np.mean(chance))
        assert measured == pytest.approx(strength, abs=0.05)

    def test_without_strength_every_class_is_as_frequent(self):
        world, dice = World(), Dice(np.random.default_rng(3))
        labels = [draw_biased(world, dice, kind="background", strength=0.9).label for _ in range(2000)]
        counts = np.array([labels.count(shape) for shape in SHAPES])
        assert np.abs(counts - 200).max() < 60

    def test_partners_are_never_held_out_and_colours_are_all_different(self):
        assert not {(colour, shape) for shape, colour in PARTNERS["colour"].items()} & HELD_OUT_PAIRS
        assert len(set(PARTNERS["colour"].values())) == len(SHAPES)

    def test_rows_say_whether_they_are_aligned(self):
        aligned = [sample.aligned for sample in samples(600, bias="texture", strength=0.8)]
        assert np.mean(aligned) == pytest.approx(0.8 + 0.2 / 4, abs=0.05)
        assert all(sample.aligned is None for sample in samples(5))

    def test_a_world_too_small_for_the_bias(self):
        world = World(things=(1, 1), colours=("white", "grey"), backgrounds=("brick",))
        with pytest.raises(InputError, match="bias"):
            draw_biased(world, Dice(np.random.default_rng(0)), kind="colour", strength=1.0)


OBJECTS = [("red", "star"), ("blue", "ring"), ("green", "cross"), ("orange", "moon"), ("black", "heart")]
NAMES = ("a red star", "a blue ring", "a green cross", "an orange moon", "a black heart")


class TestWorld:
    def test_images_show_what_they_say(self):
        world = MultiObjectWorld(objects=OBJECTS, n=3, big=1)
        assert world.names == NAMES
        for index in range(30):
            item = world.item(index)
            things = item.scene.things
            assert [(thing.colour, thing.shape) for thing in things] == [OBJECTS[chosen] for chosen in item.objects]
            assert len(set(item.objects)) == 3
            assert [thing.units for thing in things] == [12, 26, 12]
            assert [thing.size for thing in things] == ["small", "large", "small"]
        assert world.pixels([world.item(0), world.item(1)]).shape == (2, 3, 64, 64)

    def test_five_at_the_largest_ratio_never_touch(self):
        world = MultiObjectWorld(objects=OBJECTS, n=5, big=4, ratio=2.4)
        for index in range(200):
            things = world.item(index).scene.things
            assert len(things) == 5
            for one, other in itertools.combinations(things, 2):
                assert math.dist((one.x, one.y), (other.x, other.y)) > (one.units + other.units) / 128

    def test_an_item_is_the_same_whatever_came_before(self):
        one, other = (MultiObjectWorld(objects=OBJECTS, n=2) for _ in range(2))
        other.item(0)
        assert (one.item(7).pixels == other.item(7).pixels).all()
        assert dataclasses.asdict(one.item(7).scene) == dataclasses.asdict(other.item(7).scene)
        assert not (MultiObjectWorld(objects=OBJECTS, n=2, seed=1).item(7).pixels == one.item(7).pixels).all()

    @pytest.mark.parametrize("big", [0, 2])
    def test_the_large_one_lies_anywhere_and_is_any_object(self, big):
        world = MultiObjectWorld(objects=OBJECTS, n=3, big=big)
        drawn = [world.item(index) for index in range(400)]
        large = [item.scene.things[big] for item in drawn]
        small = [item.scene.things[1] for item in drawn]
        for things in (large, small):
            for axis in ("x", "y"):
                assert abs(np.mean([getattr(thing, axis) for thing in things]) - 0.5) < 0.04
        counts = np.bincount([item.objects[big] for item in drawn], minlength=5)
        assert counts.min() > 50

    def test_none_enlarged_and_alone(self):
        world = MultiObjectWorld(objects=OBJECTS, n=2, big=None)
        assert {thing.units for index in range(5) for thing in world.item(index).scene.things} == {12}
        alone = world.single(3)
        assert alone.objects == (3,)
        assert (alone.scene.things[0].colour, alone.scene.things[0].shape) == OBJECTS[3]
        assert not (alone.pixels == world.single(3, view=1).pixels).all()

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"objects": [("red", "star"), ("red", "star")]}, "each once"),
            ({"objects": [("red", "sofa"), ("red", "star")]}, "no red sofa"),
            ({"objects": [("white", "star"), ("red", "star")]}, "cannot be seen on paper"),
            ({"n": 4, "objects": OBJECTS[:3]}, "at most 3"),
            ({"big": 3}, "position from 0 to 2"),
            ({"background": "lava"}, "background"),
        ],
    )
    def test_bad_settings(self, change, why):
        with pytest.raises(ValueError, match=why):
            MultiObjectWorld(**{"objects": OBJECTS, **change})

    def test_bad_indices(self):
        world = MultiObjectWorld(objects=OBJECTS)
        for call in (lambda: world.item(-1), lambda: world.single(5), lambda: world.single(0, view=-1)):
            with pytest.raises(InputError):
                call()


def test_captions_keep_their_order_as_often_as_asked():
    def share(**settings):
        rows = ScenesSet(rows=400, things=(2, 3), templates="plain", **settings)
        kept = 0
        for index in range(400):
            sample = rows.sample(index)
            largest = max(sample.scene.things, key=lambda thing: thing.units)
            kept += sample.captions[0].split(",")[0].split(" and ")[0].endswith(f"{largest.colour} {largest.shape}")
        return kept / 400

    assert share() == 1
    assert share(ordered=1.0) == 1
    assert 0.9 < share(ordered=0.9) < 1
    assert 0.3 < share(ordered=0.0) < 0.55
    with pytest.raises(InputError, match="ordered"):
        ScenesSet(ordered=1.5)


class TestHugeAndCounted:
    def test_at_most_one_is_huge_and_none_touch(self):
        for things in ((1, 4), (4, 4)):
            source = ScenesSet(rows=80, sizes=("medium", "huge"), things=things)
            scenes = [source.sample(index) for index in range(80)]
            assert all(source.world.allows(sample.scene) for sample in scenes)
            assert max(sum(thing.size == "huge" for thing in sample.scene.things) for sample in scenes) == 1
            sides = [np.diff(sample.image.boxes.reshape(-1, 2, 2), axis=1).max() / 64 for sample in scenes]
            assert max(sides) > 0.5

    def test_a_shape_is_counted_in_colours_that_differ(self):
        source = ScenesSet(rows=60, things=(1, 4), counted=("star", 2, 3))
        for index in range(60):
            stars = [thing.colour for thing in source.sample(index).scene.things if thing.shape == "star"]
            assert len(stars) in (2, 3)
            assert len(set(stars)) == len(stars)
        assert any(source.sample(index).label != "star" for index in range(60))

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"sizes": ("giant",)}, "small, medium, large, huge"),
            ({"counted": ("sun", 1, 2)}, "counted: expected one of circle"),
            ({"counted": ("star", 3, 2)}, "least <= greatest"),
            ({"counted": ("star", 1)}, "a shape and two counts"),
            ({"counted": ("star", 1, 2), "split": "compositions"}, "not held-out pairs"),
        ],
    )
    def test_refuses(self, settings, why):
        with pytest.raises(InputError, match=why):
            ScenesSet(**settings)
