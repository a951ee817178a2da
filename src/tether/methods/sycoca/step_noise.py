"""Noise for the rows of a step, the same however the batch is spread over processes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.gather import Gather
from tether.core.hash_rng import hash_int


def step_noise(rows: int, count: int, *, step: int, seed: int, salt: str, gather: Gather) -> Float[Tensor, "b n"]:
    """Even noise in [0, 1) of (seed, step) for this process's rows, on the CPU.

    Args:
        rows: of this process.
        count: numbers of each.
        step: of the run.
        seed: of all chance.
        salt: what it is for.
        gather: which rows of the whole batch these are.
    """
    generator = torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt=salt) >> 1)
    noise = torch.rand(rows * gather.world, count, generator=generator)
    return noise[gather.rank * rows : (gather.rank + 1) * rows]
