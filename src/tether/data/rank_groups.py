"""Whole groups of images that are ordered by one text, each a batch (arXiv 2412.06760)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Decay, checked
from tether.core.types import Batch


class RankGroups:
    """Endless batches, each images of one group, drawn evenly over the groups; resumable.

    Pairs are formed inside a batch, so a batch is never split, over processes neither. A share of it are negatives:
    images of other groups with target 0, as where the text asks for a number of dogs and there are none. With one group
    there are no others. Each batch depends on the seed and its number alone.

    Source: arXiv 2412.06760 and its released data.py, of which a group may also draw its own images as negatives, and a
    small group is filled up with them; here they are a share of the batch, and of other groups.

    Example:
        >>> import torch
        >>> from tether.data.rank_groups import RankGroups
        >>> rows = {"image": torch.arange(8.0)[:, None]}
        >>> batches = RankGroups(rows, targets=torch.arange(1.0, 9.0), groups=torch.arange(8) % 2, size=5, seed=0)
        >>> batch = next(batches)
        >>> sorted(batch.extra["target"].tolist())[0], len(batch.image), int(batch.extra["negative"].sum())
        (0.0, 5, 1)
    """

    @checked
    def __init__(
        self,
        rows: Mapping[str, Tensor],
        *,
        targets: Float[Tensor, " n"],
        groups: Int[Tensor, " n"],
        size: int = 64,
        negatives: Decay = 0.2,
        seed: int = 0,
    ) -> None:
        """Take the rows.

        Args:
            rows: tensors (n, ...) by name; ``image`` becomes the batch's, all others its ``extra``.
            targets: of the rows.
            groups: number of each row's group, from 0.
            size: images of a batch, at least 2; a smaller group gives fewer.
            negatives: share of a batch.
            seed: of the draws.

        Raises:
            InputError: other numbers of rows, no group of two, targets that are not finite, or a size below 2.
        """
        lengths = {name: len(tensor) for name, tensor in {**rows, "targets": targets, "groups": groups}.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"rows: expected tensors of one length, got {lengths}")
        if not torch.isfinite(targets).all():
            raise InputError("targets: expected finite numbers, got NaN or infinity")
        if size < 2:
            raise InputError(f"size: a group of one has no order; expected at least 2, got {size}")
        self._rows, self._targets, self._groups = dict(rows), targets, groups
        self._names = [int(one) for one in groups.unique() if int((groups == one).sum()) > 1]
        if not self._names:
            raise InputError(f"groups: expected one of at least two images, got {len(targets)} images in groups of one")
        self._size, self._share, self._seed, self._done = size, negatives, seed, 0

    def __iter__(self) -> RankGroups:
        """Itself: there is one position."""
        return self

    def __next__(self) -> Batch:
        """The next group; ``extra`` has ``target``, ``group``, ``negative`` and ``draw``, a number in [0, 1) a row."""
        generator = torch.Generator().manual_seed(hash_int(str(self._done), seed=self._seed, salt="group") >> 1)
        self._done += 1

        def drawn(rows: Tensor, count: int) -> Tensor:
            return rows[torch.randperm(len(rows), generator=generator)[:count]]

        group = self._names[int(torch.randint(len(self._names), (1,), generator=generator))]
        own = (self._groups == group).nonzero().flatten()
        others = (self._groups != group).nonzero().flatten()
        full = max(2, int(self._size * (1 - self._share))) if len(others) else self._size
        positive = drawn(own, full)
        left = self._size - full if len(positive) == full else round(len(positive) * self._share / (1 - self._share))
        rows = torch.cat([positive, drawn(others, left)])
        rows = rows[torch.randperm(len(rows), generator=generator)]
        negative = self._groups[rows] != group
        some = {name: tensor[rows] for name, tensor in self._rows.items()}
        some |= {"target": self._targets[rows].masked_fill(negative, 0.0), "negative": negative}
        some |= {"group": torch.full_like(rows, group), "draw": torch.rand(len(rows), generator=generator)}
        nothing = torch.empty(len(rows), 0)
        return Batch(some.pop("image", nothing), nothing.long(), some)

    def state_dict(self) -> dict[str, Any]:
        """Plain values that let ``load_state_dict`` go on."""
        return {"done": self._done, "rows": len(self._targets), "size": self._size, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one of the same rows stopped.

        Raises:
            InputError: the position of other rows, of another size or seed.
        """
        own = self.state_dict()
        if other := [name for name in own if name != "done" and state.get(name) != own[name]]:
            raise InputError(f"{other[0]}: the position is of {state.get(other[0])!r}, these have {own[other[0]]!r}")
        self._done = int(state["done"])
