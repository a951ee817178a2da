"""What holds of every scene: masks are where pixels change, captions are true, near misses differ in one respect."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data.sets.scenes import (
    HELD_OUT_PAIRS,
    HELD_OUT_TEMPLATES,
    TEMPLATES,
    Dice,
    Scene,
    World,
    draw_defect,
    draw_lettering,
    long,
    relation,
    render,
    replace_thing,
    short,
    swap_attribute,
    swap_relation,
)
from tether.data.sets.scenes.sprites import sprite
from tether.data.sets.scenes.world import ATTRIBUTES, BACKGROUNDS, COLOURS, SHAPES, SIZES, STATES, TEXTURES
from tether.methods.tripletclip import EDITS, draw_edit

seeds = st.integers(0, 2**32)
some = settings(max_examples=40, derandomize=True)
many = settings(max_examples=150, derandomize=True)

WORDS = {"size": SIZES, "state": STATES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES}
SAID = "|".join(word for key in ("size", "state", "texture", "colour") for word in WORDS[key])
NOUN = re.compile(rf"\ban? ((?:(?:{SAID}) )*)({'|'.join(SHAPES)})\b")


def drawn(seed: int, **world: object) -> tuple[Scene, Dice]:
    dice = Dice(np.random.default_rng(seed))
    return World(**world).draw(dice), dice


def read(caption: str) -> Counter:
    """An independent reader: each "a ... SHAPE" as a set of (attribute, value)."""
    found = Counter()
    for adjectives, shape in NOUN.findall(caption):
        said = {("shape", shape)}
        for word in adjectives.split():
            attribute = next(key for key, values in WORDS.items() if word in values)
            said.add((attribute, word))
        found[frozenset(said)] += 1
    return found


def holds(caption: str, scene: Scene) -> bool:
    """Whether every thing that a short caption names is in the scene."""
    return all(
        sum(all(getattr(thing, key) == value for key, value in said) for thing in scene.things) >= count
        for said, count in read(caption).items()
    )


def differences(scene: Scene, other: Scene) -> list[tuple[int, str]]:
    return [
        (index, key)
        for index, (one, two) in enumerate(zip(scene.things, other.things, strict=True))
        for key in (*ATTRIBUTES, "x", "y")
        if getattr(one, key) != getattr(two, key)
    ]


@many
@given(seeds)
def test_a_generator_decides_everything(seed: int):
    (first, _), (second, _) = drawn(seed), drawn(seed)
    assert first == second
    one, two = render(first), render(second)
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(one.labels, two.labels)


@many
@given(seeds, st.sampled_from(["seen", "held_out", "all"]))
def test_a_world_only_draws_scenes_that_it_allows(seed: int, pairs: str):
    scene, _ = drawn(seed, pairs=pairs)
    assert World(pairs="all").allows(scene)
    rare = [(thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in scene.things]
    assert pairs == "all" or any(rare) == (pairs == "held_out")
    for thing in scene.things:
        low, high = SIZES[thing.size]
        assert low <= thing.units <= high
        assert thing.colour not in BACKGROUNDS[scene.background]


@some
@given(seeds, st.sampled_from([64, 97, 128, 224]))
def test_taking_a_thing_away_changes_its_mask_and_nothing_else(seed: int, size: int):
    scene, _ = drawn(seed)
    whole = render(scene, size=size)
    assert whole.labels.max() == len(scene.things)
    for index in range(len(scene.things)):
        without = replace(scene, things=scene.things[:index] + scene.things[index + 1 :])
        changed = (render(without, size=size).pixels != whole.pixels).any(axis=2)
        mask = whole.mask(index)
        assert not (changed & ~mask).any()
        assert changed.sum() > 0.9 * mask.sum()  # a pixel may happen to have the background's colour


@some
@given(seeds, st.sampled_from([64, 100, 224]))
def test_boxes_hold_their_masks_tightly(seed: int, size: int):
    scene, _ = drawn(seed)
    image = render(scene, size=size)
    for index, (x0, y0, x1, y1) in enumerate(image.boxes):
        rows, columns = np.nonzero(image.mask(index))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
        centre = np.array([x0 + x1, y0 + y1]) / 2 / size
        thing = scene.things[index]
        assert np.abs(centre - (thing.x, thing.y)).max() < thing.units / 128


@some
@given(seeds)
def test_things_are_seen_in_the_colour_that_is_said(seed: int):
    """The nearest named colour of a plain, whole thing's middle tone is its own."""
    scene, _ = drawn(seed, textures=("plain",), broken=0.0)
    image = render(scene, size=128)
    for index, thing in enumerate(scene.things):
        tone = np.median(image.pixels[image.mask(index)].astype(float), axis=0)
        if thing.size != "small" and thing.shape not in ("star", "moon", "ring", "cross", "diamond"):
            nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - tone).sum())
            assert nearest == thing.colour


