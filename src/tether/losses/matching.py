"""Which predictions belong to which true things: the cheapest pairs of an image, each of them at most once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNKNOWN = 1e9
"""Cost of a pair that is no number, as in a step that the clipper will skip."""


def cheapest_pairs(cost: Float[Tensor, "b q t"], *, valid: Bool[Tensor, "b t"]) -> Int[Tensor, "b q"]:
    """The number of the thing that each prediction is matched with, or -1: the pairs whose costs add up to least.

    The costs of a batch are brought to the CPU once, where scipy solves each image. Of more things than predictions the
    dearest stay without; of equal costs the first pairs are taken.

    Args:
        cost: of each prediction with each thing.
        valid: where there is a thing.
    """
    from scipy.optimize import linear_sum_assignment

    costs = cost.detach().nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=-UNKNOWN).cpu().numpy()
    match = torch.full(cost.shape[:2], -1, dtype=torch.int64)
    for image, (table, some) in enumerate(zip(costs, valid.cpu().numpy(), strict=True)):
        numbers = some.nonzero()[0]
        if len(numbers):
            rows, columns = linear_sum_assignment(table[:, numbers])
            match[image, torch.from_numpy(rows)] = torch.from_numpy(numbers[columns])
    return match.to(cost.device)
