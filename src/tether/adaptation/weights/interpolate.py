"""A model on the way from one to another: weights between a base and what was tuned from it (WiSE-FT)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from tether.core.errors import InputError
from tether.core.ranges import Share, checked

Module = TypeVar("Module", bound=nn.Module)


@checked
@torch.no_grad()
def interpolate(base: Module, tuned: Module, *, share: Share) -> Module:
    """A copy of the tuned model with the weights ``(1 - share) * base + share * tuned``.

    At 0 its weights are the base's and at 1 the tuned model's, bit for bit. Whole numbers are the tuned model's.
    Source: arXiv 2109.01903, equation 1.

    Args:
        base: where the tuning began.
        tuned: where it ended; of the same architecture, edits merged.
        share: of the way.

    Raises:
        InputError: models whose tensors have other names or shapes.

    Example:
        >>> import torch
        >>> from tether.adaptation.weights import interpolate
        >>> base, tuned = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> with torch.no_grad():
        ...     _, _ = base.weight.fill_(1), tuned.weight.fill_(3)
        >>> interpolate(base, tuned, share=0.5).weight.item()
        2.0
    """
    first, last = base.state_dict(), tuned.state_dict()
    if {name: one.shape for name, one in first.items()} != {name: one.shape for name, one in last.items()}:
        other = sorted(set(first) ^ set(last)) or ["shapes"]
        raise InputError(f"interpolate: expected two models of one architecture, they differ in {other[0]}")
    found = copy.deepcopy(tuned)
    for name, value in found.state_dict().items():
        if value.is_floating_point():
            start, end = first[name].to(value), last[name]
            if share == 0:
                value.copy_(start)
            elif share < 1:  # what is equal stays as it is: lerp makes 0.0 of -0.0
                value.copy_(torch.where(start == end, end, torch.lerp(start, end, share)))
    return found
