"""Batch norm over the rows of all processes, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, checked


class SyncedBatchNorm(nn.Module):
    """Each channel with mean 0 and variance 1 over a batch that several processes share, then a factor and an offset.

    Statistics are those of the batch at hand, in float32 or wider, also in evaluation: it is for heads that are asked
    in training alone, and has no running ones. torch's ``SyncBatchNorm`` is for accelerators only.

    Example:
        >>> import torch
        >>> from tether.methods.improved_baselines.synced_batch_norm import SyncedBatchNorm
        >>> rows = SyncedBatchNorm(3)(torch.rand(8, 3))
        >>> bool(rows.mean(0).abs().max() < 1e-5)
        True
    """

    @checked
    def __init__(self, width: Count, *, affine: bool = True, eps: float = 1e-5) -> None:
        """Start with factors of 1 and offsets of 0.

        Args:
            width: channels.
            affine: whether there are factors and offsets.
            eps: added to the variance.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.eps = eps

    def forward(self, rows: Float[Tensor, "b w"], *, gather: Gather = LOCAL) -> Float[Tensor, "b w"]:
        """Rows of this process to rows of the same shape and dtype.

        Args:
            rows: as many on every process.
            gather: rows of all processes.
        """
        with torch.autocast(rows.device.type, enabled=False):
            wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
            if gather.world == 1 and len(rows) > 1:
                found = F.batch_norm(wide, None, None, self.weight, self.bias, training=True, eps=self.eps)
                return found.to(rows.dtype)
            centred = wide - gather(wide.mean(dim=0, keepdim=True)).mean(dim=0)
            variance = gather(centred.square().mean(dim=0, keepdim=True)).mean(dim=0)
            found = centred * (variance + self.eps).rsqrt()
            if self.weight is not None and self.bias is not None:
                found = found * self.weight + self.bias
            return found.to(rows.dtype)
