"""The values of the synthetic world: what a thing can be, what a scene holds, and how one is drawn at random.

A scene is a plain value; ``render.render`` turns it into pixels and knows no chance, so any change to a scene and a
second rendering shows exactly that change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import numpy as np

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import Share, checked

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring", "hexagon", "moon")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (244, 132, 20),
    "yellow": (250, 214, 40),
    "green": (52, 150, 60),
    "turquoise": (48, 200, 190),
    "blue": (40, 84, 214),
    "purple": (128, 52, 176),
    "pink": (248, 136, 190),
    "brown": (120, 72, 36),
    "black": (28, 28, 30),
    "white": (250, 250, 250),
    "grey": (140, 142, 146),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
STATES = ("whole", "broken")
SIZES: dict[str, tuple[int, int]] = {"small": (10, 13), "medium": (17, 21), "large": (25, 29)}
"""Least and greatest diameter of each size word, in 64ths of the image's side."""
HUGE = "huge"
"""A size that is drawn where asked for, about half of the side: one thing of a scene may have it beside small ones."""
DIAMETERS: dict[str, tuple[int, int]] = {**SIZES, HUGE: (30, 40)}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "paper": ("white", "yellow"),
    "sky": ("turquoise", "white", "blue"),
    "grass": ("green",),
    "sand": ("yellow", "orange"),
    "wood": ("brown", "orange"),
    "water": ("blue", "turquoise"),
    "night": ("black", "blue", "purple", "brown"),
    "snow": ("white", "grey"),
    "stone": ("grey", "black"),
    "brick": ("red", "brown", "orange"),
}
"""Every background with the colours that would not stand out on it; things there never have them."""

ROOMY, MOST_THINGS = 4, 8
"""Up to how many things have room whatever their sizes, and most things of a scene."""
BACKGROUND_VARIANTS = 4
DAMAGES, TILTS = 4, 3
Attribute = Literal["shape", "colour", "size", "texture", "state"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)

_HELD_OUT_SHARE = 0.12
HELD_OUT_PAIRS = frozenset(
    (colour, shape)
    for colour in COLOURS
    for shape in SHAPES
    if hash_uniform([f"{colour} {shape}"], salt="scenes held-out pair")[0] < _HELD_OUT_SHARE
)
"""Pairs of colour and shape that only the split ``compositions`` shows."""

_MARGIN = 1.5 / 64  # between a thing and the image's edge, and half of what lies between two things
_TRIES = 10
_CROWD_TRIES = 30
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape: one of ``SHAPES``.
        colour: one of ``COLOURS``.
        size: one of ``DIAMETERS``.
        texture: one of ``TEXTURES``.
        state: ``whole`` or ``broken``.
        x: centre from the left edge, in [0, 1].
        y: centre from the top edge, in [0, 1].
        units: diameter in 64ths of the image's side.
        tilt: 0 upright, 1 and 2 turned 14 degrees left and right.
        damage: which way a broken one is broken, 0 to 3.
        shade: brightness around the colour, -1 to 1.
    """

    shape: str
    colour: str
    size: str
    texture: str
    state: str
    x: float
    y: float
    units: int
    tilt: int = 0
    damage: int = 0
    shade: float = 0.0

    @property
    def place(self) -> str:
        """Where it lies on a three by three grid, e.g. ``top left`` or ``middle``."""
        column = "left" if self.x < 0.4 else "right" if self.x > 0.6 else ""
        line = "top" if self.y < 0.4 else "bottom" if self.y > 0.6 else ""
        return f"{line} {column}".strip() or "middle"


@dataclass(frozen=True, slots=True)
class TextOverlay:
    """Text in the image.

    Attributes:
        text: what it says, in small letters, digits and spaces.
        kind: ``word`` and ``number`` are opaque labels at the top or bottom, a ``watermark`` lies over everything.
        agrees: whether it is true of the scene: names a thing in it, or counts the things.
        edge: where a label stands.
    """

    text: str
    kind: Literal["word", "number", "watermark"]
    agrees: bool
    edge: Literal["top", "bottom"] = "bottom"


@dataclass(frozen=True, slots=True)
class Defect:
    """A flaw planted in the image.

    Attributes:
        kind: ``scratch``, ``stain``, ``hole`` or ``grain``.
        x: centre from the left edge, in [0, 1].
        y: centre from the top edge, in [0, 1].
        extent: diameter or length as a fraction of the side.
        angle: direction in radians.
        seed: of its outline.
    """

    kind: Literal["scratch", "stain", "hole", "grain"]
    x: float
    y: float
    extent: float
    angle: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything an image shows.

    Attributes:
        things: one to eight, none overlapping, no two alike in colour and shape.
        background: one of ``BACKGROUNDS``.
        variant: which drawing of the background, 0 to 3.
        lettering: text in the image.
        defects: planted flaws.
    """

    things: tuple[Thing, ...]
    background: str = "paper"
    variant: int = 0
    lettering: TextOverlay | None = None
    defects: tuple[Defect, ...] = ()


