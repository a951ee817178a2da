"""Numbers seen so far, and exact percentiles of them at a cost that does not grow with their count.

The full history is two sorted lists: a long one, and a short one of the last few. A number enters the short list by one
pass over it, and a rank in both together is found by binary search; when the short list is full the two become one.
``add`` and ``percentile`` never wait for a device: places that hold no number hold infinity, which sorts last.
"""

from __future__ import annotations

import abc
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

RECENT = 256
"""Numbers held in the short list: each new one passes over all of them, and every 256 steps both lists are sorted."""


class History(abc.ABC):
    """A multiset of finite numbers, as float64 where the device has it."""

    def __init__(self) -> None:
        """Start empty, on the CPU."""
        self.count = torch.tensor(0)
        self.dtype = torch.float64

    @abc.abstractmethod
    def add(self, value: Float[Tensor, ""], *, keep: Tensor) -> None:
        """Put in one number, but only where ``keep`` (0-d bool) holds."""

    @abc.abstractmethod
    def ranked(self, rank: Tensor) -> Float[Tensor, ""]:
        """The number of 0-based ``rank`` (0-d int64, below ``count``) in ascending order."""

    @abc.abstractmethod
    def numbers(self) -> Float[Tensor, " count"]:
        """A copy of what is held; only its order is the subclass's own."""

    @abc.abstractmethod
    def load(self, numbers: Float[Tensor, " count"]) -> None:
        """Hold these instead, given in the order of ``numbers``."""

    def to(self, like: Tensor) -> None:
        """Move to the device and type of ``like``."""
        self.count, self.dtype = self.count.to(like.device), like.dtype

    def percentile(self, percent: float) -> Float[Tensor, ""]:
        """The ``percent`` percentile (0 to 100), linear between neighbours as ``numpy.percentile``; needs a number."""
        place = (self.count - 1).clamp(min=0).to(self.dtype) * (percent / 100)
        below = place.floor()
        return torch.lerp(self.ranked(below.long()), self.ranked(place.ceil().long()), place - below)


class FullHistory(History):
    """Every number ever put in; ``numbers`` gives them in ascending order."""

    def __init__(self) -> None:
        """Start empty, on the CPU."""
        super().__init__()
        self._sorted = torch.zeros(0, dtype=torch.float64)
        self._recent = torch.full((RECENT,), math.inf, dtype=torch.float64)
        self._calls = 0

    def add(self, value: Float[Tensor, ""], *, keep: Tensor) -> None:
        """Put in one number, but only where ``keep`` holds."""
        if self._calls == RECENT:
            self._sorted = torch.cat([self._sorted, self._recent]).sort().values
            self._recent = torch.full_like(self._recent, math.inf)
            self._calls = 0
        self._recent = _insert(self._recent, torch.where(keep, value, math.inf))
        self._calls += 1
        self.count = self.count + keep

    def ranked(self, rank: Tensor) -> Float[Tensor, ""]:
        """The number of this rank in both lists together."""
        if not len(self._sorted):
            return self._recent.take(rank)
        ranks = torch.searchsorted(self._sorted, self._recent, right=True)
        ranks = ranks + torch.arange(RECENT, device=ranks.device)  # of the short list's numbers, all different
        earlier = (ranks < rank).sum()
        old = self._sorted.take((rank - earlier).clamp(max=len(self._sorted) - 1))
        return torch.where((ranks == rank).any(), self._recent.take(earlier.clamp(max=RECENT - 1)), old)

    def numbers(self) -> Float[Tensor, " count"]:
        """All of them, ascending."""
        return torch.cat([self._sorted, self._recent]).sort().values[: int(self.count)].clone()

    def load(self, numbers: Float[Tensor, " count"]) -> None:
        """Hold these instead."""
        self._sorted = numbers.to(self._recent, copy=True).sort().values
        self._recent = torch.full_like(self._recent, math.inf)
        self._calls = 0
        self.count = torch.tensor(len(numbers), device=self._recent.device)

    def to(self, like: Tensor) -> None:
        """Move to the device and type of ``like``."""
        super().to(like)
        self._sorted, self._recent = self._sorted.to(like), self._recent.to(like)


class Window(History):
    """The last ``size`` numbers; ``numbers`` gives them from the oldest to the newest."""

    def __init__(self, size: int) -> None:
        """Args: size: how many are held (>= 1)."""
        super().__init__()
        self._ring = torch.full((size,), math.inf, dtype=torch.float64)
        self._sorted = self._ring.clone()
        self._place = torch.tensor(0)

    def add(self, value: Float[Tensor, ""], *, keep: Tensor) -> None:
        """Put in one number in place of the oldest, but only where ``keep`` holds."""
        place = self._place.view(1)
        oldest = self._ring.gather(0, place)
        leaving = torch.where(keep, oldest, math.inf)
        following = torch.cat([self._sorted[1:], torch.full_like(oldest, math.inf)])
        left = torch.where(self._sorted >= leaving, following, self._sorted)
        entered = _insert(left, torch.where(keep, value, math.inf))
        self._sorted = torch.where(keep, entered, self._sorted)
        self._ring = self._ring.scatter(0, place, torch.where(keep, value, oldest))
        self._place = (self._place + keep) % len(self._ring)
        self.count = (self.count + keep).clamp(max=len(self._ring))

    def ranked(self, rank: Tensor) -> Float[Tensor, ""]:
        """The number of this rank."""
        return self._sorted.take(rank)

    def numbers(self) -> Float[Tensor, " count"]:
        """From the oldest to the newest."""
        count = int(self.count)
        first = int(self._place) if count == len(self._ring) else 0
        return self._ring.roll(-first)[:count].clone()

    def load(self, numbers: Float[Tensor, " count"]) -> None:
        """Hold these instead, oldest first.

        Raises:
            InputError: more than fit.
        """
        size = len(self._ring)
        if len(numbers) > size:
            raise InputError(f"a window of {size} cannot hold a history of {len(numbers)}")
        self._ring = torch.full_like(self._ring, math.inf)
        self._ring[: len(numbers)] = numbers.to(self._ring)
        self._sorted = self._ring.sort().values
        self._place = torch.tensor(len(numbers) % size, device=self._ring.device)
        self.count = torch.tensor(len(numbers), device=self._ring.device)

    def to(self, like: Tensor) -> None:
        """Move to the device and type of ``like``."""
        super().to(like)
        self._ring, self._sorted, self._place = self._ring.to(like), self._sorted.to(like), self._place.to(like.device)


def _insert(ascending: Float[Tensor, " n"], value: Float[Tensor, ""]) -> Float[Tensor, " n"]:
    """Put a number in its place, drop the last: each place takes the middle of its number, its left's and the new."""
    before = torch.cat([torch.full_like(ascending[:1], -math.inf), ascending[:-1]])
    return torch.maximum(before, torch.minimum(ascending, value))
