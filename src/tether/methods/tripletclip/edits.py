"""Edited scenes with the instruction that leads from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tether.core.ranges import checked
from tether.data.sets.scenes.captions import PLACES, noun, whereabouts, with_article
from tether.data.sets.scenes.negatives import ANY_WORLD
from tether.data.sets.scenes.world import BACKGROUNDS, DIAMETERS, TEXTURES, Dice, Scene, Thing, World, free

EditKind = Literal["recolour", "reshape", "resize", "retexture", "break", "mend", "move", "remove", "add", "background"]
EDITS: tuple[EditKind, ...] = get_args(EditKind)
_TRIES = 60
_LEAST_MOVE = 0.25  # of the side, so that a move is seen
_CLEAR = 0.06  # from the lines between left, middle and right, so that a place word is beyond doubt


@dataclass(frozen=True, slots=True)
class Edit:
    """A scene, what shall be done to it, and the scene in which exactly that is done."""

    kind: EditKind
    instruction: str
    before: Scene
    after: Scene


@checked
def draw_edit(scene: Scene, dice: Dice, *, kind: EditKind, world: World = ANY_WORLD) -> Edit | None:
    """A random edit of one kind; None when the scene allows none (nothing broken to mend, no room to add).

    The result is a scene that ``world`` could have drawn. ``instruction`` names things by colour and shape, which no
    two things of a scene share.
    """
    for _ in range(_TRIES):
        found = _MAKERS[kind](scene, dice, world)
        if found is not None and world.allows(found[1]):
            return Edit(kind, found[0], scene, found[1])
    return None


Made = tuple[str, Scene] | None


def _swap_in(scene: Scene, old: Thing, new: Thing) -> Scene:
    return replace(scene, things=tuple(new if thing is old else thing for thing in scene.things))


def _clearly_placed(thing: Thing) -> bool:
    return min(abs(at - line) for at in (thing.x, thing.y) for line in (0.4, 0.6)) >= _CLEAR


def _recolour(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    colour = dice.pick(world.colours)
    if colour == thing.colour:
        return None
    return f"make the {noun(thing)} {colour}", _swap_in(scene, thing, replace(thing, colour=colour))


def _reshape(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    shape = dice.pick(world.shapes)
    if shape == thing.shape:
        return None
    return f"turn the {noun(thing)} into {with_article(shape)}", _swap_in(scene, thing, replace(thing, shape=shape))


def _resize(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    size = dice.pick(world.sizes)
    if size == thing.size:
        return None
    low, high = DIAMETERS[size]
    new = replace(thing, size=size, units=low + dice.below(high - low + 1))
    return f"make the {noun(thing)} {size}", _swap_in(scene, thing, new)


def _retexture(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    texture = dice.pick(TEXTURES)
    if texture == thing.texture or texture not in world.textures:
        return None
    return f"make the {noun(thing)} {texture}", _swap_in(scene, thing, replace(thing, texture=texture))


def _break(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    if thing.state == "broken":
        return None
    return f"break the {noun(thing)}", _swap_in(scene, thing, replace(thing, state="broken"))


def _mend(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    if thing.state == "whole":
        return None
    return f"mend the {noun(thing)}", _swap_in(scene, thing, replace(thing, state="whole"))


def _move(scene: Scene, dice: Dice, world: World) -> Made:
    thing = dice.pick(scene.things)
    radius = thing.units / 128
    new = replace(thing, x=dice.uniform(radius, 1 - radius), y=dice.uniform(radius, 1 - radius))
    far = (new.x - thing.x) ** 2 + (new.y - thing.y) ** 2 >= _LEAST_MOVE**2
    if new.place == thing.place or not far or not _clearly_placed(new):
        return None
    return f"move the {noun(thing)} so that it is {whereabouts(new)}", _swap_in(scene, thing, new)


def _remove(scene: Scene, dice: Dice, world: World) -> Made:
    if len(scene.things) == 1:
        return None
    gone = dice.pick(scene.things)
    things = tuple(thing for thing in scene.things if thing is not gone)
    return f"remove the {noun(gone)}", replace(scene, things=things)


def _add(scene: Scene, dice: Dice, world: World) -> Made:
    if len(scene.things) >= 4:
        return None
    colour, shape = dice.pick(world.pairs_on(scene.background))
    size = dice.pick(world.sizes)
    low, high = DIAMETERS[size]
    units = low + dice.below(high - low + 1)
    radius = units / 128
    x, y = dice.uniform(radius, 1 - radius), dice.uniform(radius, 1 - radius)
    if not free(x, y, radius, [((thing.x, thing.y), thing.units / 128) for thing in scene.things]):
        return None
    new = Thing(shape, colour, size, dice.pick(world.textures), "whole", x, y, units, 0, 0, dice.uniform(-1, 1))
    if not _clearly_placed(new):
        return None
    words = noun(new, details=("size", "texture", "colour"))
    return f"add {with_article(words)} {whereabouts(new)}", replace(scene, things=(*scene.things, new))


def _background(scene: Scene, dice: Dice, world: World) -> Made:
    background = dice.pick(tuple(BACKGROUNDS))
    if background == scene.background or background not in world.backgrounds:
        return None
    return f"put everything {PLACES[background]}", replace(scene, background=background)


_MAKERS: dict[EditKind, Callable[[Scene, Dice, World], Made]] = {
    "recolour": _recolour,
    "reshape": _reshape,
    "resize": _resize,
    "retexture": _retexture,
    "break": _break,
    "mend": _mend,
    "move": _move,
    "remove": _remove,
    "add": _add,
    "background": _background,
}