class Dice:
    """Uniform draws of a generator, taken in batches: the generator alone decides, at a tenth of the cost."""

    __slots__ = ("_left", "_rng")
    _batch = 48

    def __init__(self, rng: np.random.Generator) -> None:
        """Start with no draw taken."""
        self._rng = rng
        self._left: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high)."""
        if not self._left:
            self._left = self._rng.random(self._batch).tolist()
        return low + (high - low) * self._left.pop()

    def below(self, count: int) -> int:
        """An integer from 0 to ``count`` - 1."""
        return int(self.uniform() * count)

    def pick(self, values: Sequence[Value]) -> Value:
        """One of the values."""
        return values[int(self.uniform() * len(values))]

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return self.uniform() < probability

    def shuffled(self, values: Sequence[Value]) -> list[Value]:
        """The values in random order."""
        left = list(values)
        for last in range(len(left) - 1, 0, -1):
            other = int(self.uniform() * (last + 1))
            left[last], left[other] = left[other], left[last]
        return left


@checked
@dataclass(frozen=True, slots=True)
class World:
    """What scenes are drawn from.

    Args:
        things: least and greatest number of things, within 1 to 8. Of five or six all but two are small, of more all
            but one.
        shapes: allowed shapes.
        colours: allowed colours.
        sizes: allowed size words, ``huge`` among them if it shall be.
        textures: allowed textures.
        backgrounds: allowed backgrounds.
        broken: probability that a thing is broken.
        pairs: ``seen`` never shows one of ``HELD_OUT_PAIRS``, ``held_out`` shows at least one, ``all`` does not care.
        counted: a shape, and the least and greatest number of things of it in a scene, all colours being different; a
            scene has as many things more as it needs. None counts none.
    """

    things: tuple[int, int] = (1, 4)
    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = tuple(COLOURS)
    sizes: tuple[str, ...] = tuple(SIZES)
    textures: tuple[str, ...] = TEXTURES
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    broken: Share = 0.2
    pairs: Literal["seen", "held_out", "all"] = "seen"
    counted: tuple[str, int, int] | None = None
    _choices: dict[str, tuple[tuple[str, str], ...]] = field(init=False, repr=False, compare=False)
    _rare: dict[str, tuple[tuple[str, str], ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, and list the pairs that can."""
        low, high = self.things
        if not 1 <= low <= high <= MOST_THINGS:
            limits = f"1 <= least <= greatest <= {MOST_THINGS}"
            raise InputError(f"scenes: things: expected two counts with {limits}, got {self.things}")
        if high > ROOMY and "small" not in self.sizes:
            raise InputError(f"scenes: sizes: more than {ROOMY} things need small ones, got {', '.join(self.sizes)}")
        for key, known in (
            ("shapes", SHAPES),
            ("colours", tuple(COLOURS)),
            ("sizes", tuple(DIAMETERS)),
            ("textures", TEXTURES),
            ("backgrounds", tuple(BACKGROUNDS)),
        ):
            values = getattr(self, key)
            strange = [value for value in values if value not in known]
            if not values or strange:
                raise InputError(f"scenes: {key}: expected some of {', '.join(known)}, got {strange or 'none'}")
        choices, rare = {}, {}
        for background in self.backgrounds:
            visible = [colour for colour in self.colours if colour not in BACKGROUNDS[background]]
            pairs = [(colour, shape) for shape in self.shapes for colour in visible]
            if self.pairs == "seen":
                pairs = [pair for pair in pairs if pair not in HELD_OUT_PAIRS]
            choices[background] = tuple(pairs)
            rare[background] = tuple(pair for pair in pairs if pair in HELD_OUT_PAIRS)
            if len(pairs) < high or (self.pairs == "held_out" and not rare[background]):
                raise InputError(
                    f"scenes: only {len(pairs)} pairs of colour and shape can be told apart on {background!r}"
                    f" ({len(rare[background])} of them held out): allow more colours or shapes"
                )
            self._check_counted(background, pairs)
        object.__setattr__(self, "_choices", choices)
        object.__setattr__(self, "_rare", rare)

    def _check_counted(self, background: str, pairs: Sequence[tuple[str, str]]) -> None:
        if self.counted is None:
            return
        if len(self.counted) != 3 or any(type(one) is not int for one in self.counted[1:]):
            raise InputError(f"scenes: counted: expected a shape and two counts, got {self.counted}")
        shape, least, most = self.counted
        if shape not in self.shapes or self.pairs == "held_out" or not 0 <= least <= most <= self.things[1]:
            raise InputError(
                f"scenes: counted: expected one of {', '.join(self.shapes)} with two counts, 0 <= least <= greatest <= "
                f"{self.things[1]} things, and not held-out pairs; got {self.counted}"
            )
        own = sum(shape == one for _, one in pairs)
        if own < most or len(pairs) - own < self.things[1] - least:
            raise InputError(
                f"scenes: counted: {own} colours of {shape} and {len(pairs) - own} other pairs can be told apart on "
                f"{background!r}, too few for {most} among {self.things[1]}: allow more colours or shapes"
            )

    def pairs_on(self, background: str) -> tuple[tuple[str, str], ...]:
        """Pairs of colour and shape that may lie on a background of this world."""
        return self._choices[background]

    def allows(self, scene: Scene) -> bool:
        """Whether a changed scene is still one of this world: every pair allowed there, no two alike, none touching."""
        pairs = [(thing.colour, thing.shape) for thing in scene.things]
        if len(set(pairs)) < len(pairs) or scene.background not in self._choices:
            return False
        if any(pair not in self._choices[scene.background] for pair in pairs):
            return False
        discs = [((thing.x, thing.y), thing.units / 128) for thing in scene.things]
        return all(
            min(x, y, 1 - x, 1 - y) >= radius and free(x, y, radius, discs[:index])
            for index, ((x, y), radius) in enumerate(discs)
        )

    def draw(self, dice: Dice, *, count: int | None = None) -> Scene:
        """One scene, with ``count`` things instead of a random number if given."""
        background = dice.pick(self.backgrounds)
        low, high = self.things
        wanted = low + dice.below(high - low + 1) if count is None else count
        allowed = self._choices[background]
        pairs: list[tuple[str, str]] = [dice.pick(self._rare[background])] if self.pairs == "held_out" else []
        if self.counted is not None:
            shape, least, most = self.counted
            number = least + dice.below(most - least + 1)
            pairs = dice.shuffled([pair for pair in allowed if pair[1] == shape])[:number]
            wanted, allowed = max(wanted, number), tuple(pair for pair in allowed if pair[1] != shape)
        while len(pairs) < wanted:
            pair = dice.pick(allowed)
            if pair not in pairs:
                pairs.append(pair)
        if self.pairs == "held_out" or self.counted is not None:
            pairs = dice.shuffled(pairs)
        sizes = [dice.pick(self.sizes) for _ in pairs]
        if HUGE in sizes:
            first = sizes.index(HUGE)
            sizes = [HUGE if place == first else "small" for place in range(len(sizes))]
        if len(pairs) > ROOMY:
            sizes, units, places = crowd(sizes, dice)
        else:
            units = [_units(size, dice) for size in sizes]
            places = arrange(units, dice)
        things = tuple(
            Thing(
                shape,
                colour,
                size,
                dice.pick(self.textures),
                "broken" if dice.chance(self.broken) else "whole",
                x,
                y,
                unit,
                dice.below(TILTS),
                dice.below(DAMAGES),
                dice.uniform(-1, 1),
            )
            for (colour, shape), size, unit, (x, y) in zip(pairs, sizes, units, places, strict=True)
        )
        return Scene(things, background, dice.below(BACKGROUND_VARIANTS))


