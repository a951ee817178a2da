"""The one thing that texts are drawn with: numbers in [0, 1) from any generator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from tether.core.hash_rng import hash_int
from tether.core.runtime_protocol import ByAttributes

Value = TypeVar("Value")


@runtime_checkable
class Chance(Protocol, metaclass=ByAttributes):
    """A generator of uniform numbers: ``random.Random`` and ``numpy.random.Generator`` are ones."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


def below(count: int, *, generator: Chance) -> int:
    """A whole number from 0 to ``count`` - 1."""
    return min(int(generator.random() * count), count - 1)


def one_of(values: Sequence[Value], *, generator: Chance) -> Value:
    """One of the values, each as likely."""
    return values[below(len(values), generator=generator)]


def shuffled(values: Sequence[Value], *, generator: Chance) -> list[Value]:
    """The values in random order."""
    left = list(values)
    for last in range(len(left) - 1, 0, -1):
        other = below(last + 1, generator=generator)
        left[last], left[other] = left[other], left[last]
    return left


def of_key(key: str, *, seed: int, salt: str) -> random.Random:
    """A generator that depends on a key alone, so that any engine, order or shard draws the same."""
    whole = key.encode("utf-8", "replace").decode("utf-8")  # a caption may hold half of a character
    return random.Random(hash_int(whole, seed=seed, salt=salt))
