"""Shortcuts planted at a known strength: an attribute that goes with the class although it need not.

The class of a scene is the shape of its first thing, and its word is the caption's and the label's. Strength s makes
the attribute the class's partner with probability s and leaves it to chance otherwise, so with k equally likely
values the partner is seen with probability s + (1 - s) / k: at 0 the attribute tells nothing, at 1 everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tether.core.errors import InputError
from tether.core.ranges import Share, checked
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, SHAPES, TEXTURES, Dice, Scene, World

BiasKind = Literal["colour", "texture", "background"]
_TRIES = 200


def _colour_partners() -> dict[str, str]:
    """For each shape a colour of its own, never a held-out pair."""
    found: dict[str, str] = {}
    for shape in SHAPES:
        found[shape] = next(c for c in COLOURS if c not in found.values() and (c, shape) not in HELD_OUT_PAIRS)
    return found


PARTNERS: dict[str, dict[str, str]] = {
    "colour": _colour_partners(),
    "texture": {shape: TEXTURES[index % len(TEXTURES)] for index, shape in enumerate(SHAPES)},
    "background": dict(zip(SHAPES, BACKGROUNDS, strict=True)),
}
"""For each kind of bias the value that goes with each shape."""


@dataclass(frozen=True, slots=True)
class Biased:
    """A scene of a biased world.

    Attributes:
        scene: what is seen.
        label: its class, the shape of the first thing.
        aligned: whether the first thing has its class's partner, by bias or by chance.
    """

    scene: Scene
    label: str
    aligned: bool


@checked
def draw_biased(world: World, dice: Dice, *, kind: BiasKind, strength: Share) -> Biased:
    """A scene in which an attribute goes with the class.

    Args:
        world: what scenes are drawn from; must hold the partner values of its shapes.
        dice: draws.
        kind: ``colour`` (goes with the class word), ``texture`` (with the label) or ``background`` (with the class).
        strength: 0 to 1.
    """
    values = {"colour": world.colours, "texture": world.textures, "background": world.backgrounds}[kind]
    label = dice.pick(world.shapes)
    partner = PARTNERS[kind][label]
    value = partner if dice.chance(strength) else _chance_value(world, dice, kind, label, values)
    for _ in range(_TRIES):
        scene = _force(world.draw(dice), world, dice, kind, label, value)
        if world.allows(scene):
            return Biased(scene, label, value == partner)
    raise InputError(f"scenes: bias: this world has no scene of a {label} with {kind} {value!r}")


def _chance_value(world: World, dice: Dice, kind: BiasKind, label: str, values: tuple[str, ...]) -> str:
    if kind != "colour":
        return dice.pick(values)
    shown = {colour for name in world.backgrounds for colour, shape in world.pairs_on(name) if shape == label}
    return dice.pick([colour for colour in values if colour in shown])


def _force(scene: Scene, world: World, dice: Dice, kind: BiasKind, label: str, value: str) -> Scene:
    """The scene with the class and value given to its first thing; what cannot stay beside them changes."""
    first, rest = replace(scene.things[0], shape=label), scene.things[1:]
    if kind == "texture":
        return replace(scene, things=(replace(first, texture=value), *rest))
    if kind == "background":
        moved = replace(scene, background=value)
        colours = [colour for colour, shape in world.pairs_on(value) if shape == label] if value in BACKGROUNDS else []
        return replace(moved, things=(replace(first, colour=dice.pick(colours)), *rest)) if colours else moved
    things = (replace(first, colour=value), *rest)
    homes = [name for name in world.backgrounds if (value, label) in world.pairs_on(name)]
    return replace(scene, things=things, background=dice.pick(homes)) if homes else replace(scene, things=things)