def arrange(units: Sequence[int], dice: Dice) -> list[tuple[float, float]]:
    """Centres for discs of these diameters, none touching another; by quarters when chance finds no room."""
    places: list[tuple[float, float]] = []
    radii = [unit / 128 for unit in units]
    for index, radius in enumerate(radii):
        edge = radius + _MARGIN
        for _ in range(_TRIES):
            x, y = dice.uniform(edge, 1 - edge), dice.uniform(edge, 1 - edge)
            if free(x, y, radius, zip(places, radii[:index], strict=True)):
                places.append((x, y))
                break
        else:
            return _quarters(radii, dice)
    return places


def crowd(sizes: Sequence[str], dice: Dice) -> tuple[list[str], list[int], list[tuple[float, float]]]:
    """Sizes, diameters and centres of five to eight things: what is too many to be large is small."""
    most = 2 if len(sizes) <= 6 else 1
    larger = [place for place, size in enumerate(sizes) if size != "small"][:most]
    sizes = [size if place in larger else "small" for place, size in enumerate(sizes)]
    units = [_units(size, dice) for size in sizes]
    order = sorted(range(len(units)), key=lambda place: -units[place])  # large ones find room first
    for _ in range(_CROWD_TRIES):
        places: dict[int, tuple[float, float]] = {}
        for place in order:
            radius = units[place] / 128
            taken = [(places[other], units[other] / 128) for other in places]
            for _ in range(_CROWD_TRIES):
                x, y = (dice.uniform(radius + _MARGIN, 1 - radius - _MARGIN) for _ in range(2))
                if free(x, y, radius, taken):
                    places[place] = (x, y)
                    break
            else:
                break
        if len(places) == len(units):
            return sizes, units, [places[place] for place in range(len(units))]
    cells = dice.shuffled([((column + 0.5) / 3, (row + 0.5) / 3) for row in range(3) for column in range(3)])
    small = ["small"] * len(sizes)
    return small, [_units(size, dice) for size in small], cells[: len(sizes)]