@many
@given(seeds, st.sampled_from([*TEMPLATES, *HELD_OUT_TEMPLATES]), st.sampled_from(["size", "random", "reading"]))
def test_short_captions_name_every_thing_truly(seed: int, template: str, order: str):
    scene, dice = drawn(seed)
    details = tuple(attribute for attribute in ATTRIBUTES if dice.chance(0.5))
    caption = short(scene, template=template, order=order, details=details, background="say", dice=dice)
    said = read(caption)
    assert sum(said.values()) == len(scene.things)
    wanted = Counter(frozenset((key, getattr(thing, key)) for key in {*details, "shape"}) for thing in scene.things)
    assert said == wanted
    assert holds(caption, scene)


@many
@given(seeds)
def test_size_order_names_the_largest_first(seed: int):
    scene, _ = drawn(seed, things=(2, 4))
    spoken = [match[1] for match in NOUN.findall(short(scene, order="size"))]
    units = [thing.units for thing in scene.things]
    expected = [scene.things[index].shape for index in np.argsort([-unit for unit in units], kind="stable")]
    assert spoken == expected


@many
@given(seeds)
def test_every_sentence_of_a_long_caption_is_true(seed: int):
    scene, dice = drawn(seed)
    opening, *sentences = re.split(r"(?<=\.) ", long(scene, order="random", dice=dice))
    assert holds(opening, scene)
    assert sum(read(opening).values()) == len(scene.things)
    assert len(sentences) == 1 + 4 * len(scene.things)
    for sentence in sentences[1:]:
        colour, shape, said = re.fullmatch(r"The (\w+) (\w+) is (.+)\.", sentence).groups()
        (thing,) = [thing for thing in scene.things if (thing.colour, thing.shape) == (colour, shape)]
        if said in (*SIZES, *TEXTURES, *STATES):
            assert said in (thing.size, thing.texture, thing.state)
        else:
            assert ("left" in said) == (thing.x < 0.4)
            assert ("right" in said) == (thing.x > 0.6)
            assert ("top" in said) == (thing.y < 0.4)
            assert ("bottom" in said) == (thing.y > 0.6)


@many
@given(seeds)
def test_the_telling_detail_comes_last(seed: int):
    scene, dice = drawn(seed)
    index = dice.below(len(scene.things))
    thing = scene.things[index]
    text = long(scene, telling=(index, "texture"))
    assert text.endswith(f"The {thing.colour} {thing.shape} is {thing.texture}.")
    assert text.count(f"The {thing.colour} {thing.shape} is {thing.texture}.") == 1
    assert long(scene, telling=(index, "texture"), most=2).endswith(f"is {thing.texture}.")


@many
@given(seeds)
def test_relations_are_true_of_the_boxes(seed: int):
    scene, _ = drawn(seed, things=(2, 4))
    boxes = render(scene, size=224).boxes
    one, two = scene.things[:2]
    said = relation(one, two)
    centres = (boxes[:2, :2] + boxes[:2, 2:]) / 2
    right, down = centres[0] - centres[1]
    if said is not None:
        assert {"to the right of": right > 0, "to the left of": right < 0, "below": down > 0, "above": down < 0}[said]
        opposite = {"to the right of": "to the left of", "above": "below"}
        opposite |= {value: key for key, value in opposite.items()}
        assert relation(two, one) == opposite[said]


@many
@given(seeds, st.sampled_from(ATTRIBUTES))
def test_twins_differ_in_the_swapped_attribute_only(seed: int, attribute: str):
    scene, dice = drawn(seed, things=(2, 4))
    found = swap_attribute(scene, dice, attribute=attribute)
    if found is None:
        values = [getattr(thing, attribute) for thing in scene.things]
        pairs = {(thing.colour, thing.shape) for thing in scene.things}
        swap_is_possible = attribute in ("texture", "state") and len(set(values)) > 1 and len(pairs) > 1
        assert not swap_is_possible
        return
    assert found.scene == scene
    changed = differences(scene, found.other)
    assert {key for _, key in changed} == {attribute}
    (first, _), (second, _) = changed
    assert getattr(scene.things[first], attribute) == getattr(found.other.things[second], attribute)
    assert getattr(scene.things[second], attribute) == getattr(found.other.things[first], attribute)
    assert holds(found.text, scene)
    assert holds(found.other_text, found.other)
    assert not holds(found.text, found.other)
    assert not holds(found.other_text, scene)
    one, two = render(scene), render(found.other)
    touched = np.zeros_like(one.labels, dtype=bool)
    for index in (first, second):
        touched |= one.mask(index) | two.mask(index)
    moved = (one.pixels != two.pixels).any(axis=2)
    assert moved.any()
    assert not (moved & ~touched).any()


