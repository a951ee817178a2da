"""The token table, which can set aside the rows that a data set never uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError


class TokenTable(nn.Module):
    """Token ids to vectors.

    After ``prune_`` only the rows in use are trained; the others rest in ``rest`` without gradient, and still answer
    when their token turns up. The state dict always holds the whole table under ``weight``, so checkpoints of a
    pruned and a whole table are the same files.
    """

    def __init__(self, size: int, *, width: int) -> None:
        """An unset table of ``size`` rows."""
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size, width))
        self.rest: nn.Parameter | None = None
        self.used: Tensor | None = None
        self._row: Tensor | None = None

    def prune_(self, ids: Iterable[int] | Tensor) -> None:
        """Train only these ids (each once, in any order); call it before the optimiser is built."""
        self.restore_()
        used = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64).cpu().unique()
        if not len(used) or used[0] < 0 or used[-1] >= self.size:
            raise InputError(f"ids: expected some in [0, {self.size}), got {len(used)} of {used[:1].tolist()} and up")
        resting = torch.ones(self.size, dtype=torch.bool).scatter_(0, used, False).nonzero()[:, 0]
        row = torch.empty(self.size, dtype=torch.int64)
        row[used] = torch.arange(len(used))
        row[resting] = torch.arange(len(used), self.size)
        whole = self.weight.detach()
        self.weight = nn.Parameter(whole[used.to(whole.device)])
        self.rest = nn.Parameter(whole[resting.to(whole.device)], requires_grad=False)
        self.used, self._row = used, row

    def restore_(self) -> None:
        """Put the whole table back under ``weight``."""
        if self.used is not None:
            self.weight = nn.Parameter(self.whole())
            self.rest = self.used = self._row = None

    def whole(self) -> Float[Tensor, "size width"]:
        """Every row in id order, detached; of a pruned table under FSDP2 every process must ask."""
        weight = self.weight.detach()
        if self.rest is None or self._row is None:
            return weight
        parts = [_gathered(part) for part in (weight, self.rest.detach())]
        return torch.cat(parts)[self._row.to(weight.device)]

    def forward(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... width"]:
        """Look tokens up."""
        if self.rest is None or self._row is None:
            return F.embedding(ids, self.weight)
        if self._row.device != ids.device:
            self._row = self._row.to(ids.device)
        row, count = self._row[ids], len(self.weight)
        traced = torch.compiler.is_compiling()  # which knows no values
        if ids.device.type == "cpu" and not traced and not bool((row >= count).any()):
            return F.embedding(row, self.weight)
        known = row < count
        trained = F.embedding(row.clamp(max=count - 1), self.weight)
        resting = F.embedding((row - count).clamp(min=0), self.rest) if len(self.rest) else trained
        return torch.where(known[..., None], trained, resting)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars and self.rest is None else self.whole()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}weight"
        if self.used is None or self.rest is None or key not in state_dict:
            super()._load_from_state_dict(
                dict(state_dict), prefix, dict(local_metadata), strict, missing_keys, unexpected_keys, error_msgs
            )
            return
        whole = state_dict[key]
        if tuple(whole.shape) != (self.size, self.weight.shape[1]):
            expected = (self.size, self.weight.shape[1])
            error_msgs.append(f"size mismatch for {key}: got {tuple(whole.shape)}, expected {expected}")
            return
        resting = torch.ones(self.size, dtype=torch.bool).scatter_(0, self.used, False)
        with torch.no_grad():  # in place: an optimiser may already hold these parameters
            self.weight.copy_(whole[self.used])
            self.rest.copy_(whole[resting])


def _gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP2 may have sharded."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    from torch.distributed.tensor import DTensor  # half a second, which one process need not pay

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
