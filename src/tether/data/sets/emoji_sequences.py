"""What a sequence of emoji code points is made of: its base, its skin tones, its gender.

Unicode Technical Standard #51 builds "woman technologist: dark skin tone" from a person, a tone, a joiner and a
laptop. Two emoji have the same *base* when only tone, gender, text/colour presentation or the direction they face
tells them apart; a split by base therefore never shows a sibling of a held-out emoji.
"""

from __future__ import annotations

from typing import Literal

Gender = Literal["", "man", "woman"]

JOINER, COLOUR = 0x200D, 0xFE0F
TONES = {
    0x1F3FB: "light",
    0x1F3FC: "medium-light",
    0x1F3FD: "medium",
    0x1F3FE: "medium-dark",
    0x1F3FF: "dark",
}
_MALE, _FEMALE, _RIGHTWARDS = 0x2642, 0x2640, 0x27A1
_MEN = {0x1F468, 0x1F466, 0x1F474, 0x1F934, 0x1F385, 0x1F57A, 0x1FAC3, 0x1F46C, _MALE}
_WOMEN = {0x1F469, 0x1F467, 0x1F475, 0x1F478, 0x1F936, 0x1F483, 0x1F930, 0x1F46D, _FEMALE}
_NEUTRAL = {
    0x1F468: 0x1F9D1,  # man, woman: person
    0x1F469: 0x1F9D1,
    0x1F466: 0x1F9D2,  # boy, girl: child
    0x1F467: 0x1F9D2,
    0x1F474: 0x1F9D3,  # old man, old woman: older person
    0x1F475: 0x1F9D3,
    0x1F934: 0x1FAC5,  # prince, princess: person with crown
    0x1F478: 0x1FAC5,
    0x1F57A: 0x1F483,  # man dancing: woman dancing (there is no neutral one)
    0x1F930: 0x1FAC4,  # pregnant woman, pregnant man: pregnant person
    0x1FAC3: 0x1FAC4,
    0x1F46C: 0x1F46B,  # two men, two women: the couple holding hands
    0x1F46D: 0x1F46B,
}
_SAMES: dict[tuple[int, ...], tuple[int, ...]] = {
    (0x1F385,): (0x1F9D1, JOINER, 0x1F384),  # Santa Claus, Mrs. Claus: Mx Claus
    (0x1F936,): (0x1F9D1, JOINER, 0x1F384),
    (0x1F9D1, JOINER, 0x1F91D, JOINER, 0x1F9D1): (0x1F46B,),  # people holding hands
    (0x1F9D1, JOINER, 0x2764, JOINER, 0x1F9D1): (0x1F491,),  # couple with heart
    (0x1F9D1, JOINER, 0x2764, JOINER, 0x1F48B, JOINER, 0x1F9D1): (0x1F48F,),  # kiss
    (0x1F9D1, JOINER, 0x1F430, JOINER, 0x1F9D1): (0x1F46F,),  # people with bunny ears
    (0x1F9D1, JOINER, 0x1FAEF, JOINER, 0x1F9D1): (0x1F93C,),  # people wrestling
    (0x1FAF1, JOINER, 0x1FAF2): (0x1F91D,),  # handshake of two tones
}
_FAMILY = {0x1F9D1, 0x1F9D2}


def parse(code: str) -> tuple[int, ...]:
    """``"1F44D-1F3FD"`` to its code points."""
    return tuple(int(part, 16) for part in code.split("-"))


def spell(points: tuple[int, ...]) -> str:
    """Code points to ``"1F44D-1F3FD"``."""
    return "-".join(f"{point:04X}" for point in points)


def bare(points: tuple[int, ...]) -> tuple[int, ...]:
    """The sequence without its presentation selectors, which change no drawing here."""
    return tuple(point for point in points if point != COLOUR)


def base(points: tuple[int, ...]) -> tuple[int, ...]:
    """The sequence that all skin tones, genders and directions of one emoji share."""
    kept: list[int] = []
    for point in points:
        if point in (_MALE, _FEMALE, _RIGHTWARDS) and kept and kept[-1] == JOINER:
            kept.pop()
        elif point != COLOUR and point not in TONES:
            kept.append(_NEUTRAL.get(point, point))
    people = kept[::2]
    if len(kept) >= 3 and set(kept[1::2]) == {JOINER} and set(people) <= _FAMILY:
        return (0x1F46A,)  # any family
    found = tuple(kept)
    if not found:
        return bare(points)  # a skin tone swatch on its own
    return _SAMES.get(found, found)


def tones(points: tuple[int, ...]) -> tuple[str, ...]:
    """Skin tones in the order of the people they belong to; empty for the tone-less yellow."""
    return tuple(TONES[point] for point in points if point in TONES) if len(points) > 1 else ()


def gender(points: tuple[int, ...]) -> Gender:
    """``man`` or ``woman`` when the sequence says so of everybody in it, else the empty string."""
    points = bare(points)
    if points in ((_MALE,), (_FEMALE,)):
        return ""  # the signs themselves
    men, women = any(point in _MEN for point in points), any(point in _WOMEN for point in points)
    neutral = 0x1F9D1 in points and (men or women)
    if men == women or neutral:
        return ""
    return "man" if men else "woman"