@many
@given(seeds)
def test_relation_twins_change_places_and_truth(seed: int):
    scene, dice = drawn(seed, things=(2, 4))
    found = swap_relation(scene, dice)
    if found is None:
        return
    changed = differences(scene, found.other)
    assert {key for _, key in changed} <= {"x", "y"}
    first, second = sorted({index for index, _ in changed})

    def says(text: str, version: Scene) -> bool:
        left, word, right = re.fullmatch(r"an? (.+?) (to the (?:left|right) of|above|below) an? (.+)", text).groups()
        by_name = {f"{thing.colour} {thing.shape}": thing for thing in version.things}
        return relation(by_name[left], by_name[right]) == word

    assert {first, second} <= set(range(len(scene.things)))
    assert says(found.text, scene)
    assert says(found.other_text, found.other)
    assert not says(found.text, found.other)
    assert not says(found.other_text, scene)


@many
@given(seeds)
def test_a_replaced_thing_is_new_to_the_scene(seed: int):
    scene, dice = drawn(seed)
    found = replace_thing(scene, dice)
    ((index, key),) = differences(scene, found.other)
    assert key == "shape"
    assert found.other.things[index].shape not in {thing.shape for thing in scene.things}
    assert holds(found.text, scene)
    assert not holds(found.text, found.other)
    assert holds(found.other_text, found.other)
    assert not holds(found.other_text, scene)


@many
@given(seeds, st.sampled_from(EDITS))
def test_an_edit_does_what_its_instruction_says(seed: int, kind: str):
    scene, dice = drawn(seed)
    found = draw_edit(scene, dice, kind=kind)
    if found is None:
        return
    assert found.before == scene
    before, after = Counter(scene.things), Counter(found.after.things)
    gone, new = list((before - after).elements()), list((after - before).elements())
    assert (render(scene).pixels != render(found.after).pixels).any()
    text = found.instruction
    if kind == "background":
        assert not gone + new
        assert found.after.background != scene.background
        return
    assert found.after.background == scene.background
    assert (len(gone), len(new)) == {"add": (0, 1), "remove": (1, 0)}.get(kind, (1, 1))
    for thing in gone:
        assert f"the {thing.colour} {thing.shape}" in text
        assert sum((t.colour, t.shape) == (thing.colour, thing.shape) for t in scene.things) == 1
    if kind == "add":
        assert f"{new[0].size} {new[0].texture} {new[0].colour} {new[0].shape}" in text
    attribute = {"recolour": "colour", "reshape": "shape", "resize": "size", "retexture": "texture"}.get(kind)
    if attribute:
        assert text.endswith(getattr(new[0], attribute))
        assert differences(replace(scene, things=tuple(gone)), replace(scene, things=tuple(new))) == [(0, attribute)]
    if kind in ("break", "mend"):
        assert new[0].state == {"break": "broken", "mend": "whole"}[kind]
    if kind == "move":
        assert new[0].place in text
        assert np.hypot(new[0].x - gone[0].x, new[0].y - gone[0].y) >= 0.25


@many
@given(seeds, st.sampled_from(["word", "number", "watermark"]), st.booleans())
def test_lettering_agrees_or_not_as_asked(seed: int, kind: str, agrees: bool):
    scene, dice = drawn(seed)
    found = draw_lettering(scene, dice, kind=kind, agrees=agrees)
    true = int(found.text) == len(scene.things) if kind == "number" else found.text in {t.shape for t in scene.things}
    assert found.agrees == agrees == true


@some
@given(seeds, st.sampled_from(["word", "number", "watermark"]), st.sampled_from([64, 150, 224]))
def test_lettering_changes_its_mask_and_nothing_else(seed: int, kind: str, size: int):
    scene, dice = drawn(seed)
    bare = render(scene, size=size)
    told = render(replace(scene, lettering=draw_lettering(scene, dice, kind=kind, agrees=True)), size=size)
    changed = (bare.pixels != told.pixels).any(axis=2)
    assert changed.any()
    assert not (changed & ~told.text).any()
    assert np.array_equal(bare.labels, told.labels)


@some
@given(seeds, st.sampled_from(["scratch", "stain", "hole", "grain"]), st.sampled_from(["anywhere", "thing"]))
def test_a_defect_is_where_its_mask_is(seed: int, kind: str, on: str):
    scene, dice = drawn(seed)
    defect = draw_defect(scene, dice, kinds=(kind,), on=on)
    clean, flawed = render(scene, size=128), render(replace(scene, defects=(defect,)), size=128)
    changed = (clean.pixels != flawed.pixels).any(axis=2)
    assert np.array_equal(changed, flawed.flaw)
    assert 5 < changed.sum() < 0.12 * changed.size
    rows, columns = np.nonzero(changed)
    reach = defect.extent * 0.8 + 0.02
    assert np.abs(columns / 128 - defect.x).max() < reach
    assert np.abs(rows / 128 - defect.y).max() < reach


@pytest.mark.parametrize("diameter", [10, 13, 21, 29, 60, 101])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_broken_thing_lacks_a_visible_part_however_small(shape: str, diameter: int):
    for tilt in range(3):
        whole = sprite(shape, diameter, tilt, -1).alpha.sum()
        for damage in range(4):
            assert 0.6 < sprite(shape, diameter, tilt, damage).alpha.sum() / whole < 0.9
