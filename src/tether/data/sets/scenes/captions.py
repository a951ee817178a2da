"""What is true of a scene, in words: short captions by template family, and long ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tether.core.errors import InputError
from tether.data.sets.scenes.world import ATTRIBUTES, Dice, Scene, Thing

Order = Literal["size", "random", "reading", "given"]

TEMPLATES: dict[str, str] = {
    "plain": "{things}",
    "picture": "a picture of {things}",
    "there": "there is {things}",
    "see": "you can see {things}",
    "shows": "the picture shows {things}",
}
"""Families that training captions use."""

HELD_OUT_TEMPLATES: dict[str, str] = {
    "contains": "this image contains {things}",
    "drew": "someone has drawn {things}",
    "appear": "{things} {appear} in the scene",
    "spot": "can you spot {things}?",
    "view": "here we have a view of {things}",
}
"""Paraphrases that no training caption uses, nor any of their verbs."""

PLACES: dict[str, str] = {
    "paper": "on paper",
    "sky": "in the sky",
    "grass": "on grass",
    "sand": "on sand",
    "wood": "on wood",
    "water": "on water",
    "night": "in the night",
    "snow": "on snow",
    "stone": "on stone",
    "brick": "on a brick wall",
}
"""How each background is said."""

_SPOTS = {
    "middle": "in the middle",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_WORD_ORDER = ("size", "state", "texture", "colour")
_CLEAR = 0.12  # least difference of two centres that a relation is said of


@dataclass(frozen=True, slots=True)
class Detail:
    """One fact of a scene as a sentence.

    Attributes:
        thing: index of the thing, or -1 for the scene as a whole.
        attribute: ``size``, ``texture``, ``state``, ``place`` or ``background``.
        text: the sentence.
    """

    thing: int
    attribute: str
    text: str


def noun(thing: Thing, *, details: Sequence[str] = ("colour",)) -> str:
    """Adjectives and shape without an article, e.g. ``large broken striped red star``."""
    adjectives = [getattr(thing, attribute) for attribute in _WORD_ORDER if attribute in details]
    return " ".join([*adjectives, thing.shape])


def with_article(words: str) -> str:
    """``a`` or ``an`` before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def whereabouts(thing: Thing) -> str:
    """Where a thing is, e.g. ``in the top left`` or ``on the right``."""
    return _SPOTS.get(thing.place) or f"in the {thing.place}"


def in_order(scene: Scene, *, order: Order, dice: Dice | None = None) -> list[int]:
    """Indices of the things: largest first, at random, as one reads, or as the scene lists them."""
    things = scene.things
    indices = list(range(len(things)))
    if order == "size":
        return sorted(indices, key=lambda index: -things[index].units)
    if order == "reading":
        return sorted(indices, key=lambda index: (things[index].y > 0.4, things[index].y > 0.6, things[index].x))
    if order == "random":
        if dice is None:
            raise InputError("scenes: captions in random order need dice")
        return dice.shuffled(indices)
    if order != "given":
        raise InputError(f"scenes: order: expected size, random, reading or given, got {order!r}")
    return indices


def short(
    scene: Scene,
    *,
    template: str = "plain",
    order: Order = "size",
    details: Sequence[str] = ("colour",),
    background: Literal["omit", "say"] = "omit",
    most: int = 4,
    dice: Dice | None = None,
) -> str:
    """A caption that names the things.

    Args:
        scene: what is described.
        template: a key of ``TEMPLATES`` or ``HELD_OUT_TEMPLATES``.
        order: in which the things are named; ``random`` needs ``dice``.
        details: attributes said of each thing, any of ``ATTRIBUTES`` (the shape always is).
        background: whether the background is said at the end.
        most: how many things are named at most, the first in order.
        dice: draws for a random order.
    """
    frame = TEMPLATES.get(template) or HELD_OUT_TEMPLATES.get(template)
    if frame is None:
        known = ", ".join([*TEMPLATES, *HELD_OUT_TEMPLATES])
        raise InputError(f"scenes: template: expected one of {known}, got {template!r}")
    strange = [attribute for attribute in details if attribute not in ATTRIBUTES]
    if strange:
        raise InputError(f"scenes: details: expected some of {', '.join(ATTRIBUTES)}, got {strange}")
    named = in_order(scene, order=order, dice=dice)[:most]
    things = listed([with_article(noun(scene.things[index], details=details)) for index in named])
    if background == "say":
        things = f"{things} {PLACES[scene.background]}"
    return frame.format(things=things, appear="appears" if len(named) == 1 else "appear")


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def details_of(scene: Scene, *, order: Order = "size", dice: Dice | None = None) -> list[Detail]:
    """Facts beyond colours and shapes: the background, then for each thing its place, size, texture and state."""
    found = [Detail(-1, "background", f"Everything is {PLACES[scene.background]}.")]
    for index in in_order(scene, order=order, dice=dice):
        thing = scene.things[index]
        name = f"The {noun(thing)}"
        found += [
            Detail(index, "place", f"{name} is {whereabouts(thing)}."),
            Detail(index, "size", f"{name} is {thing.size}."),
            Detail(index, "texture", f"{name} is {thing.texture}."),
            Detail(index, "state", f"{name} is {thing.state}."),
        ]
    return found


def long(
    scene: Scene,
    *,
    order: Order = "size",
    telling: tuple[int, str] | None = None,
    most: int | None = None,
    dice: Dice | None = None,
) -> str:
    """A caption of many sentences: how many things, which, then one detail after the other.

    Args:
        scene: what is described.
        order: in which the things are named and described.
        telling: (thing, attribute) of the detail to hold back to the very end; thing -1 with ``background`` for that.
        most: how many details are given at most; the telling one always is.
        dice: draws for a random order.
    """
    indices = in_order(scene, order=order, dice=dice)
    arranged = Scene(tuple(scene.things[index] for index in indices), scene.background, scene.variant)
    facts = [
        Detail(indices[detail.thing] if detail.thing >= 0 else -1, detail.attribute, detail.text)
        for detail in details_of(arranged, order="given")
    ]
    last = [detail for detail in facts if (detail.thing, detail.attribute) == telling]
    if telling is not None and not last:
        raise InputError(f"scenes: telling: this scene of {len(indices)} things has no detail {telling}")
    facts = [detail for detail in facts if detail not in last]
    if most is not None:
        facts = facts[: max(0, most - len(last))]
    count = len(indices)
    opening = f"There {'is' if count == 1 else 'are'} {_NUMBERS[count]} {'thing' if count == 1 else 'things'}: "
    opening += listed([with_article(noun(thing)) for thing in arranged.things]) + "."
    return " ".join([opening, *(detail.text for detail in [*facts, *last])])


def relation(first: Thing, second: Thing) -> str | None:
    """How the first lies to the second along the axis that parts them most; None when neither does clearly."""
    right, down = first.x - second.x, first.y - second.y
    if max(abs(right), abs(down)) < _CLEAR:
        return None
    if abs(right) >= abs(down):
        return "to the right of" if right > 0 else "to the left of"
    return "below" if down > 0 else "above"
