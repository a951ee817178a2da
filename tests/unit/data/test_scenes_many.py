"""Pictures of several objects, balanced in place and identity, and captions that keep their order in part."""

import dataclasses

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.sets.scenes import ScenesSet
from tether.data.sets.scenes.many import MultiObjectWorld

OBJECTS = [("red", "star"), ("blue", "ring"), ("green", "cross"), ("orange", "moon"), ("black", "heart")]
NAMES = ("a red star", "a blue ring", "a green cross", "an orange moon", "a black heart")


class TestWorld:
    def test_pictures_show_what_they_say(self):
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
