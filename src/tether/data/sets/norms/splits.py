"""Splits that keep a situation, a dialogue or a contract on one side, and the check that others do, too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import Inner, checked
from tether.data.sets.norms.table import SPLITS, NormTable, rows_said

SIZES = (0.8, 0.1)
SEED = 7


@checked
def group_split(
    keys: Sequence[str],
    sizes: tuple[Annotated[float, Gt(0), Lt(1)], Annotated[float, Gt(0), Lt(1)]] = SIZES,
    seed: int = SEED,
) -> tuple[str, ...]:
    """Train, dev or test for each row, drawn over the different keys as NormBank's script draws them.

    Source: arXiv 2305.17008, released src/build_gen_train_file.py: ``random.sample`` of the sorted keys.

    Args:
        keys: what must stay on one side, one a row.
        sizes: share of the keys for train and for dev; the rest is test.
        seed: of Python's generator.

    Example:
        >>> from tether.data.sets.norms import group_split
        >>> group_split(["bus", "bus", "park", "pool", "cafe", "shop"], sizes=(0.6, 0.2))[:2]
        ('train', 'train')
    """
    train, dev = sizes
    if train + dev >= 1:
        raise InputError(f"sizes: expected shares of train and dev below 1 together, got {sizes}")
    rng = random.Random(seed)
    known = sorted(set(keys))
    first = rng.sample(known, int(train * len(known)))
    taken = set(first)
    rest = [key for key in known if key not in taken]
    second = set(rng.sample(rest, int(dev / (1 - train) * len(rest))))
    return tuple("train" if key in taken else "dev" if key in second else "test" for key in keys)


@checked
def group_test_rows(table: NormTable, *, share: Inner = 0.25, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Which rows are held out, 1 or 0: about that share of the groups, by a hash of group and seed alone.

    Groups are drawn within each class of their first label, so that a rare label is on both sides where it can be.

    Raises:
        InputError: fewer than two groups, as nothing can be held out then.
    """
    first = dict(zip(reversed(table.groups), reversed(table.labels), strict=True))
    if len(first) < 2:
        raise InputError(f"{table.name}: expected at least two groups to hold one out, got {len(first)}")
    held: set[str] = set()
    for label in sorted(set(first.values())):
        names = sorted(group for group, its in first.items() if its == label)
        order = np.argsort(hash_uniform(names, seed=seed, salt="norms"), kind="stable")
        held |= {names[place] for place in order[: round(share * len(names))]}
    if not held or len(held) == len(first):
        held = {sorted(first)[0]}
    return np.array([int(group in held) for group in table.groups])


def leave_one_out(table: NormTable, facet: str = "category") -> Iterator[tuple[str, NormTable, NormTable]]:
    """For each value of a facet: the value, the rows of all others to learn from, and its own rows to ask.

    A protocol of ours for NormDial: a category of norms that was never learnt from.

    Raises:
        InputError: a facet that the table has not, or one with a single value.

    Example:
        >>> from tether.data.sets.norms import NormTable, leave_one_out
        >>> table = NormTable(
        ...     "mine", {"turn": ("hi", "sorry")}, ("a", "b"), ("a", "b"), groups=("1", "2"), rows=(2, 3), judged="me",
        ...     facets={"category": ("greeting", "apology")},
        ... )
        >>> [(name, len(train), test.labels) for name, train, test in leave_one_out(table)]
        [('apology', 1, ('b',)), ('greeting', 1, ('a',))]
    """
    if facet not in table.facets:
        raise InputError(f"facet: expected one of {', '.join(table.facets) or 'none'}, got {facet!r:.80}")
    column = np.array(table.facets[facet])
    if len(values := sorted(set(column.tolist()))) < 2:
        raise InputError(f"{table.name}: {facet}: all rows have {values[0]!r:.80}; expected two values at least")
    for value in values:
        yield value, table.taken(np.flatnonzero(column != value)), table.taken(np.flatnonzero(column == value))


def check_disjoint(table: NormTable) -> None:
    """See that no group of a table stands on two sides of its own split.

    Raises:
        InputError: one does; with its row numbers.
    """
    if table.split is None:
        return
    sides: dict[str, set[str]] = {}
    for group, side in zip(table.groups, table.split, strict=True):
        sides.setdefault(group, set()).add(side)
    if both := [group for group, found in sides.items() if len(found) > 1]:
        rows = [row for row, group in zip(table.rows, table.groups, strict=True) if group == both[0]]
        said = " and ".join(side for side in SPLITS if side in sides[both[0]])
        more = f"; {len(both) - 1} more groups are" if len(both) > 1 else ""
        raise InputError(f"{table.name}: group {both[0]!r:.80} is in {said} ({rows_said(rows)}){more}")


def check_apart(train: NormTable, test: NormTable) -> None:
    """See that two tables share no group.

    Raises:
        InputError: they do; with the rows of the second.
    """
    known = set(train.groups)
    odd = [row for row, group in zip(test.rows, test.groups, strict=True) if group in known]
    if odd:
        group = next(group for group in test.groups if group in known)
        raise InputError(
            f"{test.name}: {rows_said(odd)}: group {group!r:.80} is also in {train.name}, which is learnt from"
        )
