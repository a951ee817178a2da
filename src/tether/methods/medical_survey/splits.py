"""Splits that keep every patient on one side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.evaluate.groups import Labels, listed

SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


@dataclass(frozen=True, slots=True)
class GroupSplit:
    """Which part each row belongs to.

    Attributes:
        names: of the parts.
        part: (n,) number of each row's part.
    """

    names: tuple[str, ...]
    part: Int[np.ndarray, " n"]

    def rows(self, name: str) -> Int[np.ndarray, " m"]:
        """Places of the rows of one part, in order."""
        if name not in self.names:
            raise InputError(f"no part {name!r}; known: {', '.join(self.names)}")
        return np.flatnonzero(self.part == self.names.index(name))


def group_split(groups: Labels, *, shares: Mapping[str, float] = SHARES, seed: int = 0) -> GroupSplit:
    """Put every group, such as a patient, into one part by a hash of its name.

    A group's part depends on its name and the seed alone: it stays there when other rows come or go, on any machine.
    The numbers 1 and 1.0 are one name.
    So the shares are met on average, as far as the number of groups allows.

    Args:
        groups: (n,) whose row each is.
        shares: of the groups in each part, adding up to 1.
        seed: another one gives another split.

    Raises:
        InputError: no row, a row without a group, shares that do not add up to 1, or a part that came out empty.
    """
    total = sum(shares.values())
    if not shares or abs(total - 1) > 1e-9 or not all(share > 0 for share in shares.values()):
        raise InputError(f"shares: expected numbers above 0 that add up to 1, got {dict(shares)}")
    names = _names(groups, what="groups")
    if not names:
        raise InputError("groups: expected at least one row, got none")
    distinct = tuple(dict.fromkeys(names))
    edges = np.cumsum(list(shares.values()))[:-1]
    drawn = np.searchsorted(edges, hash_uniform(distinct, seed=seed, salt="group split"), side="right")
    place = dict(zip(distinct, drawn.tolist(), strict=True))
    part = np.array([place[name] for name in names], dtype=np.int64)
    for number, name in enumerate(shares):
        if not (drawn == number).any():
            raise InputError(f"part {name!r} has none of the {len(distinct)} groups: take another seed, or fewer parts")
    return GroupSplit(tuple(shares), part)


def check_apart(splits: Mapping[str, Labels]) -> None:
    """See that no group, such as a patient, stands in two parts of a split that was made elsewhere.

    Args:
        splits: for each part the group of each of its rows.

    Raises:
        InputError: a group in two parts; it says how many there are and names the first.
    """
    owner: dict[str, str] = {}
    for part, groups in splits.items():
        mine = dict.fromkeys(_names(groups, what=part))
        both = [name for name in mine if name in owner]
        if both:
            raise InputError(
                f"{len(both)} groups stand in both {owner[both[0]]!r} and {part!r}, the first is {both[0]!r}: what is "
                "measured there was seen in training"
            )
        owner.update(dict.fromkeys(mine, part))


def _names(groups: Labels, *, what: str) -> list[str]:
    values = listed(groups)
    for place, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
            raise InputError(f"{what}: row {place} has no group, so it cannot be kept on one side")
    # A column with a gap is read as floats: 1.0 there is the patient 1 of another table.
    return [str(int(value) if isinstance(value, float) and value.is_integer() else value) for value in values]
