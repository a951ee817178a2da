"""A made world of people in clothes: figures of a disc, capsules and a trapeze, with masks of their parts.

Drawn by formula, so nothing here is an image of a person, and no figure on it says anything about photos of people.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Float, UInt8

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.scenes.backgrounds import background
from tether.data.sets.scenes.world import BACKGROUND_VARIANTS, COLOURS

PEOPLE_VERSION = 1
"""Counted up when the same seed would give another image or caption."""
GARMENTS = ("dress", "shirt", "suit")
"""A shirt is over dark trousers; a suit has trousers of its own colour."""
SHADES = ("red", "orange", "green", "blue", "purple", "pink")
PATTERNS = ("plain", "striped", "dotted")
SLEEVES = ("short", "long")
GROUNDS = ("paper", "snow", "stone", "sand")
SKINS = ((240, 205, 175), (200, 150, 115), (120, 80, 55))
HAIRS = ((40, 30, 28), (130, 80, 40), (225, 190, 110))
ARMS, STANCES = (0.35, 0.95, 1.55), (0.0, 0.06)
"""Angles of an arm from straight down, in radians, and how far a foot is to the side, as a share of the image."""
PARTS = ("ground", "head", "torso", "left arm", "right arm", "legs")
"""What a number of a mask means; a skirt is of the torso, and left is left in the image."""
Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_TROUSERS = (62, 62, 74)
_LIGHT = 0.62
"""How far the second tone of a pattern is on the way to white."""
Plane = Float[np.ndarray, "h w"]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Person:
    """One figure; lengths and places are shares of the image's side.

    Attributes:
        garment: one of ``GARMENTS``.
        colour: one of ``SHADES``.
        pattern: one of ``PATTERNS``.
        sleeve: one of ``SLEEVES``.
        skin: number in ``SKINS``.
        hair: number in ``HAIRS``.
        x: of the middle of the shoulders.
        head: how far the head is beside it.
        arms: angles of the left and the right arm, of ``ARMS``.
        stance: of ``STANCES``.
        ground: one of ``GROUNDS``.
        variant: drawing of the ground.
    """

    garment: str
    colour: str
    pattern: str
    sleeve: str
    skin: int
    hair: int
    x: float
    head: float
    arms: tuple[float, float]
    stance: float
    ground: str
    variant: int


def draw_person(rng: np.random.Generator) -> Person:
    """One by chance, every look as likely as the others."""

    def one(values: tuple[Value, ...]) -> Value:
        return values[int(rng.integers(len(values)))]

    return Person(
        one(GARMENTS), one(SHADES), one(PATTERNS), one(SLEEVES), int(rng.integers(len(SKINS))),
        int(rng.integers(len(HAIRS))), rng.uniform(0.48, 0.52), rng.uniform(-0.02, 0.02), (one(ARMS), one(ARMS)),
        one(STANCES), one(GROUNDS),
        int(rng.integers(BACKGROUND_VARIANTS)),
    )  # fmt: skip


def described(person: Person) -> str:
    """A caption that says garment, colour, pattern and sleeves."""
    pattern = "" if person.pattern == "plain" else f"{person.pattern} "
    article = "an" if not pattern and person.colour[0] in "aeiou" else "a"
    return f"a person in {article} {pattern}{person.colour} {person.garment} with {person.sleeve} sleeves"


def draw_figure(person: Person, *, size: int = 64) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Pixels, and for each the number of its part in ``PARTS``.

    Args:
        person: who is drawn.
        size: side in pixels; the ground is that of a larger drawing made smaller where it is below 64.

    Example:
        >>> import numpy as np
        >>> from tether.data.sets.people import PARTS, draw_figure, draw_person
        >>> pixels, parts = draw_figure(draw_person(np.random.default_rng(0)), size=32)
        >>> pixels.shape, len(np.unique(parts)) == len(PARTS)
        ((32, 32, 3), True)
    """
    times = max(1, -(-64 // size))
    ground = background(person.ground, person.variant, size * times).astype(np.float64)
    pixels = ground.reshape(size, times, size, times, 3).mean(axis=(1, 3))
    parts = np.zeros((size, size), dtype=np.uint8)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    cloth, skin = _cloth(person, x, y), np.array(SKINS[person.skin], dtype=np.float64)

    def lay(distance: Plane, paint: np.ndarray, part: str | None = None) -> None:
        """Lay paint where the distance to an outline is below 0, smooth over a pixel."""
        cover = np.clip(0.5 - distance * size, 0, 1)
        pixels[:] = pixels * (1 - cover[..., None]) + paint * cover[..., None]
        if part is not None:
            parts[cover >= 0.5] = PARTS.index(part)

    shoulder, hip, knee, foot = 0.33, 0.58, 0.75, 0.93
    for side in (-1, 1):
        start, end = (person.x + side * 0.05, hip), (person.x + side * (0.05 + person.stance), foot)
        bare = person.garment == "dress"
        trousers = cloth if person.garment == "suit" else np.array(_TROUSERS, dtype=np.float64)
        lay(_capsule(x, y, start, end, 0.042), skin if bare else trousers, "legs")
    for side, angle, part in ((-1, person.arms[0], "left arm"), (1, person.arms[1], "right arm")):
        way = np.array((side * np.sin(angle), np.cos(angle)))
        start = np.array((person.x + side * 0.095, shoulder + 0.035))
        lay(_capsule(x, y, start, start + 0.27 * way, 0.034), skin, part)
        lay(_capsule(x, y, start, start + (0.1 if person.sleeve == "short" else 0.23) * way, 0.042), cloth, part)
    lay(_trapeze(x - person.x, y, shoulder, hip, 0.125, 0.09), cloth, "torso")
    if person.garment == "dress":
        lay(_trapeze(x - person.x, y, hip - 0.02, knee, 0.09, 0.17), cloth, "torso")
    middle = (person.x + person.head, 0.2)
    lay(_capsule(x, y, (person.x, shoulder), middle, 0.035), skin, "head")
    lay(_disc(x, y, (middle[0], middle[1] - 0.015), 0.105), np.array(HAIRS[person.hair], dtype=np.float64), "head")
    lay(_disc(x, y, (middle[0], middle[1] + 0.02), 0.085), skin, "head")
    for side in (-1, 1):
        lay(_disc(x, y, (middle[0] + side * 0.033, middle[1] + 0.015), 0.014), np.array((30.0, 30.0, 34.0)))
    return pixels.round().astype(np.uint8), parts


def _cloth(person: Person, x: Plane, y: Plane) -> Float[np.ndarray, "h w 3"]:
    fill = np.array(COLOURS[person.colour], dtype=np.float64)
    period = 0.125
    if person.pattern == "striped":
        second = (y % period) < period / 2
    elif person.pattern == "dotted":
        u, v = (x - person.x) % period - period / 2, y % period - period / 2
        second = u**2 + v**2 < (0.3 * period) ** 2
    else:
        second = np.zeros(x.shape, dtype=bool)
    return np.where(second[..., None], fill * (1 - _LIGHT) + 255 * _LIGHT, fill)


def _disc(x: Plane, y: Plane, middle: tuple[float, float], radius: float) -> Plane:
    return np.hypot(x - middle[0], y - middle[1]) - radius


def _capsule(x: Plane, y: Plane, start: np.ndarray | tuple[float, float], end: np.ndarray | tuple[float, float],
             radius: float) -> Plane:  # fmt: skip
    """Distance to a line with round ends, below 0 inside."""
    (ax, ay), (bx, by) = start, end
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    along = np.clip(along, 0, 1)
    return np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) - radius


def _trapeze(x: Plane, y: Plane, top: float, bottom: float, upper: float, lower: float) -> Plane:
    """Distance to the nearest side of a trapeze about x = 0, below 0 inside; upper and lower are half its widths."""
    half = upper + (lower - upper) * np.clip((y - top) / (bottom - top), 0, 1)
    return np.maximum(np.maximum(top - y, y - bottom), np.abs(x) - half)


class PeopleSet(IndexedSource):
    """Figures drawn on the fly; row i of a split is the same whatever is read before it.

    Each row has a caption, and in ``meta`` all of ``Person`` and ``labels``, the part of each pixel.

    Args:
        split: ``train``, ``validation`` or ``test``.
        rows: how many.
        size: side in pixels, 16 to 224.
        seed: another seed is another set of the same kind.

    Example:
        >>> from tether.data.sets.people import PeopleSet
        >>> PeopleSet(rows=1, seed=1).row(0).texts
        ('a person in a dotted blue shirt with long sleeves',)
    """

    name = "people"
    block_rows = 512

    @checked
    def __init__(
        self,
        *,
        split: Split = "train",
        rows: Annotated[int, Ge(1), Le(2**40)] = 10_000,
        size: Annotated[int, Ge(16), Le(224)] = 64,
        seed: Whole = 0,
    ) -> None:
        """Check the settings; nothing is drawn yet."""
        self.split, self.count, self.size, self.seed = split, rows, size, seed
        self.version = str(PEOPLE_VERSION)

    def __len__(self) -> int:
        """Number of figures."""
        return self.count

    def person(self, index: int) -> Person:
        """Who is in a row.

        Raises:
            InputError: no such row.
        """
        if not 0 <= index < self.count:
            raise InputError(f"people: row {index} asked of {self.count}")
        return draw_person(np.random.default_rng([self.seed, _SPLITS.index(self.split), index]))

    def row(self, index: int) -> Row:
        """One figure."""
        person = self.person(index)
        pixels, parts = draw_figure(person, size=self.size)
        meta = {**asdict(person), "arms": list(person.arms), "labels": parts}
        return Row(f"{self.split}/{self.seed}/{index:08d}", pixels, (described(person),), meta)