def _units(size: str, dice: Dice) -> int:
    low, high = DIAMETERS[size]
    return low + dice.below(high - low + 1)


def free(x: float, y: float, radius: float, others: Iterable[tuple[tuple[float, float], float]]) -> bool:
    """Whether a disc stands clear of ``others``, each ((x, y), radius)."""
    for (other_x, other_y), other_radius in others:
        if (x - other_x) ** 2 + (y - other_y) ** 2 < (radius + other_radius + 2 * _MARGIN) ** 2:
            return False
    return True


def _quarters(radii: Sequence[float], dice: Dice) -> list[tuple[float, float]]:
    if max(radii) + _MARGIN > 0.25:  # beside a huge thing in its corner there is room in the others for small ones
        edges = [radius + _MARGIN for radius in radii]
        signs = dice.shuffled([(0, 0), (0, 1), (1, 0), (1, 1)])
        return [(abs(x - edge), abs(y - edge)) for edge, (x, y) in zip(edges, signs, strict=False)]
    quarters = dice.shuffled([(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)])
    places = []
    for radius, (x, y) in zip(radii, quarters, strict=False):
        play = max(0.0, 0.25 - radius - _MARGIN)
        places.append((x + dice.uniform(-play, play), y + dice.uniform(-play, play)))
    return places
