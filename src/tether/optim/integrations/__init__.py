"""Clippers in other people's training loops: one file for each library, which alone imports it."""

from __future__ import annotations

from torch import nn

from tether.core.errors import InputError


def refuse_hidden_shards(model: nn.Module) -> None:
    """Refuse a model whose gradients hide that they are parts of larger ones.

    FSDP2 (``fully_shard``) gives ``DTensor`` gradients, which are measured whole. The older wrapper gives plain
    tensors that hold one process's part, so every process would clip to a norm of its own.

    Raises:
        InputError: the model is wrapped by ``FullyShardedDataParallel``.
    """
    kinds = {type(module).__name__ for module in model.modules()}
    if "FullyShardedDataParallel" in kinds:
        raise InputError(
            "clipping: the model is sharded by FullyShardedDataParallel (FSDP1), which hides the whole gradients; "
            "use FSDP2 (fsdp_version 2, fully_shard)"
        )
