"""Rows in NormBank's format by a grammar of ours, to try the loader and the heads; no judgement of anybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tether.core.atomic_io import csv_file
from tether.core.ranges import Count, Share, checked
from tether.data.sets.norms.normbank import LABELS, NormConstraint, format_constraints

COLUMNS = ("setting", "behavior", "setting-behavior", "constraints", "norm", "label")
SETTINGS = ("a reading room", "a night train", "a village fair", "a repair shop", "a swimming hall", "a wedding tent")
BEHAVIOURS = {
    "hum a tune": "loud",
    "call a friend on the phone": "loud",
    "clap hands": "loud",
    "tell a long joke": "loud",
    "eat a boiled egg": "food",
    "share a cake": "food",
    "pour a beer": "drink",
    "drink from a flask": "drink",
    "lift a heavy crate": "work",
    "check the tickets": "staff",
    "switch off the lights": "staff",
    "take off the shoes": "plain",
}
ROLES = ("guest", "guard", "cook", "porter", "musician", "cleaner")
AGES = ("child", "teenager", "adult", "elder")
NOISE = ("silent", "murmuring", "loud")
HOURS = ("morning", "noon", "evening", "midnight")
PLACES = ("norway", "peru", "kenya", "japan")
_AT_WORK = {
    "staff": ("guard", "porter", "cleaner"),
    "work": ("porter", "cleaner"),
    "loud": ("musician",),
    "food": ("cook",),
}
_QUIET = SETTINGS[:2]


@checked
def made_normbank(path: str | Path, *, rows: Count = 3000, noise: Share = 0.05, seed: int = 0) -> Path:
    """Write rows of 6 settings, 12 behaviours and one to three constraints.

    The norm of a row follows rules of what kind of behaviour it is, where, and under which constraints; roles, ages,
    noise and hours can flip it, countries never do. So that constraints matter is by construction; whether a head
    finds it on settings and behaviours that it has not met is not.

    Args:
        path: of the CSV file.
        rows: how many.
        noise: share of rows whose norm is drawn at random instead.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    with csv_file(path, COLUMNS) as table:
        for _ in range(rows):
            setting, behaviour = _one(rng, SETTINGS), _one(rng, tuple(BEHAVIOURS))
            constraints = _drawn(rng)
            norm = _norm(setting, BEHAVIOURS[behaviour], {(one.who, one.name): one for one in constraints})
            if rng.random() < noise:
                norm = _one(rng, LABELS)
            both = f"{setting} [BEHAVIOR] {behaviour}"
            table.write([setting, behaviour, both, format_constraints(constraints), norm, str(LABELS.index(norm))])
    return Path(path)


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _drawn(rng: np.random.Generator) -> tuple[NormConstraint, ...]:
    """One to three constraints in the order of the release: other, person, environment."""
    every = (
        NormConstraint("other", "role", "is", _one(rng, ROLES)),
        NormConstraint("person", "role", "is", _one(rng, ROLES)),
        NormConstraint("person", "age bracket", _one(rng, ("is", "is less than")), _one(rng, AGES)),
        NormConstraint("environment", "country", "is", _one(rng, PLACES)),
        NormConstraint("environment", "noise", "is", _one(rng, NOISE)),
        NormConstraint("environment", "time of day", "is", _one(rng, HOURS)),
    )
    chosen = rng.choice(len(every), size=int(rng.integers(1, 4)), replace=False, p=(0.1, 0.25, 0.2, 0.1, 0.2, 0.15))
    return tuple(every[place] for place in sorted(chosen))


def _norm(setting: str, kind: str, told: dict[tuple[str, str], NormConstraint]) -> str:
    role, age = told.get(("person", "role")), told.get(("person", "age bracket"))
    noise, hour = told.get(("environment", "noise")), told.get(("environment", "time of day"))
    young = age is not None and (
        age.value in ("child", "teenager") or (age.relation == "is less than" and age.value == "adult")
    )
    if role is not None and role.value in _AT_WORK.get(kind, ()):
        return "expected"
    if kind == "drink" and young:
        return "taboo"
    if kind == "staff":
        return "taboo" if role is not None else "normal"
    if kind == "loud":
        if noise is not None:
            return {"silent": "taboo", "murmuring": "normal", "loud": "expected"}[noise.value]
        if hour is not None and hour.value == "midnight":
            return "taboo"
        return "taboo" if setting in _QUIET else "normal"
    if kind == "food":
        return "expected" if hour is not None and hour.value == "noon" else "normal"
    if kind == "work" and age is not None:
        return "taboo" if young or age.value == "elder" else "normal"
    return "normal"
