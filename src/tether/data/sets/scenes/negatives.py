"""Near misses: a scene, a caption true of it, and a second scene and caption that differ in one respect only.

Each maker returns None when the scene offers no such change. With ``world`` the changed scene is one that the world
could have drawn: visible colours, allowed pairs, nothing touching.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from tether.core.ranges import checked
from tether.data.sets.scenes.captions import noun, relation, short, with_article
from tether.data.sets.scenes.world import Attribute, Dice, Scene, Thing, World

ANY_WORLD = World(pairs="all")


@dataclass(frozen=True, slots=True)
class Negative:
    """Two scenes and two captions; each caption is true of its own scene and false of the other.

    Attributes:
        kind: ``attribute``, ``relation`` or ``object``.
        scene: the given scene.
        text: true of it.
        other: the changed scene, to be rendered as the hard negative image.
        other_text: true of the changed scene, the hard negative caption.
    """

    kind: Literal["attribute", "relation", "object"]
    scene: Scene
    text: str
    other: Scene
    other_text: str


@checked
def swap_attribute(
    scene: Scene, dice: Dice, *, attribute: Attribute = "colour", template: str = "plain", world: World = ANY_WORLD
) -> Negative | None:
    """A twin in which two things have exchanged one attribute: "a red star and a blue ring", colours swapped."""
    details = ("colour",) if attribute in ("shape", "colour") else ("colour", attribute)
    for first, second in dice.shuffled(list(combinations(range(len(scene.things)), 2))):
        one, two = scene.things[first], scene.things[second]
        if getattr(one, attribute) == getattr(two, attribute):
            continue
        other = _with(scene, {first: _take(one, two, attribute), second: _take(two, one, attribute)})
        told = [
            short(_only(version, first, second), template=template, order="given", details=details)
            for version in (scene, other)
        ]
        if world.allows(other) and not _same_nouns(scene, other, first, second, details):
            return Negative("attribute", scene, told[0], other, told[1])
    return None


def swap_relation(scene: Scene, dice: Dice, *, world: World = ANY_WORLD) -> Negative | None:
    """A twin in which two things have changed places: "a red star above a blue ring" becomes false."""
    for first, second in dice.shuffled(list(combinations(range(len(scene.things)), 2))):
        one, two = scene.things[first], scene.things[second]
        said = relation(one, two)
        other = _with(scene, {first: replace(one, x=two.x, y=two.y), second: replace(two, x=one.x, y=one.y)})
        if said is not None and world.allows(other):
            names = [with_article(noun(thing)) for thing in (one, two)]
            text, other_text = f"{names[0]} {said} {names[1]}", f"{names[1]} {said} {names[0]}"
            return Negative("relation", scene, text, other, other_text)
    return None


def replace_thing(scene: Scene, dice: Dice, *, template: str = "plain", world: World = ANY_WORLD) -> Negative | None:
    """The same scene with another shape in the place of one thing, one that was nowhere in it."""
    present = {thing.shape for thing in scene.things}
    for index in dice.shuffled(range(len(scene.things))):
        for shape in dice.shuffled([shape for shape in world.shapes if shape not in present]):
            other = _with(scene, {index: replace(scene.things[index], shape=shape)})
            if world.allows(other):
                told = [short(version, template=template, order="given") for version in (scene, other)]
                return Negative("object", scene, told[0], other, told[1])
    return None


def _take(thing: Thing, giver: Thing, attribute: Attribute) -> Thing:
    """A thing with one attribute of another, and with it the numbers that draw that attribute."""
    if attribute == "size":
        return replace(thing, size=giver.size, units=giver.units)
    if attribute == "colour":
        return replace(thing, colour=giver.colour, shade=giver.shade)
    if attribute == "shape":
        return replace(thing, shape=giver.shape)
    if attribute == "texture":
        return replace(thing, texture=giver.texture)
    return replace(thing, state=giver.state)


def _with(scene: Scene, changed: dict[int, Thing]) -> Scene:
    things = tuple(changed.get(index, thing) for index, thing in enumerate(scene.things))
    return replace(scene, things=things)


def _only(scene: Scene, *indices: int) -> Scene:
    return replace(scene, things=tuple(scene.things[index] for index in indices))


def _same_nouns(scene: Scene, other: Scene, first: int, second: int, details: tuple[str, ...]) -> bool:
    """Whether the two captions would name the same two things, so that neither is false of the other scene."""
    told = [{noun(version.things[index], details=details) for index in (first, second)} for version in (scene, other)]
    return told[0] == told[1]
