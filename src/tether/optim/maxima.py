"""The largest absolute value of whole tensors, right where they are sharded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from tether.core.norms import send


@torch.no_grad()
def maxima(parts: Sequence[Tensor], *, shards: Sequence[tuple[dist.ProcessGroup, ...]]) -> Float[Tensor, " n"]:
    """Largest absolute value of each tensor; one read of the memory, and nothing waits for an accelerator.

    Args:
        parts: this process's part of each of n tensors, real; an empty part counts as 0.
        shards: for each, the groups whose processes hold the other parts, as ``core.norms.local_part`` gives them.

    Returns:
        (n,) on the first part's device, float64 where it has it; NaN where a tensor holds one.
    """
    device = parts[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    largest = torch.stack([send(largest_entry(part), device).to(wide) for part in parts])
    most_over_shards_(largest, shards=shards)
    return largest


@torch.no_grad()
def most_over_shards_(values: Float[Tensor, " n"], *, shards: Sequence[tuple[dist.ProcessGroup, ...]]) -> None:
    """Take the largest of each value over the groups that hold the other parts; one call for each group.

    A value that is not finite in any process becomes NaN where parts were compared.
    """
    groups = {id(group): group for owned in shards for group in owned}
    for key, group in groups.items():
        rows = torch.tensor([row for row, owned in enumerate(shards) if any(id(member) == key for member in owned)])
        places = send(rows, values.device)
        # A maximum over processes may lose a NaN, so what is not finite travels as infinity and comes back as NaN.
        part = values.index_select(0, places).nan_to_num(nan=torch.inf)
        dist.all_reduce(part, op=dist.ReduceOp.MAX, group=group)
        values.index_copy_(0, places, torch.where(part.isinf(), torch.nan, part))


def largest_entry(part: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Largest absolute value of a tensor, NaN if it holds one, 0 if it is empty."""
    if part.numel() == 0:
        return part.new_zeros(())
    if part.device.type == "cpu":  # four times the speed of the infinity norm there
        least, most = torch.aminmax(part)
        return torch.maximum(-least, most)
    return torch.linalg.vector_norm(part, torch.inf)
