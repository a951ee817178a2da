"""Rows of all processes, with gradient: what makes a contrastive loss exact across processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyrefly: ignore[bad-override] - torch's is variadic
        grad = grad.contiguous()
        dist.all_reduce(grad)
        size = grad.shape[0] // dist.get_world_size()
        return grad[dist.get_rank() * size : (dist.get_rank() + 1) * size]


@dataclass(frozen=True, slots=True)
class Gather:
    """Concatenates equal-sized row blocks of every process, in rank order.

    The backward sums each row's gradient over processes, so that averaging parameter gradients (as DDP and FSDP2
    do) gives the gradient of the mean loss over the whole batch.
    """

    rank: int = 0
    world: int = 1

    def __call__(self, rows: Tensor) -> Tensor:
        """(b, ...) of this process to (world * b, ...) of all."""
        return rows if self.world == 1 else _GatherRows.apply(rows)  # pyrefly: ignore


LOCAL = Gather()
"""One process: rows are returned as they are."""


def process_gather() -> Gather:
    """The gather of the running process group, or ``LOCAL`` without one."""
    if dist.is_available() and dist.is_initialized():
        return Gather(dist.get_rank(), dist.get_world_size())
    return LOCAL
