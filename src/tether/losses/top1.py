"""Which pairs are the first maximum of their row and of their column of the logits, beside the loss that needs them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Hits:
    """Looks at the logits tile by tile; columns are compared, since ``argmax`` over them is slow."""

    def __init__(self, rows: Float[Tensor, "r d"], *, offset: int, count: int) -> None:
        """Args: rows: of the logits; offset: column of the first pair; count: of the pairs."""
        self.offset, self.count = offset, count
        self._best = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self._peak, self._before = rows.new_full((2, count), -torch.inf)

    def look_(self, logits: Float[Tensor, "h n"], *, start: int, columns: bool) -> None:
        """Take in a tile that begins at row ``start``; with ``columns`` there are no rows but those of pairs."""
        part = slice(start, start + len(logits))
        torch.argmax(logits, dim=1, out=self._best[part])
        if columns:
            paired = logits[:, self.offset : self.offset + self.count]
            square = paired[:, part]
            own_or_later = torch.ones_like(square, dtype=torch.bool).tril_()
            above = square.masked_fill(own_or_later, -torch.inf).amax(dim=0)
            self._before[part] = torch.maximum(self._peak[part], above)
            self._peak = torch.maximum(self._peak, paired.amax(dim=0))

    def of_rows(self) -> Bool[Tensor, " b"]:
        """Whether each pair is the first maximum of its row."""
        return self._best[: self.count] == self.offset + torch.arange(self.count, device=self._best.device)

    def of_columns(self, positive: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Whether each pair, whose logits these are, is the first maximum of its column."""
        return (positive >= self._peak) & (positive > self._before)
