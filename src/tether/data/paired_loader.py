"""Two loaders at once: what the second gives travels in the first's batches, under other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tether.core.errors import InputError
from tether.core.types import Batch
from tether.data.loader import Loader


class SideBySide:
    """An endless iterator of batches for steps that learn from two data sets in one step.

    A batch is the first loader's, with the second's images and token ids in ``extra`` under ``PREFIX_image`` and
    ``PREFIX_text``. Both resume: ``state_dict`` holds both positions.
    """

    def __init__(self, first: Loader, *, second: Loader, prefix: str) -> None:
        """Take two loaders.

        Args:
            first: whose batches these are.
            second: what travels along.
            prefix: of its names, such as ``long``.
        """
        if not prefix.isidentifier():
            raise InputError(f"prefix: expected a name, got {prefix!r}")
        self.first, self.second, self.prefix = first, second, prefix

    def __iter__(self) -> Iterator[Batch]:
        """The pair itself: there is one position."""
        return self

    def __next__(self) -> Batch:
        """The next batch of both."""
        batch, other = next(self.first), next(self.second)
        more = {f"{self.prefix}_image": other.image, f"{self.prefix}_text": other.text}
        return replace(batch, extra={**batch.extra, **more})

    def state_dict(self) -> dict[str, Any]:
        """Both positions, plain values."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another one of the same settings stopped."""
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])

    def close(self) -> None:
        """Stop the threads of both."""
        self.first.close()
        self.second.close()
