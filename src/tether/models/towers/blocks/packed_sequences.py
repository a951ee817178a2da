"""A packed stream of sequences, and the tokens of it that a block computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pool = Literal["all", "first", "last"] | Tensor
"""All tokens are computed, or one of each sequence: the first, the last, or the one at the index given (b,)."""


@dataclass(frozen=True, slots=True)
class Runs:
    """How a packed stream of tokens (t, width) is cut into sequences: runs of rows of one length, nothing padded.

    Attributes:
        rows: number of sequences in each run.
        lengths: their common length.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens in each run."""
        return [rows * length for rows, length in zip(self.rows, self.lengths, strict=True)]

    def each(self, device: torch.device) -> Tensor:
        """Length of every sequence, in order."""
        rows, lengths = torch.tensor([self.rows, self.lengths], device=device)
        return lengths.repeat_interleave(rows)


def pooled(x: Tensor, *, runs: Runs | None, pool: Pool) -> Tensor:
    """The tokens that a block computes: (b, n, c) to (b, m, c), or packed (t, c) to (m, c)."""
    if isinstance(pool, Tensor):
        return x[torch.arange(pool.shape[0], device=x.device), pool][:, None]
    if pool == "all":
        return x
    if runs is None:
        return x[:, :1] if pool == "first" else x[:, -1:]
    parts = zip(x.split(runs.sizes), runs.rows, strict=True)
    return torch.cat([part.unflatten(0, (rows, -1))[:, 0 if pool == "first" else -1] for part, rows in parts])
