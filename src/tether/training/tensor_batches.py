"""Batches out of tensors in memory, such as embeddings of images or ids of texts: shuffled and resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import Batch


@runtime_checkable
class Batches(Protocol, metaclass=ByAttributes):
    """An endless iterator of batches that can go on where another one stopped; ``data.loader.Loader`` is one."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself: there is one position."""
        ...

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors that let ``load_state_dict`` continue bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another one of the same rows stopped."""
        ...


class TensorBatches:
    """Rows of tensors of equal length, each pass in a new order; what does not fill a batch is left out of a pass.

    ``image`` and ``text`` become those of the batch, all others its ``extra``.

    Example:
        >>> import torch
        >>> from tether.training.tensor_batches import TensorBatches
        >>> batches = TensorBatches({"image": torch.arange(4)[:, None], "label": torch.arange(4)}, batch_size=2, seed=0)
        >>> batch = next(batches)
        >>> bool((batch.image[:, 0] == batch.extra["label"]).all()), batch.text.shape
        (True, torch.Size([2, 0]))
    """

    def __init__(self, rows: Mapping[str, Tensor], *, batch_size: int, seed: int) -> None:
        """Take the tensors.

        Args:
            rows: by name, at least one, each (n, ...).
            batch_size: rows of a batch; more than n are n.
            seed: of the order.

        Raises:
            InputError: no row, or tensors of different lengths.
        """
        lengths = {len(tensor) for tensor in rows.values()}
        if len(lengths) != 1 or not min(lengths) or batch_size < 1:
            raise InputError(f"batches: expected tensors of one length above 0, got {sorted(lengths)} rows")
        self._rows, self._count = dict(rows), lengths.pop()
        self._size, self._seed = min(batch_size, self._count), seed
        self._done = 0

    def __iter__(self) -> TensorBatches:
        """See Batches."""
        return self

    def __next__(self) -> Batch:
        """See Batches."""
        epoch, place = divmod(self._done, self._count // self._size)
        generator = torch.Generator().manual_seed(hash_int(str(epoch), seed=self._seed, salt="rows") >> 1)
        order = torch.randperm(self._count, generator=generator)[place * self._size : (place + 1) * self._size]
        some = {name: tensor[order] for name, tensor in self._rows.items()}
        self._done += 1
        nothing = torch.empty(self._size, 0)
        return Batch(some.pop("image", nothing), some.pop("text", nothing.long()), some)

    def state_dict(self) -> dict[str, Any]:
        """See Batches."""
        return {"done": self._done, "rows": self._count, "batch_size": self._size, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Batches.

        Raises:
            InputError: the position of other rows, of another batch size or of another seed.
        """
        own = self.state_dict()
        if other := [name for name in own if name != "done" and state.get(name) != own[name]]:
            raise InputError(
                f"{other[0]}: the position is of {state.get(other[0])!r}, these batches have {own[other[0]]!r}"
            )
        self._done = int(state["done"])


class ReplayedBatches:
    """An iterator that cannot say where it stands, made resumable: it is made anew, and what was had is passed over.

    For iterators whose batches cost little, such as rows of tensors in memory.
    """

    def __init__(self, make: Callable[[], Iterator[Batch]]) -> None:
        """Args: make: gives the same endless batches each time, so what it draws comes from a new generator."""
        self._make, self._running, self._done = make, make(), 0

    def __iter__(self) -> ReplayedBatches:
        """See Batches."""
        return self

    def __next__(self) -> Batch:
        """See Batches."""
        self._done += 1
        return next(self._running)

    def state_dict(self) -> dict[str, Any]:
        """See Batches."""
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Batches."""
        self._running, self._done = self._make(), 0
        while self._done < int(state["done"]):
            next(self)
